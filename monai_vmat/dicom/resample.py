"""Volumes from one axis-aligned grid onto another."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from monai_vmat.dicom.grid import Grid


def resample(volume: np.ndarray, source: Grid, target: Grid, *, average: bool = False) -> np.ndarray:
    """Linear interpolation in patient coordinates; beyond the outermost voxel centres their values hold on.

    Args:
        volume: (X, Y, Z) on ``source``.
        average: where ``target`` is coarser, average over its voxels (an image) in place of sampling at their centres (a
            dose, whose maximum must not be smoothed away).

    Returns:
        float32 (X, Y, Z) on ``target``.
    """
    for axis in range(3):
        weights = _weights(source, target, axis, average)
        moved = np.moveaxis(volume, axis, 0)
        mixed = weights @ moved.reshape(len(moved), -1).astype(np.float32, copy=False)
        volume = np.moveaxis(mixed.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(volume)


def _weights(source: Grid, target: Grid, axis: int, average: bool) -> sparse.csr_array:
    """(target voxels, source voxels) along an axis: hats as wide as the source's spacing, or the target's if it is wider."""
    ratio = target.spacing_mm[axis] / source.spacing_mm[axis]
    width = max(1.0, ratio) if average else 1.0
    last = source.shape[axis] - 1
    position = ((target.centres_mm(axis) - source.origin_mm[axis]) / source.spacing_mm[axis]).clip(0, last)
    near = np.floor(position)[:, None].astype(int) + np.arange(1 - int(np.ceil(width)), int(np.ceil(width)) + 1)
    weight = np.maximum(0.0, 1.0 - np.abs(near - position[:, None]) / width) * ((near >= 0) & (near <= last))
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(position)), near.shape[1])
    shape = (target.shape[axis], source.shape[axis])
    return sparse.csr_array((weight.ravel().astype(np.float32), (rows, near.clip(0, last).ravel())), shape=shape)
