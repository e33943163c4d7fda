"""From contours to masks: a voxel belongs to a structure when about half of it or more lies inside.

Contours of one plane are combined by the even-odd rule, so that a contour inside another is a hole and keyholes work. A
plane's area extends half way to its neighbours, at the ends and across gaps by half the usual distance of the planes. What
part of a voxel lies inside is exact along X and Z and sampled at 15 lines along Y. Exactly half as the limit would make
round structures too small (a sphere of 20 mm by 5 % in voxels of 3 mm); the limit is chosen so that the volume is right.

Areas times thickness have no bias, wherever the planes lie, but a small round structure has few planes: a sphere of 20 mm
diameter misses its volume by up to 1.0, 1.5 and 0.8 % on planes of 2, 2.5 and 3 mm. So the volume that the limit is chosen for
is that of areas that go on as a parabola from plane to plane and beyond the last one, if that ends before the next plane would
be; as a sphere's do. Where it does not, the structure ends flat, and half a distance it is. Shapes interpolated between planes
(linear signed distances) would cut what bulges, by 0.7, 0.9 and 1.1 % on average and 2.1, 3.1 and 3.1 % at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from monai_vmat.dicom.grid import Grid

_CROSSINGS = 2**14
_LINES = 15  # odd: the middle one runs through the voxel's centre, where the shift below decides
# Contours that run exactly through voxel centres would take both or neither of the voxels at opposite sides: a slight shift
# takes one, which keeps the volume.
_SHIFT = 1e-4
_LIMITS = (0.3, 0.7)
_EQUAL = 1e-6
_SAME_PLANE_MM = 0.1
_GAP = 1.5
_EVEN = 0.01  # steps between planes that differ by less are equal


def rasterise(contours: Sequence[np.ndarray], grid: Grid, slice_mm: float) -> np.ndarray:
    """The mask of a structure.

    Args:
        contours: at least one, each (points, 3) in patient coordinates (LPS, mm), in an axial plane.
        grid: the grid of the mask. Contours may reach beyond it.
        slice_mm: thickness of a structure that has one plane only.

    Returns:
        bool (X, Y, Z).
    """
    mask = np.zeros(grid.shape, bool)
    origin, spacing = np.asarray(grid.origin_mm), np.asarray(grid.spacing_mm)
    # Voxel k extends from k to k + 1.
    scaled = [(points - origin) / spacing + 0.5 + _SHIFT for points in contours]
    everything = np.concatenate(scaled)
    low = np.clip(np.floor(everything.min(0)), 0, grid.shape).astype(int)[:2]
    high = np.clip(np.ceil(everything.max(0)), 0, grid.shape).astype(int)[:2]
    if (high <= low).any():
        return mask
    planes = _planes(scaled, _SAME_PLANE_MM / spacing[2])
    heights = np.asarray([height for height, _ in planes])
    bounds = _slabs(heights, slice_mm / spacing[2])
    covered = np.zeros((grid.shape[2], *(high - low)[::-1]), np.float32)
    areas = []
    for (_, polygons), (bottom, top) in zip(planes, bounds, strict=True):
        area = _area(polygons, low, high)
        areas.append(area.sum(dtype=np.float64))
        for k in range(max(0, int(np.floor(bottom))), min(grid.shape[2], int(np.ceil(top)))):
            thickness = min(top, k + 1) - max(bottom, k)
            covered[k] += thickness * area
    whole = bounds[0][0] >= 0 and bounds[-1][1] <= grid.shape[2]
    volume = covered.sum(dtype=np.float64) + (_beyond_slabs(heights, areas) if whole else 0.0)
    mask[low[0] : high[0], low[1] : high[1]] = (covered >= _limit(covered, volume)).transpose(2, 1, 0)
    return mask


def _beyond_slabs(heights: np.ndarray, areas: Sequence[float]) -> float:
    """What the areas' course has more than areas times thickness, by the Euler-Maclaurin formula: ends alone count."""
    steps = np.diff(heights)
    if len(steps) < 2 or np.ptp(steps) > _EVEN * steps.mean():
        return 0.0
    return float(steps.mean()) * (_beyond_end(*areas[:3]) + _beyond_end(*areas[:-4:-1]))


def _beyond_end(last: float, second: float, third: float) -> float:
    """The part of one end, in steps: the parabola through the last three areas, to where it ends."""
    slope, curvature = (3 * last - 4 * second + third) / 2, last - 2 * second + third
    roots = np.roots([curvature / 2, slope, last])
    ends = [root.real for root in roots if abs(root.imag) < _EQUAL and 0 < root.real < 1 + _EVEN]
    if not ends:
        return 0.0
    t = min(ends)
    return last * t + slope * t**2 / 2 + curvature * t**3 / 6 - last / 2 - slope / 12


def _limit(covered: np.ndarray, volume: float) -> float:
    """Which part of a voxel must be covered for the voxels' volume to be the given one, as nearly as possible; voxels that
    are covered alike (those of a flat face) stay together."""
    low, high = _LIMITS
    doubtful = np.sort(covered[(covered >= low) & (covered < high)])[::-1]
    wanted = volume - np.count_nonzero(covered >= high)
    last_of_its_kind = np.append(doubtful[:-1] - doubtful[1:] > _EQUAL, True)[: len(doubtful)]
    counts = np.append(0, np.flatnonzero(last_of_its_kind) + 1)
    count = counts[np.abs(counts - wanted).argmin()]
    return float(doubtful[count - 1]) if count else high


def _planes(contours: Sequence[np.ndarray], tolerance: float) -> list[tuple[float, list[np.ndarray]]]:
    """Height and distinct polygons (points, 2) of each plane, from inferior to superior."""
    planes: list[tuple[float, list[np.ndarray]]] = []
    for points in sorted(contours, key=lambda p: p[0, 2]):
        if not planes or points[0, 2] - planes[-1][0] > tolerance:
            planes.append((float(points[0, 2]), []))
        polygon = points[:, :2]
        # The same contour twice would be its own hole.
        if not any(np.array_equal(polygon, other) for other in planes[-1][1]):
            planes[-1][1].append(polygon)
    return planes


def _slabs(heights: np.ndarray, single: float) -> list[tuple[float, float]]:
    """Where the slab of each plane begins and ends."""
    steps = np.diff(heights)
    usual = float(np.median(steps)) if steps.size else single
    halves = np.where(steps > _GAP * usual, usual, steps) / 2
    below = np.concatenate([[usual / 2], halves])
    above = np.concatenate([halves, [usual / 2]])
    return list(zip((heights - below).tolist(), (heights + above).tolist(), strict=True))


def _area(polygons: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which part of each pixel from ``low`` to ``high`` (X, Y) lies inside an odd number of polygons: (Y, X)."""
    width, height = high - low
    start = np.concatenate(polygons) - low
    end = np.concatenate([np.roll(p, -1, axis=0) for p in polygons]) - low
    # Lines are at y = (m + 1/2) / _LINES; an edge crosses those from its lower end (included) to its upper one (excluded).
    edges = np.sort(np.ceil(np.stack([start[:, 1], end[:, 1]]) * _LINES - 0.5).clip(0, height * _LINES), axis=0).astype(int)
    # What lies right of a crossing fills its pixel in part and all further ones: as steps from pixel to pixel, two each.
    to_pixel, to_next = np.zeros((2, height * (width + 2)))
    # Crossings take memory, of which a hostile contour has millions: they are found some lines at a time, as many as the
    # contours have points or a few more. Each is added in its turn, so that where they are parted changes no bit.
    lines = height * _LINES
    begun, ended = (np.bincount(edge, minlength=lines + 1) for edge in edges)
    crossings = np.cumsum(np.cumsum(begun - ended))
    several = np.searchsorted(crossings, np.arange(0, crossings[-1], max(_CROSSINGS, len(start)))[1:])
    small = np.min_scalar_type(lines)  # integers of 16 bits are sorted several times as fast
    for first, last in itertools.pairwise([0, *several.tolist(), lines]):
        among = edges.clip(first, last)
        count = among[1] - among[0]
        edge = np.repeat(np.arange(len(count)), count)
        line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - among[0], count)
        y = (line + 0.5) / _LINES
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        x = (x0 + (y - y0) * (x1 - x0) / (y1 - y0)).clip(0, width)
        order = np.lexsort((x, line.astype(small)))
        x, row = x[order], line[order] // _LINES
        # Along a line the inside begins at every other crossing.
        sign = np.where(np.arange(len(x)) % 2 == 0, 1.0, -1.0)
        column = np.floor(x).astype(int)
        part = x - column
        pixel = row * (width + 2) + column
        np.add.at(to_pixel, pixel, sign * (1 - part))
        np.add.at(to_next, pixel + 1, sign * part)
    to_pixel += to_next
    rows = to_pixel.reshape(height, width + 2)
    return np.cumsum(rows, axis=1, out=rows)[:, :width] / _LINES
