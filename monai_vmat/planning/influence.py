"""How much dose every bixel (5 mm x 5 mm of the field, at every gantry angle) gives to every voxel: the plan's linear model.

Dose is linear in fluence, so the engine is asked once per bixel; a plan is then optimised with matrix products, tens of times
faster than with the engine itself. Bixels 45 mm apart share one calculation: a voxel's dose is that of the nearest, and what
a bixel scatters further is counted to its neighbour (it is computed anew, whole, in the final dose).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monai_vmat.planning.beam_model import LEAF_MM, SOURCE_TO_ISOCENTRE_MM, DoseGrid, Field, arc, dose_engine

_PERIOD = 9  # bixels between two that are calculated together


@dataclass(frozen=True)
class Influence:
    """What the openable bixels of a field give to chosen voxels.

    Args:
        dose_gy: (openable bixels, voxels) Gy per monitor unit, bixels in the order of ``openable``.
        openable: bool (angles, rows, columns): bixels that leaves may open.
        angles: gantry angles in radians, evenly spaced over the whole turn.
        field: the rectangle of bixels.
    """

    dose_gy: Tensor
    openable: Tensor
    angles: np.ndarray
    field: Field

    @property
    def column_edges_mm(self) -> Tensor:
        """Where columns of bixels begin and end, across the field."""
        return torch.from_numpy(self.field.column_edges_mm).float()


def beams_eye_view(grid: DoseGrid, angle: float, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where flat voxel indices of ``grid`` appear in the isocentre plane: (across, along the patient) in mm."""
    h, d, w = (np.stack(np.unravel_index(voxels, grid.shape)) * grid.spacing_mm).astype(float) - np.array(grid.isocentre_mm)[
        :, None
    ]
    along_beam = d * np.cos(angle) - w * np.sin(angle)
    magnified = SOURCE_TO_ISOCENTRE_MM / (SOURCE_TO_ISOCENTRE_MM + along_beam)
    return (d * np.sin(angle) + w * np.cos(angle)) * magnified, h * magnified


def field_of(grid: DoseGrid, target: np.ndarray, margin_mm: float) -> Field:
    """The smallest symmetric field that holds ``target`` ((H, D, W) bool) at every gantry angle, and two parked leaves."""
    voxels = np.flatnonzero(target)
    views = [beams_eye_view(grid, angle, voxels) for angle in np.arange(0, np.pi, np.pi / 18)]
    across = max(np.abs(u).max() for u, _ in views) + margin_mm + LEAF_MM
    along = max(np.abs(h).max() for _, h in views) + margin_mm
    return Field(leaf_pairs=2 * int(np.ceil(along / LEAF_MM)), width_mm=2 * int(np.ceil(across / LEAF_MM) * LEAF_MM))


def openable_bixels(grid: DoseGrid, field: Field, angles: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(angles, rows, columns) bool: where the target is seen, and one bixel around it."""
    rows, columns = field.bixels
    seen = np.zeros((len(angles), rows, columns), bool)
    voxels = np.flatnonzero(target)
    for view, angle in zip(seen, angles, strict=True):
        across, along = beams_eye_view(grid, angle, voxels)
        row = np.floor(along / LEAF_MM + rows / 2).astype(int).clip(0, rows - 1)
        column = np.floor(across / LEAF_MM + columns / 2).astype(int).clip(0, columns - 1)
        view[row, column] = True
        view[:] = ndimage.binary_dilation(ndimage.binary_closing(view))
    return seen


def influence(grid: DoseGrid, field: Field, angles: np.ndarray, openable: np.ndarray, voxels: np.ndarray) -> Influence:
    """Ask the engine for the dose of every openable bixel in ``voxels`` (flat indices of ``grid``)."""
    rows, columns = field.bixels
    maps = _comb_maps(field, grid.spacing_mm)
    matrix = torch.zeros(int(openable.sum()), len(voxels))
    first = 0
    engine = dose_engine(grid, field, final=False)
    density = grid.density.expand(_PERIOD, *grid.shape)
    where = torch.from_numpy(voxels)
    half = _PERIOD * LEAF_MM / 2
    for angle, opened in zip(angles, openable, strict=True):
        engine._initialize_layers(arc(field, np.array([angle]), grid.isocentre_mm))
        with torch.no_grad():
            parts = (engine.forward(None, None, None, density, fluence_maps=m[:, None]) for m in maps.split(_PERIOD))
            doses = torch.cat([part.flatten(1)[:, where] for part in parts])  # in parts that fit a processor's cache
        across, along = (torch.from_numpy(v).float() for v in beams_eye_view(grid, angle, voxels))
        r, c = (torch.from_numpy(i) for i in np.nonzero(opened))
        near_row = (along[None] - (r[:, None] + 0.5 - rows / 2) * LEAF_MM).abs() <= half
        near_column = (across[None] - (c[:, None] + 0.5 - columns / 2) * LEAF_MM).abs() <= half
        chosen = (r % _PERIOD) * _PERIOD + c % _PERIOD
        torch.mul(doses[chosen], near_row & near_column, out=matrix[first : first + len(r)])
        first += len(r)
    return Influence(matrix, torch.from_numpy(openable), angles, field)


def _comb_maps(field: Field, voxel_mm: float) -> Tensor:
    """(81, H, W) fluence: map 9 r + c has one unit on every ninth bixel from row r, column c on.

    A voxel gets the mean fluence over its own width, not the fluence at its centre: bixels are smaller than voxels.
    """
    rows, columns = field.bixels
    maps = torch.zeros(_PERIOD, _PERIOD, rows, columns)
    for r in range(_PERIOD):
        for c in range(_PERIOD):
            maps[r, c, r::_PERIOD, c::_PERIOD] = 1.0
    pixels = int(LEAF_MM)
    maps = maps.flatten(0, 1).repeat_interleave(pixels, 1).repeat_interleave(pixels, 2)[:, None]
    box = torch.ones(int(voxel_mm) + 1)
    box[0] = box[-1] = 0.5
    box /= box.sum()
    maps = torch.nn.functional.conv2d(maps, box.view(1, 1, -1, 1), padding=(len(box) // 2, 0))
    return torch.nn.functional.conv2d(maps, box.view(1, 1, 1, -1), padding=(0, len(box) // 2))[:, 0]
