"""Leaves and the fluence they let through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

from monai_vmat.planning.arcs import Arcs, sliding_windows  # noqa: E402
from monai_vmat.planning.beam_model import TRANSMISSION, Field  # noqa: E402
from monai_vmat.planning.influence import Influence  # noqa: E402

ANGLES = 12


@pytest.fixture
def bixels() -> Influence:
    """Eight rows of 5 mm, ten columns from -25 to 25 mm; the outermost cannot be opened."""
    openable = torch.zeros(ANGLES, 8, 10, dtype=torch.bool)
    openable[:, 1:-1, 1:-1] = True
    angles = np.arange(ANGLES) * 2 * math.pi / ANGLES
    return Influence(torch.eye(int(openable.sum())), openable, angles, Field(leaf_pairs=8, width_mm=50))


def image(fluence: torch.Tensor, bixels: Influence) -> torch.Tensor:
    return torch.zeros(bixels.openable.shape).masked_scatter(bixels.openable, fluence)


def constant_arcs(left: float, right: float, units: float, arcs: int = 2) -> Arcs:
    shape = (arcs, ANGLES, 8)
    return Arcs(torch.full(shape, left), torch.full(shape, right), torch.full(shape[:2], units))


def test_fluence_by_hand(bixels):
    """Leaves from -7 to 5 mm, 0.6 mm wider on each side: bixels [-10, -5] open by 2.6 / 5, [-5, 0] and [0, 5] whole."""
    fluence = image(constant_arcs(-7.0, 5.0, 3.0).fluence(bixels), bixels)[4, 3]
    opened = torch.tensor([0, 0, 0, 2.6 / 5, 1, 1, 0.6 / 5, 0, 0, 0])
    expected = 2 * 3.0 * (TRANSMISSION + (1 - TRANSMISSION) * opened)
    torch.testing.assert_close(fluence[1:-1], expected[1:-1])
    assert not fluence[[0, -1]].any()


def test_closed_leaves_only_leak(bixels):
    fluence = constant_arcs(2.0, 2.0, 5.0).fluence(bixels)
    torch.testing.assert_close(fluence, torch.full_like(fluence, 2 * 5.0 * TRANSMISSION))


def test_finer_arcs_lie_between_and_keep_their_units():
    generator = torch.Generator().manual_seed(0)
    arcs = Arcs(*(torch.rand(2, ANGLES, 8, generator=generator) for _ in range(2)), torch.rand(2, ANGLES, generator=generator))
    finer = arcs.finer()
    assert finer.left_mm.shape == (2, 2 * ANGLES, 8)
    torch.testing.assert_close(finer.monitor_units.sum(1), arcs.monitor_units.sum(1))
    torch.testing.assert_close(finer.left_mm[:, 7], 0.75 * arcs.left_mm[:, 3] + 0.25 * arcs.left_mm[:, 4])
    torch.testing.assert_close(finer.right_mm[:, 0], 0.75 * arcs.right_mm[:, 0] + 0.25 * arcs.right_mm[:, -1])


def test_gradients_move_leaves_the_right_way(bixels):
    arcs = constant_arcs(-7.0, 6.0, 1.0)
    left, right, units = (t.requires_grad_() for t in (arcs.left_mm, arcs.right_mm, arcs.monitor_units))
    Arcs(left, right, units).fluence(bixels).sum().backward()
    inner = slice(1, -1)
    assert (left.grad[..., inner] < 0).all() and (right.grad[..., inner] > 0).all() and (units.grad > 0).all()
    # a leaf that moves by 1 mm opens a fifth of a bixel
    torch.testing.assert_close(right.grad[..., inner], torch.full_like(right.grad[..., inner], (1 - TRANSMISSION) / 5))


def many_bixels() -> Influence:
    angles = 120  # of one sector: windows enough to see each step of the fluence
    openable = torch.zeros(angles, 8, 10, dtype=torch.bool)
    openable[:, 1:-1, 1:-1] = True
    return Influence(torch.eye(1), openable, np.arange(angles) * 2 * math.pi / angles, Field(leaf_pairs=8, width_mm=50))


def test_windows_deliver_the_fluence():
    """Summed over the sector, a bixel gets what its own and its right neighbour's fluence are on average, and leakage."""
    bixels = many_bixels()
    wanted = torch.tensor([0.0, 4, 9, 13, 8, 6, 10, 12, 5, 0]).expand(bixels.openable.shape)
    arcs = sliding_windows(wanted[bixels.openable] / len(bixels.angles), bixels, arcs=2, sectors=1)
    assert (arcs.right_mm >= arcs.left_mm).all() and (arcs.monitor_units > 0).all()
    delivered = image(arcs.fluence(bixels), bixels).sum(0)[2]
    of_both = (wanted[0, 2] + wanted[0, 2].roll(-1)) / 2
    leaked = TRANSMISSION * float(arcs.monitor_units.sum())
    gap = 1.2 / 50 * float(arcs.monitor_units.sum())  # leaves stand 1.2 mm further apart than they say, wherever they are
    np.testing.assert_allclose(delivered[1:-1], (1 - TRANSMISSION) * of_both[1:-1] + leaked + gap / 2, atol=1.2)


def test_every_other_sector_sweeps_backwards(bixels):
    """So a leaf stands at the end of a sector where it stands at the start of the next."""
    wanted = torch.full((int(bixels.openable.sum()),), 10.0)
    left = sliding_windows(wanted, bixels, arcs=2, sectors=3).left_mm[:, :, 1:-1]
    points = ANGLES // 3
    for sector in range(2):
        end, start = left[:, (sector + 1) * points - 1], left[:, (sector + 1) * points]
        torch.testing.assert_close(end, start)
    assert float(left[0, 0, 0]) < float(left[1, 0, 0])  # the second arc goes on where the first ends
