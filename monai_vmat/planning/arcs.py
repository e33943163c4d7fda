"""Arcs of a plan: leaf positions and monitor units at control points, the fluence they make, and their first shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_vmat.planning.beam_model import DOSIMETRIC_LEAF_GAP_MM, LEAF_MM, TRANSMISSION
from monai_vmat.planning.influence import Influence

CLOSED_MM = 0.5  # a leaf pair nearer than this is closed
_WINDOW_SPEED = 0.25  # share of the sweep that leaves travel even where fluence is constant


@dataclass(frozen=True)
class Arcs:
    """Control points at the same gantry angles in every arc.

    Args:
        left_mm, right_mm: (arcs, angles, rows) leaf positions at the isocentre; closed where they meet.
        monitor_units: (arcs, angles) per fraction.
    """

    left_mm: Tensor
    right_mm: Tensor
    monitor_units: Tensor

    def finer(self) -> Arcs:
        """Two positions between control points for one: the gantry turns on while leaves move from point to point.

        Position ``2 i`` lies a quarter of a step before control point ``i``, ``2 i + 1`` a quarter after it.
        """

        def between(values: Tensor) -> Tensor:
            before = 0.75 * values + 0.25 * values.roll(1, dims=1)
            after = 0.75 * values + 0.25 * values.roll(-1, dims=1)
            return torch.stack([before, after], dim=2).flatten(1, 2)

        return Arcs(between(self.left_mm), between(self.right_mm), between(self.monitor_units) / 2)

    def fluence(self, bixels: Influence) -> Tensor:
        """Monitor units through every bixel, for the rows of ``bixels.dose_gy``; differentiable in everything."""
        finer = self.finer()
        edges = bixels.column_edges_mm

        def uncovered(position_mm: Tensor) -> Tensor:
            return ((position_mm[..., None] - edges[:-1]) / LEAF_MM).clamp(0, 1)

        half_gap = DOSIMETRIC_LEAF_GAP_MM / 2
        is_open = (finer.right_mm - finer.left_mm > CLOSED_MM)[..., None]
        covered = (uncovered(finer.right_mm + half_gap) - uncovered(finer.left_mm - half_gap)).clamp(min=0) * is_open
        through = TRANSMISSION + (1 - TRANSMISSION) * covered
        total = (finer.monitor_units[..., None, None] * through).sum(0)
        return total.unflatten(0, (-1, 2)).sum(1)[bixels.openable]


def sliding_windows(fluence: Tensor, bixels: Influence, arcs: int, sectors: int) -> Arcs:
    """Arcs that deliver about ``fluence``: each sector's mean fluence is swept by windows that slide across the field.

    The leading (right) and the trailing (left) leaf of a row pass a place ``x`` at times whose difference is the fluence
    there: the leading one waits where fluence falls, the trailing one where it rises (Spirou and Chui 1994,
    doi:10.1118/1.597345). Leaves go evenly from one bixel's edge to the next, so a bixel gets the mean of its own and its right
    neighbour's fluence; refining mends that. The sweep is cut into as many windows as the sector has control points; the first
    arc delivers its first part, the next arc goes on, and every other sector sweeps backwards, so that leaves need not jump.

    Args:
        fluence: (bixels,) monitor units.
        bixels: where they are.
        arcs: number of arcs.
        sectors: number of sectors; it divides the number of angles.
    """
    angles, rows, columns = bixels.openable.shape
    points = angles // sectors
    full = np.zeros((angles, rows, columns))
    full[bixels.openable.numpy()] = fluence.numpy()
    edges = bixels.column_edges_mm.numpy()
    left, right = (np.zeros((arcs, angles, rows)) for _ in range(2))
    monitor_units = np.zeros((arcs, angles))
    for sector in range(sectors):
        here = slice(sector * points, (sector + 1) * points)
        steps = np.diff(np.pad(full[here].sum(0), ((0, 0), (1, 1))), axis=1)
        rises = np.maximum(steps, 0).cumsum(1)
        falls = np.maximum(-steps, 0).cumsum(1)
        travel = _WINDOW_SPEED * rises[:, -1].max() * np.linspace(0, 1, columns + 1)
        leading, trailing = falls + travel, rises + travel
        duration = trailing[:, -1].max()
        wait = (duration - trailing[:, -1]) / 2  # rows that need less time sweep in the middle of it
        count = arcs * points
        times = (np.arange(count) + 0.5) / count * duration
        for row in np.flatnonzero(bixels.openable[here].any(0).any(1).numpy()):
            x_left = np.interp(times - wait[row], trailing[row], edges).reshape(arcs, points)
            x_right = np.interp(times - wait[row], leading[row], edges).reshape(arcs, points)
            backwards = slice(None, None, -1 if sector % 2 else 1)
            left[:, here, row] = np.minimum(x_left, x_right)[:, backwards]
            right[:, here, row] = x_right[:, backwards]
        monitor_units[:, here] = duration / count
    return Arcs(*(torch.from_numpy(a).float() for a in (left, right, monitor_units)))
