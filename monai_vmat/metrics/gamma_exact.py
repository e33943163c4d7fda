"""Gamma as a continuous minimum: the least gamma over every point of the trilinear interpolant, to a proven tolerance.

**The problem.** Lengths are measured in units of the distance criterion, dose differences in units of the dose criterion.
For one reference voxel with dose D, let ``u`` be the offset to a point of the evaluation grid's (closed) box and ``T(u)`` the
trilinearly interpolated evaluation dose there, ``e(u) = (T(u) - D) / criterion``. Wanted is
``G = min_u sqrt(|u|^2 + e(u)^2)``.

**What is returned** is a value ``g`` with ``G <= g <= G + tol`` (up to rounding, as the doses are float32): ``g`` is attained
at a point that was visited, so ``G <= g``; that ``g <= G + tol`` is proven below.

**Branch and bound.** The cells of the evaluation grid are visited by distance. A set of points is discarded only when a lower
bound L of ``|u|^2 + e(u)^2`` on it satisfies ``L >= (g - tol)^2``, g being the best value so far; so when all are discarded,
``g <= G + tol``. Three bounds are used. Within a cell e is a trilinear polynomial; about any point v of a box in it

    ``e(v + d) = e_v + k.d + q(d)``,    ``q(d) = a_xy dx dy + a_xz dx dz + a_yz dy dz + a_xyz dx dy dz``,    without error.

1. *A whole cell:* ``|u|^2`` is at least its squared distance, and T stays within its eight corner values.
2. *First order,* v the centre, h the half widths: ``|q| <= R = |a_xy| hx hy + |a_xz| hx hz + |a_yz| hy hz + |a_xyz| hx hy hz``.
   With ``l(u) = e_v + k.(u - v)``, ``max(0, |l| - R)^2 >= 2 m l - 2 |m| R - m^2`` for every real m, hence

       ``min_u |u|^2 + e(u)^2  >=  min_u [ |u|^2 + 2 m l(u) ] - 2 |m| R - m^2  =:  L(m)``,

   and the inner minimum splits into the axes: ``u = clamp(-m k)``. Every m gives a valid bound; m is improved by Newton steps,
   kept inside a bracket, on the concave function ``L(m) + 2 |m| R``, whose slope at m is ``2 (l(u) - m)``.
3. *Second order,* v a point near a minimum on the box. Let M_ab be the maximum over the box of ``|d^2 e / da db|``, which is
   linear in the third coordinate. Then ``|q(d)| <= sum over pairs of M_ab |d_a d_b| <= sum of M_ab (d_a^2 + d_b^2) / 2``,
   and from ``e^2 >= 2 e_v e - e_v^2``

       ``|u|^2 + e(u)^2  >=  |v|^2 + e_v^2 + sum over axes of min_d [ 2 (v_a + e_v k_a) d + (1 - |e_v| sum_b M_ab) d^2 ]``,

   d running over the box. At a minimum of a box on which the bracket is convex the sum is 0: the bound is the very value at v.
   v comes from minimising with e linearised at the previous v (Gauss-Newton steps), starting with the point of bound 2.

**Why it ends.** Bounds 1 and 3 only save work; bound 2 suffices. Let ``delta = |l(u) - m|`` where the Newton steps stop,
``N^2 = |u|^2 + m^2`` and ``eta = R + delta``. As ``l = m + (l - m)``, ``L(m) >= N^2 - 2 |m| eta >= N^2 - 2 N eta``, hence
``sqrt(max(0, L)) >= N - 2 eta`` (trivial for N < 2 eta, otherwise square it). The point u itself has a gamma of at most
``sqrt(|u|^2 + l^2) + R <= N + delta + R = N + eta``, so the best value g is no more than that and ``g - sqrt(L) <= 3 eta``.
Newton steps go on until ``delta <= tol/8``. So every box with ``R <= tol/8`` satisfies ``g - sqrt(L) <= 3/4 tol`` and is
discarded; others are halved. Halving the axis with the largest share of R shrinks ``Q = sum over pairs of M_ab h_a h_b``, which
is at least R, by a factor of 2/3 or better: with each pair counted on both its axes the largest share is at least 2/3 Q, and
half of it goes. 120 levels suffice for R up to 1e20 tol.

**Never silent.** A box that ought to be discarded and is not (Newton steps that ran out, rounding), a stack that overflows and
a voxel that uses up its budget of boxes end the search: :class:`GammaNotConverged` is raised, with a count.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from monai_vmat.metrics.gamma_grid import Grid

MAX_BOXES_PER_VOXEL = 1 << 17  # white noise needs up to 4,096 at tolerance 1e-5
_MAX_DEPTH = 128
_MAX_NEWTON_STEPS = 64
_LOCAL_STEPS = 3
_BLOCKS = 512
_STRIDE = 197  # coprime to the number of blocks: neighbouring blocks, of similar cost, go to different threads
_FASTMATH = {"nsz", "arcp", "contract", "reassoc"}  # no assumption about NaN or infinity


class GammaNotConverged(ArithmeticError):
    """The search could not prove its tolerance.

    Args:
        voxels: how many voxels were found; the search ends early.
        of: how many were searched.
        tolerance: what was to be proven.
    """

    def __init__(self, voxels: int, of: int, tolerance: float) -> None:
        super().__init__(
            f"gamma: {voxels} or more of {of} voxels did not reach the tolerance {tolerance:g}. "
            "Ask for a larger tolerance, or use mode 'sampled', and please report the case"
        )
        self.voxels, self.of, self.tolerance = voxels, of, tolerance

    def __reduce__(self):
        return type(self), (self.voxels, self.of, self.tolerance)


def cell_offsets(widths: np.ndarray, fractions: tuple[np.ndarray, ...], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The cells around a voxel that can hold points closer than ``reach``, by distance.

    Args:
        widths: edges of a cell, in units of the distance criterion.
        fractions: per axis, where voxels lie within their base cell, 0 to 1; the bounds hold for all of them.
        reach: largest distance, in the same unit.

    Returns:
        int32 (n, 3) offsets from the base cell, and float64 (n,) lower bounds of the squared distance, ascending.
    """
    axes, near = [], []
    for width, fraction in zip(widths, fractions, strict=True):
        low, high = float(fraction.min()), float(fraction.max())
        count = int(math.ceil(reach / width)) + 1
        offset = np.arange(-count, count + 1)
        axes.append(offset)
        near.append((np.maximum(0.0, np.maximum(offset - high, low - offset - 1)) * width) ** 2)
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    squared = (near[0][:, None, None] + near[1][:, None] + near[2]).ravel()
    order = np.argsort(squared, kind="stable")
    order = order[squared[order] < reach * reach]
    return offsets[order].astype(np.int32), squared[order]


@njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _clamp(value, low, high):
    return min(max(value, low), high)


@njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _value(p, x, y, z):
    """The polynomial at a point, relative to the cell's first corner."""
    return p[0] + z * p[3] + y * (p[2] + z * p[6]) + x * (p[1] + z * p[5] + y * (p[4] + z * p[7]))


@njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _drop(slope, curvature, low, high):
    """The least value of ``slope d + curvature d^2`` for d from low (<= 0) to high (>= 0)."""
    if curvature > 0.0:
        d = _clamp(-0.5 * slope / curvature, low, high)
        return d * (slope + curvature * d)
    return min(low * (slope + curvature * low), high * (slope + curvature * high))


@njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _dual(e, kx, ky, kz, xl, xh, yl, yh, zl, zh, remainder, threshold, gap):
    """Improve the bound L(m) on a box until it reaches the threshold or ``delta <= gap``; returns it and the point u."""
    m = e / (1.0 + kx * kx + ky * ky + kz * kz)
    below, above = -np.inf, np.inf
    bound = 0.0
    ux = uy = uz = 0.0
    for _ in range(_MAX_NEWTON_STEPS):
        fx, fy, fz = -m * kx, -m * ky, -m * kz
        ux, uy, uz = _clamp(fx, xl, xh), _clamp(fy, yl, yh), _clamp(fz, zl, zh)
        linear = e + kx * ux + ky * uy + kz * uz
        bound = max(bound, ux * ux + uy * uy + uz * uz + 2.0 * m * linear - 2.0 * abs(m) * remainder - m * m)
        slope = linear - m
        if bound >= threshold or abs(slope) <= gap:
            break
        curvature = 1.0
        if ux == fx:
            curvature += kx * kx
        if uy == fy:
            curvature += ky * ky
        if uz == fz:
            curvature += kz * kz
        if slope > 0.0:
            below = m
        else:
            above = m
        step = m + slope / curvature
        if not below < step < above:
            step = 0.5 * (below + above)
            if not math.isfinite(step):
                break
        m = step
    return bound, ux, uy, uz


@njit(nogil=True, cache=True, fastmath=_FASTMATH)
def _search_cell(p, ox, oy, oz, wx, wy, wz, best, threshold, tol, stop, stack, budget):
    """Search one cell; returns the best squared gamma, the threshold to beat, the boxes used and whether all is proven."""
    gap = 0.125 * tol
    boxes = 0
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3], stack[0, 4], stack[0, 5] = 0.0, wx, 0.0, wy, 0.0, wz
    depth = 1
    while depth > 0:
        if boxes >= budget:
            return best, threshold, boxes, False
        depth -= 1
        boxes += 1
        xl, xh, yl = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        yh, zl, zh = stack[depth, 3], stack[depth, 4], stack[depth, 5]
        cx, cy, cz = 0.5 * (xl + xh), 0.5 * (yl + yh), 0.5 * (zl + zh)
        hx, hy, hz = 0.5 * (xh - xl), 0.5 * (yh - yl), 0.5 * (zh - zl)
        axy, axz, ayz = p[4] + cz * p[7], p[5] + cy * p[7], p[6] + cx * p[7]
        kx, ky, kz = p[1] + cy * p[4] + cz * axz, p[2] + cx * p[4] + cz * ayz, p[3] + cx * p[5] + cy * ayz
        rxy, rxz, ryz, rxyz = abs(axy) * hx * hy, abs(axz) * hx * hz, abs(ayz) * hy * hz, abs(p[7]) * hx * hy * hz
        remainder = rxy + rxz + ryz + rxyz
        e = _value(p, cx, cy, cz) - kx * (cx + ox) - ky * (cy + oy) - kz * (cz + oz)
        xl_, xh_, yl_, yh_, zl_, zh_ = xl + ox, xh + ox, yl + oy, yh + oy, zl + oz, zh + oz
        bound, ux, uy, uz = _dual(e, kx, ky, kz, xl_, xh_, yl_, yh_, zl_, zh_, remainder, threshold, gap)
        if bound >= threshold:
            continue
        proven = False
        mxy, mxz, myz = abs(axy) + abs(p[7]) * hz, abs(axz) + abs(p[7]) * hy, abs(ayz) + abs(p[7]) * hx
        x = y = z = 0.0
        for step in range(_LOCAL_STEPS):
            x, y, z = ux - ox, uy - oy, uz - oz
            e = _value(p, x, y, z)
            square = ux * ux + uy * uy + uz * uz + e * e
            if square < best:
                best = square
                threshold = 0.0 if best < stop else max(0.0, math.sqrt(best) - tol) ** 2
            if bound >= threshold:
                proven = True
                break
            gx = p[1] + y * p[4] + z * (p[5] + y * p[7])
            gy = p[2] + x * p[4] + z * (p[6] + x * p[7])
            gz = p[3] + x * p[5] + y * (p[6] + x * p[7])
            m = abs(e)
            local = square + _drop(2.0 * (ux + e * gx), 1.0 - m * (mxy + mxz), xl_ - ux, xh_ - ux)
            local += _drop(2.0 * (uy + e * gy), 1.0 - m * (mxy + myz), yl_ - uy, yh_ - uy)
            local += _drop(2.0 * (uz + e * gz), 1.0 - m * (mxz + myz), zl_ - uz, zh_ - uz)
            if local >= threshold:
                proven = True
                break
            if step + 1 < _LOCAL_STEPS:
                e -= gx * ux + gy * uy + gz * uz
                _, ux, uy, uz = _dual(e, gx, gy, gz, xl_, xh_, yl_, yh_, zl_, zh_, 0.0, np.inf, gap)
        if proven:
            continue
        if remainder <= gap or depth + 2 > _MAX_DEPTH:
            return best, threshold, boxes, False
        # Halve the axis with the largest share of the remainder; the half that holds u comes first.
        axis = 0
        share, centre, u = rxy + rxz, cx, x
        if rxy + ryz > share:
            axis, share, centre, u = 1, rxy + ryz, cy, y
        if rxz + ryz > share:
            axis, centre, u = 2, cz, z
        for half in range(2):
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = xl, xh, yl
            stack[depth, 3], stack[depth, 4], stack[depth, 5] = yh, zl, zh
            lower = (half == 1) == (u < centre)
            stack[depth, 2 * axis + (1 if lower else 0)] = centre
            depth += 1
    return best, threshold, boxes, True


@njit(parallel=True, nogil=True, cache=True, fastmath=_FASTMATH)
def _search(
    evaluation, voxels, dose, scale, shape, base, fraction, cells, distance, widths, limit, tol, stop, budget, out, unproven
):
    """Search all voxels; see :func:`search`. ``unproven`` (_BLOCKS,) marks blocks with a voxel that missed the tolerance."""
    nx, ny, nz = evaluation.shape
    wx, wy, wz = widths[0], widths[1], widths[2]
    ix, iy, iz = 1.0 / wx, 1.0 / wy, 1.0 / wz
    total = voxels.size
    size = (total + _BLOCKS - 1) // _BLOCKS
    for task in prange(_BLOCKS):
        block = (task * _STRIDE) % _BLOCKS
        stack = np.empty((_MAX_DEPTH, 6))
        for q in range(block * size, min(total, (block + 1) * size)):
            voxel = voxels[q]
            i = voxel // (shape[1] * shape[2])
            rest = voxel - i * shape[1] * shape[2]
            j = rest // shape[2]
            k = rest - j * shape[2]
            bx, by, bz = base[0, i], base[1, j], base[2, k]
            fx, fy, fz = fraction[0, i], fraction[1, j], fraction[2, k]
            d, s = dose[q], scale[q]
            best = limit
            if fx == 0.0 and fy == 0.0 and fz == 0.0 and 0 <= bx < nx and 0 <= by < ny and 0 <= bz < nz:
                here = (evaluation[bx, by, bz] - d) * s
                best = min(best, here * here)
            threshold = 0.0 if best < stop else max(0.0, math.sqrt(best) - tol) ** 2
            boxes = 0
            proven = True
            for n in range(distance.size):
                if distance[n] >= threshold:
                    break
                a, b, c = bx + cells[n, 0], by + cells[n, 1], bz + cells[n, 2]
                if a < 0 or b < 0 or c < 0 or a >= nx - 1 or b >= ny - 1 or c >= nz - 1:
                    continue
                e0, e1 = evaluation[a, b, c] - d, evaluation[a, b, c + 1] - d
                e2, e3 = evaluation[a, b + 1, c] - d, evaluation[a, b + 1, c + 1] - d
                e4, e5 = evaluation[a + 1, b, c] - d, evaluation[a + 1, b, c + 1] - d
                e6, e7 = evaluation[a + 1, b + 1, c] - d, evaluation[a + 1, b + 1, c + 1] - d
                low = min(min(min(e0, e1), min(e2, e3)), min(min(e4, e5), min(e6, e7)))
                high = max(max(max(e0, e1), max(e2, e3)), max(max(e4, e5), max(e6, e7)))
                least = max(max(low, -high), 0.0) * s
                if distance[n] + least * least >= threshold:
                    continue
                p = (
                    s * e0,
                    s * ix * (e4 - e0),
                    s * iy * (e2 - e0),
                    s * iz * (e1 - e0),
                    s * ix * iy * (e6 - e4 - e2 + e0),
                    s * ix * iz * (e5 - e4 - e1 + e0),
                    s * iy * iz * (e3 - e2 - e1 + e0),
                    s * ix * iy * iz * (e7 - e6 - e5 - e3 + e4 + e2 + e1 - e0),
                )
                ox, oy, oz = (cells[n, 0] - fx) * wx, (cells[n, 1] - fy) * wy, (cells[n, 2] - fz) * wz
                best, threshold, used, proven = _search_cell(
                    p, ox, oy, oz, wx, wy, wz, best, threshold, tol, stop, stack, budget - boxes
                )
                boxes += used
                if not proven:
                    break
            out[q] = math.sqrt(best)
            if not proven:  # it will be an error: leave the rest of the block
                unproven[block] = 1
                break


def search(
    evaluation: np.ndarray,
    voxels: np.ndarray,
    dose: np.ndarray,
    criterion: np.ndarray,
    grid: Grid,
    distance_mm: float,
    max_gamma: float,
    tolerance: float,
    pass_only: bool = False,
) -> np.ndarray:
    """Gamma of the given reference voxels.

    Args:
        evaluation: float32 (X, Y, Z), C-ordered, at least two voxels along each axis.
        voxels: flat indices into the reference grid.
        dose, criterion: float64 per voxel, its reference dose and its dose criterion, in the unit of the evaluation.
        grid: how the two grids lie to each other.
        distance_mm: the distance criterion.
        max_gamma: values above are cut off there; also bounds the search.
        tolerance: see the module.
        pass_only: only decide whether gamma is below 1: stop at the first point that is, and search no further than 1. A
            voxel with gamma between 1 - tolerance and 1 may be called a fail.

    Returns:
        float64 (voxels,): gamma, max_gamma also where the evaluation grid is out of reach; with ``pass_only`` some value
        below 1, or 1.

    Raises:
        GammaNotConverged: when the tolerance was not proven for every voxel.
    """
    limit = 1.0 if pass_only else max_gamma
    widths = grid.spacing_mm / distance_mm
    fractions = tuple(grid.fraction[axis, :n] for axis, n in enumerate(grid.shape))
    out = np.empty(voxels.size, np.float64)
    failed = np.zeros(_BLOCKS, np.int64)
    _search(
        evaluation,
        voxels,
        dose,
        1.0 / criterion,
        np.asarray(grid.shape, np.int64),
        grid.base,
        grid.fraction,
        *cell_offsets(widths, fractions, limit),
        widths,
        limit * limit,
        tolerance,
        1.0 if pass_only else 0.0,
        MAX_BOXES_PER_VOXEL,
        out,
        failed,
    )
    if failed.any():
        raise GammaNotConverged(int(failed.sum()), voxels.size, tolerance)
    return out
