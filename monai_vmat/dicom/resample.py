"""Volumes from one axis-aligned grid onto another, in patient coordinates."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from monai_vmat.dicom.grid import Grid


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
    """Cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711) axis by axis, kept between the two neighbours.

    Linear interpolation cuts the shoulders of a dose: with a dose grid of 2.5 mm, D95 of a target loses 0.2 to 1 Gy. Cubic
    convolution loses less than 0.1 Gy; left alone, it would overshoot at steps, as the one at the skin.

    Args:
        dose_gy: (X, Y, Z) on ``source``; beyond its outermost voxel centres their values hold on.

    Returns:
        float32 (X, Y, Z) on ``target``.
    """
    for axis in range(3):
        position = _positions(source, target, axis)
        near = np.floor(position).astype(int) + np.arange(-1, 3)
        weights = _keys(np.abs(near - position))
        moved = np.moveaxis(dose_gy, axis, 0).astype(np.float32, copy=False)
        # The outermost interval has no neighbour on one side: one in line with it makes the interpolation linear there.
        padded = np.pad(moved, ((1, 1), (0, 0), (0, 0)), mode="reflect", reflect_type="odd")
        neighbours = [padded[index] for index in (near + 1).clip(0, len(padded) - 1).T]
        mixed = np.zeros_like(neighbours[0])
        for weight, values in zip(weights.T, neighbours, strict=True):
            mixed += weight.astype(np.float32)[:, None, None] * values
        _, below, above, _ = neighbours
        dose_gy = np.moveaxis(np.clip(mixed, np.minimum(below, above), np.maximum(below, above)), 0, axis)
    return np.ascontiguousarray(dose_gy)


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


def _keys(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel at distances (in voxels) from 0 to 2."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, far)
