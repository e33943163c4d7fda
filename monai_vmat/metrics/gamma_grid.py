"""How a reference grid lies on an evaluation grid; both are axis-aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SNAP = 1e-9  # of a cell: indices this close to a lattice plane lie on it


class Grid(NamedTuple):
    """Where the reference's indices lie; arrays (3, longest axis) are filled with 0 beyond an axis' length."""

    shape: tuple[int, ...]
    """Of the reference."""
    position_mm: np.ndarray
    """(3, n) of each reference index."""
    low_mm: np.ndarray
    """(3,) the first plane of the evaluation grid."""
    high_mm: np.ndarray
    """(3,) its last plane."""
    spacing_mm: np.ndarray
    """(3,) of the evaluation grid."""
    base: np.ndarray
    """int64 (3, n) cell of the evaluation grid in which each reference index lies; may lie outside."""
    fraction: np.ndarray
    """(3, n) where in that cell, from 0 to below 1."""
    same_lattice: bool
    """Whether both have the same spacing, so that the fraction is the same for all indices of an axis."""

    def outside_mm(self, voxels: np.ndarray) -> np.ndarray:
        """Distance in mm of reference voxels (flat indices) from the evaluation grid's box; 0 inside."""
        squared = np.zeros(voxels.size)
        for axis, index in enumerate(np.unravel_index(voxels, self.shape)):
            x = self.position_mm[axis]
            squared += np.maximum(0.0, np.maximum(self.low_mm[axis] - x, x - self.high_mm[axis]))[index] ** 2
        return np.sqrt(squared)

    @property
    def covered(self) -> bool:
        """Whether the evaluation grid's box covers the whole reference grid."""
        last = [self.position_mm[axis, n - 1] for axis, n in enumerate(self.shape)]
        return bool((self.low_mm <= self.position_mm[:, 0]).all() and (last <= self.high_mm).all())


def relate_grids(
    shape: Sequence[int],
    spacing_mm: np.ndarray,
    origin_mm: np.ndarray,
    evaluation_shape: Sequence[int],
    evaluation_spacing_mm: np.ndarray,
    evaluation_origin_mm: np.ndarray,
) -> Grid:
    """Locate the reference's indices on the evaluation grid; origins are the centres of voxel (0, 0, 0) in mm."""
    longest = max(shape)
    position, fraction = np.zeros((3, longest)), np.zeros((3, longest))
    base = np.zeros((3, longest), np.int64)
    same = bool((np.abs(spacing_mm / evaluation_spacing_mm - 1) * longest < _SNAP).all())
    for axis, n in enumerate(shape):
        index = np.arange(n)
        position[axis, :n] = origin_mm[axis] + index * spacing_mm[axis]
        first = (origin_mm[axis] - evaluation_origin_mm[axis]) / evaluation_spacing_mm[axis]
        if same:
            place = _snap(np.full(n, first))
        else:
            place = _snap(first + index * (spacing_mm[axis] / evaluation_spacing_mm[axis]))
        cell = np.floor(place)
        base[axis, :n] = cell.astype(np.int64) + (index if same else 0)
        fraction[axis, :n] = place - cell
    high = evaluation_origin_mm + (np.asarray(evaluation_shape) - 1) * evaluation_spacing_mm
    return Grid(tuple(shape), position, evaluation_origin_mm, high, evaluation_spacing_mm, base, fraction, same)


def _snap(place: np.ndarray) -> np.ndarray:
    nearest = np.round(place)
    return np.where(np.abs(place - nearest) < _SNAP, nearest, place)
