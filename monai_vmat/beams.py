"""What the beams can do: the dose of an open field, and of the best fluence, from fixed gantry angles, in a ray model.

A dose is linear in the fluence of each beam's bixels. Here a bixel is a ray that is attenuated and diverges but does not
scatter, so that the dose in a voxel is a sum of one interpolated fluence value a beam, and the best fluence of a whole patient
takes a second. The result tells a network what local filters find hard to see: where beams run and cross, and which organs
they cannot avoid. It is a feature, not a dose to be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import ndimage

from monai_vmat.errors import InputError

SOURCE_MM = 1000.0
BIXEL_MM = 5.0
# A photon beam of 6 MV: a ratio of 0.67 between 20 cm and 10 cm deep (TPR20,10), and the maximum 15 mm deep.
ATTENUATION_PER_MM = 0.0040
BUILD_UP_PER_MM = 0.28
# Chosen on ten training patients of OpenKBP: what is near to their plans before a network has seen them.
_ORGAN_WEIGHT, _BODY_WEIGHT, _STEPS, _BLUR_MM = 0.02, 0.002, 40, 4.0
_STEP_MM = 4.0  # of the density's integral along a ray


@dataclass(frozen=True)
class Rays:
    """The linear model of V voxels in B beams, whose fluence is (B, U, W): across the beam and along the patient.

    Args:
        corner: (B, V) flat index of the first of the four fluence values around the voxel's projection.
        across, along: (B, V) where between them, 0 to 1.
        gain: (B, V) dose of a unit of fluence; 0 beyond the field.
        openable: float32 (B, U, W), 1 where a ray may meet the target.
    """

    corner: np.ndarray
    across: np.ndarray
    along: np.ndarray
    gain: np.ndarray
    openable: np.ndarray

    def dose(self, fluence: np.ndarray) -> np.ndarray:
        """(V,) dose of a fluence (B, U, W)."""
        dose = np.zeros(self.gain.shape[1], np.float32)
        _add_dose(self.corner, self.across, self.along, self.gain, fluence.reshape(-1), fluence.shape[2], dose)
        return dose

    def back_project(self, voxels: np.ndarray) -> np.ndarray:
        """(B, U, W): the transpose of :meth:`dose`, on the openable bixels."""
        fluence = np.zeros(self.openable.size, np.float32)
        _add_fluence(self.corner, self.across, self.along, self.gain, voxels, self.openable.shape[2], fluence)
        return fluence.reshape(self.openable.shape) * self.openable


def trace_rays(
    density: np.ndarray, affine: np.ndarray, voxels: np.ndarray, target: np.ndarray, gantry_angles_deg: Sequence[float]
) -> Rays:
    """The rays through chosen voxels, the isocentre in the middle of the target.

    Args:
        density: (X, Y, Z) relative to water.
        affine: (4, 4) voxel indices to RAS in mm.
        voxels: (V, 3) indices.
        target: bool (V,), which of them are target voxels.
        gantry_angles_deg: IEC angles for a supine patient, head first: 0 from the front, 90 from the patient's left.
    """
    to_mm = affine[:3, :3].astype(np.float64)
    to_index = np.linalg.inv(to_mm)
    position = voxels @ to_mm.T
    isocentre = position[target].mean(0)
    position -= isocentre
    views = []
    for angle in np.deg2rad(gantry_angles_deg):
        to_source = np.array([-np.sin(angle), np.cos(angle), 0.0])
        side = np.array([np.cos(angle), np.sin(angle), 0.0])
        from_source = SOURCE_MM - position @ to_source
        magnified = SOURCE_MM / from_source / BIXEL_MM
        views.append((to_source, side, from_source, position @ side * magnified, position[:, 2] * magnified))
    half = [int(np.ceil(max(np.abs(view[axis][target]).max() for view in views))) + 2 for axis in (3, 4)]
    size = (len(views), 2 * half[0] + 1, 2 * half[1] + 1)

    corner = np.zeros((len(views), len(voxels)), np.int32)
    across, along, gain = np.zeros((3, *corner.shape), np.float32)
    openable = np.zeros(size, np.float32)
    for beam, (to_source, side, from_source, u, w) in enumerate(views):
        u, w = u + half[0], w + half[1]
        inside = (u >= 0) & (w >= 0) & (u < size[1] - 1) & (w < size[2] - 1)
        first_u, first_w = (np.where(inside, np.floor(c), 0).astype(np.int32) for c in (u, w))
        for du in (0, 1):
            for dw in (0, 1):
                openable[beam, first_u[target] + du, first_w[target] + dw] = 1
        near = from_source.min() - _STEP_MM
        steps = int(np.ceil((from_source.max() - near) / _STEP_MM)) + 2
        axes = np.stack([to_index @ to_source, to_index @ side, to_index[:, 2]])
        depths = _depths_along_rays(density, axes, to_index @ isocentre, half[0], half[1], near, steps)
        depth = ndimage.map_coordinates(depths, [u, w, (from_source - near) / _STEP_MM], order=1, mode="nearest")
        corner[beam] = (beam * size[1] + first_u) * size[2] + first_w
        across[beam], along[beam] = np.where(inside, u - first_u, 0), np.where(inside, w - first_w, 0)
        gain[beam] = inside * depth_dose(depth) * (SOURCE_MM / from_source) ** 2
    return Rays(corner, across, along, gain, openable)


def depth_dose(depth_mm: np.ndarray) -> np.ndarray:
    """Build-up and attenuation of a unit of fluence behind ``depth_mm`` of water."""
    return np.exp(-ATTENUATION_PER_MM * depth_mm) * (1 - np.exp(-BUILD_UP_PER_MM * depth_mm))


def best_fluence(rays: Rays, goal: np.ndarray, weight: np.ndarray, steps: int) -> np.ndarray:
    """(B, U, W) fluence >= 0 towards the least ``sum(weight * (dose - goal)^2)``.

    Projected gradient steps, scaled by the diagonal that majorises the Hessian of a non-negative model, with Nesterov's
    momentum (Beck and Teboulle 2009, doi:10.1137/080716542). Few steps also keep the fluence smooth.
    """
    curvature = rays.back_project(weight * rays.dose(rays.openable))
    step = np.where(rays.openable > 0, 1 / np.maximum(curvature, 1e-6 * curvature.max()), 0).astype(np.float32)
    fluence = rays.openable * np.float32(goal.max() / max(rays.dose(rays.openable)[goal > 0].mean(), 1e-6))
    ahead, momentum = fluence, 1.0
    for _ in range(steps):
        moved = np.maximum(ahead - step * rays.back_project(weight * (rays.dose(ahead) - goal)), 0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + np.float32((momentum - 1) / following) * (moved - fluence)
        fluence, momentum = moved, following
    return fluence


def beam_doses(
    ct_hu: np.ndarray,
    affine: np.ndarray,
    region: np.ndarray,
    goal: np.ndarray,
    organs: np.ndarray,
    gantry_angles_deg: Sequence[float],
) -> np.ndarray:
    """What evenly opened beams, and beams of the best fluence, give to a patient.

    Args:
        ct_hu: (X, Y, Z) in Hounsfield units.
        affine: (4, 4) voxel indices to RAS in mm.
        region: bool (X, Y, Z), where dose is wanted.
        goal: (X, Y, Z) prescribed dose, 0 outside the targets, in any unit.
        organs: bool (X, Y, Z), all organs to be spared.
        gantry_angles_deg: see :func:`trace_rays`.

    Returns:
        float32 (2, X, Y, Z) in the unit of ``goal``: the open beams' dose, its mean in the targets the goal's, and that of the
        best fluence; 0 outside region and targets.

    Raises:
        InputError: when there is no target.
    """
    if not (goal > 0).any():
        raise InputError("beams", "there is no target voxel to aim at", "Add a target structure with a prescription")
    wanted = region | (goal > 0)
    density = np.clip(1 + ct_hu.astype(np.float32) / 1000, 0, 2)
    aim = goal[wanted].astype(np.float32)
    target = aim > 0
    rays = trace_rays(density, affine, np.argwhere(wanted), target, gantry_angles_deg)
    weight = np.where(organs[wanted], np.float32(_ORGAN_WEIGHT), np.float32(_BODY_WEIGHT))
    weight[target] = 1.0
    scale = aim.max()
    fluence = best_fluence(rays, aim / scale, weight, _STEPS)
    sigma = (0, _BLUR_MM / BIXEL_MM, _BLUR_MM / BIXEL_MM)
    doses = np.zeros((2, *wanted.shape), np.float32)
    opened = rays.dose(rays.openable)
    doses[0][wanted] = opened * (aim[target].mean() / opened[target].mean())
    doses[1][wanted] = scale * rays.dose(ndimage.gaussian_filter(fluence, sigma))
    return doses


@njit(nogil=True, cache=True)
def _depths_along_rays(density, axes, isocentre, half_u, half_w, near, steps):
    """(U, W, steps) mm of water between the source and points on the rays of a fluence grid; density of the nearest voxel."""
    depths = np.empty((2 * half_u + 1, 2 * half_w + 1, steps), np.float32)
    nx, ny, nz = density.shape
    for i in range(depths.shape[0]):
        for j in range(depths.shape[1]):
            u, w = (i - half_u) * BIXEL_MM / SOURCE_MM, (j - half_w) * BIXEL_MM / SOURCE_MM
            half_step = 0.5 * _STEP_MM * np.sqrt(1 + u * u + w * w)
            passed = 0.0
            for k in range(steps):
                t = near + k * _STEP_MM
                x = int(np.floor(isocentre[0] + (SOURCE_MM - t) * axes[0, 0] + t * (u * axes[1, 0] + w * axes[2, 0]) + 0.5))
                y = int(np.floor(isocentre[1] + (SOURCE_MM - t) * axes[0, 1] + t * (u * axes[1, 1] + w * axes[2, 1]) + 0.5))
                z = int(np.floor(isocentre[2] + (SOURCE_MM - t) * axes[0, 2] + t * (u * axes[1, 2] + w * axes[2, 2]) + 0.5))
                here = 0.0
                if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
                    here = half_step * density[x, y, z]
                depths[i, j, k] = passed + here
                passed += 2 * here
    return depths


@njit(nogil=True, cache=True, fastmath=True)
def _add_dose(corner, across, along, gain, fluence, width, dose):
    for b in range(corner.shape[0]):
        for v in range(corner.shape[1]):
            i, a, c = corner[b, v], across[b, v], along[b, v]
            low = fluence[i] + c * (fluence[i + 1] - fluence[i])
            high = fluence[i + width] + c * (fluence[i + width + 1] - fluence[i + width])
            dose[v] += gain[b, v] * (low + a * (high - low))


@njit(nogil=True, cache=True, fastmath=True)
def _add_fluence(corner, across, along, gain, voxels, width, fluence):
    for b in range(corner.shape[0]):
        for v in range(corner.shape[1]):
            i, a, c = corner[b, v], across[b, v], along[b, v]
            share = gain[b, v] * voxels[v]
            fluence[i] += share * (1 - a) * (1 - c)
            fluence[i + 1] += share * (1 - a) * c
            fluence[i + width] += share * a * (1 - c)
            fluence[i + width + 1] += share * a * c
