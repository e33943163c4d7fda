"""Volumes from one axis-aligned grid onto another, in patient coordinates."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

from monai_vmat.dicom.grid import Grid

_REACH = 12  # a voxel's share in the coefficient of another falls to 0.27 from one to the next: 1e-7 is left


def resample_image(volume: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Linear interpolation, averaged over the target's voxels along the axes where they are larger than the source's.

    Args:
        volume: (X, Y, Z) on ``source``; beyond its outermost voxel centres their values hold on.

    Returns:
        float32 (X, Y, Z) on ``target``.
    """
    for axis in range(3):
        weights = _averaging_weights(source, target, axis)
        moved = np.moveaxis(volume, axis, 0)
        mixed = weights @ moved.reshape(len(moved), -1).astype(np.float32, copy=False)
        volume = np.moveaxis(mixed.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(volume)


def resample_dose(dose_gy: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Cubic B-spline through the voxels (Unser et al. 1993, doi:10.1109/78.193220), kept between the eight around it.

    Left alone, a spline overshoots at steps, as the one at the skin. Kept between the neighbours of one axis after the other,
    it would lose what it is used for: linear interpolation cuts the shoulders of a dose, cubic convolution smooths it.

    Args:
        dose_gy: (X, Y, Z) on ``source``; beyond its outermost voxel centres their values hold on.

    Returns:
        float32 (X, Y, Z) on ``target``.
    """
    dose = low = high = dose_gy.astype(np.float32, copy=False)
    for axis in range(3):
        position = _positions(source, target, axis)
        near = np.floor(position).astype(int) + np.arange(-1, 3)
        weights = _b_spline(np.abs(near - position)).astype(np.float32)
        # Beyond the ends the dose goes on in line with itself, as far as it has a say in the spline.
        padding = [(_REACH, _REACH) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(dose, padding, mode="reflect", reflect_type="odd")
        coefficients = np.moveaxis(ndimage.spline_filter1d(padded, 3, axis, np.float32), axis, 0)
        mixed = sum(weight[:, None, None] * coefficients[index] for weight, index in zip(weights.T, near.T + _REACH))
        dose = np.moveaxis(mixed, 0, axis)
        below, above = near.T[1:3].clip(0, source.shape[axis] - 1)
        low = np.minimum(low.take(below, axis), low.take(above, axis))
        high = np.maximum(high.take(below, axis), high.take(above, axis))
    return np.ascontiguousarray(np.clip(dose, low, high))


def _positions(source: Grid, target: Grid, axis: int) -> np.ndarray:
    """Where the target's voxels lie among the source's: (target voxels, 1), as fractional indices."""
    index = (target.centres_mm(axis) - source.origin_mm[axis]) / source.spacing_mm[axis]
    return index.clip(0, source.shape[axis] - 1)[:, None]


def _averaging_weights(source: Grid, target: Grid, axis: int) -> sparse.csr_array:
    """(target voxels, source voxels) along an axis, rows summing to 1."""
    last = source.shape[axis] - 1
    width = target.spacing_mm[axis] / source.spacing_mm[axis]
    position = _positions(source, target, axis)
    reach = 1 + int(np.ceil(width / 2))
    near = np.floor(position).astype(int) + np.arange(1 - reach, reach + 1)
    if width > 1:
        weight = (_hat_integral(position + width / 2 - near) - _hat_integral(position - width / 2 - near)) / width
    else:
        weight = np.maximum(0.0, 1.0 - np.abs(near - position))
    rows = np.repeat(np.arange(len(position)), near.shape[1])
    # What would come from beyond the outermost voxels comes from them.
    entries = (weight.ravel().astype(np.float32), (rows, near.clip(0, last).ravel()))
    return sparse.csr_array(entries, shape=(target.shape[axis], source.shape[axis]))


def _hat_integral(end: np.ndarray) -> np.ndarray:
    """Integral of max(0, 1 - |t|), what a voxel adds to a linear interpolation at distance t, from -1 to ``end``."""
    end = end.clip(-1.0, 1.0)
    return np.where(end < 0, (1 + end) ** 2 / 2, 1 - (1 - end) ** 2 / 2)


def _b_spline(distance: np.ndarray) -> np.ndarray:
    """The cubic B-spline at distances (in voxels) from 0 to 2."""
    near = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, near, (2 - distance) ** 3 / 6)
