"""The DVH loss by hand, at equality, with absent and small structures, for both protocols."""

import pytest
import torch

from monai_vmat.losses.dvh import DVHLoss
from monai_vmat.protocol import Goal

SHAPE = (6, 5, 4)
SPACING = torch.tensor([[10.0, 10.0, 10.0]])  # a voxel is 1 cc
TARGET, ORGAN = slice(0, 2), slice(2, 4)  # 40 voxels each


def volume(value):
    return torch.full((1, 1, *SHAPE), value)


def dvh(protocol, **options):
    return DVHLoss(protocol, min_voxels=10, **options)


def test_each_part_by_hand(prostate, pack):
    """PTV70 at 63 Gy for 66.5: 3.5 / 70. Rectum at 66.5 Gy: V70 0, V60 1 - .25, V50 1 - .5; Dmean 66.5 - 35."""
    structures = pack(prostate, SHAPE, {"PTV70": TARGET, "Rectum": ORGAN})
    dose, pred = volume(1.0), volume(0.9)
    dose[:, :, ORGAN], pred[:, :, ORGAN] = 0.5, 0.95
    loss = dvh(prostate)
    total = loss(pred, dose, structures, torch.tensor([[70.0, 0.0]]), SPACING)
    assert {k: float(v) for k, v in loss.figures.items()} == pytest.approx(
        {"target_shortfall": 0.05, "volume_excess": (0.75 + 0.5) / 3, "mean_excess": 0.45}, abs=1e-6
    )
    assert float(total) == pytest.approx(10 * 0.05 + 2 * 1.25 / 3 + 0.45, abs=1e-5)
    assert loss.counts == {"structures": 2, "skipped": 0, "cut": 2}


def test_the_patients_own_prescription_counts(prostate, pack):
    structures = pack(prostate, SHAPE, {"PTV70": TARGET, "PTV56": ORGAN})
    dose, pred = volume(1.0), volume(0.7)
    for rx, expected in (([70.0, 56.0], [0.25, 0.06]), ([60.0, 50.0], [0.95 * 60 / 70 - 0.7, 0.0]), ([70.0, 0.0], [0.25])):
        loss = dvh(prostate)
        loss(pred, dose, structures, torch.tensor([rx]), SPACING)
        assert float(loss.figures["target_shortfall"]) == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_limits_come_from_the_protocol(prostate, pack, with_goals):
    """A volume goal in cc, a mean goal, a coverage goal; and no more is asked than the delivered plan attained."""
    protocol = with_goals(
        prostate,
        Goal("Bowel", "V45Gy", "<=", 10, "cc"),
        Goal("Bowel", "Dmean", "<=", 35, "Gy"),
        Goal("PTV70", "D95", ">=", 63, "Gy"),
    )
    structures = pack(protocol, SHAPE, {"PTV70": TARGET, "Bowel": ORGAN})
    pred, rx = volume(0.8), torch.tensor([[70.0, 0.0]])
    loss = dvh(protocol)
    loss(pred, volume(0.1).index_fill_(2, torch.tensor([0, 1]), 1.0), structures, rx, SPACING)
    assert {k: float(v) for k, v in loss.figures.items()} == pytest.approx(
        {"target_shortfall": 0.1, "volume_excess": 1 - 10 / 40, "mean_excess": 0.8 - 0.5}, abs=1e-6
    )
    for dose in (pred, pred.clone().index_fill_(2, torch.tensor([2, 3]), 0.9).index_fill_(2, torch.tensor([0, 1]), 0.7)):
        assert float(loss(pred, dose, structures, rx, SPACING)) == 0.0
        assert float(dvh(protocol, relax_to_reference=False)(pred, dose, structures, rx, SPACING)) > 1.0


@pytest.mark.parametrize("name", ["prostate", "head_and_neck"])
def test_zero_at_equality_and_absent_structures_add_nothing(name, request, pack):
    protocol = request.getfixturevalue(name)
    rx = torch.tensor([[t.prescription_gy for t in protocol.targets]])
    torch.manual_seed(0)
    dose = torch.rand(1, 1, *SHAPE)
    everywhere = {s.name: slice(i % 4, i % 4 + 2) for i, s in enumerate(protocol.structures)}
    loss = dvh(protocol)
    assert float(loss(dose, dose, pack(protocol, SHAPE, everywhere), rx, SPACING)) == 0.0
    assert float(loss(torch.zeros_like(dose), dose, pack(protocol, SHAPE, everywhere), rx, SPACING)) > 0.1
    pred = torch.rand(1, 1, *SHAPE, requires_grad=True)
    value = loss(pred, dose, pack(protocol, SHAPE, {}), rx, SPACING)
    value.backward()
    assert float(value.detach()) == 0.0 and not pred.grad.any() and loss.counts["structures"] == 0 and loss.figures == {}
    one = {protocol.organs[0].name: ORGAN}
    with_one = float(loss(pred.detach(), 0 * dose, pack(protocol, SHAPE, one), rx, SPACING))
    assert with_one > 0 and set(loss.figures) <= {"volume_excess", "mean_excess"}


def test_a_few_voxels_are_skipped_and_counted(prostate, pack):
    masks = {"PTV70": TARGET, "Rectum": (0, 0, slice(0, 3))}
    loss = dvh(prostate)
    loss(volume(0.5), volume(0.4), pack(prostate, SHAPE, masks), torch.tensor([[70.0, 56.0]]), SPACING)
    assert loss.counts == {"structures": 2, "skipped": 1, "cut": 1} and set(loss.figures) == {"target_shortfall"}
    standard = DVHLoss(prostate)
    assert standard.min_voxels == 100


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("end", ["first", "last"])
def test_structures_that_touch_the_border_are_counted(axis, end, prostate, pack):
    where = [slice(1, -1)] * 3
    if axis is not None:
        where[axis] = slice(0, -1) if end == "first" else slice(1, None)
    loss = dvh(prostate)
    loss(volume(0.5), volume(0.4), pack(prostate, SHAPE, {"PTV70": tuple(where)}), torch.tensor([[70.0, 56.0]]), SPACING)
    assert loss.counts == {"structures": 1, "skipped": 0, "cut": int(axis is not None)}


def test_each_patient_of_a_batch_counts_by_itself(prostate, pack):
    structures = torch.cat([pack(prostate, SHAPE, {"PTV70": TARGET}), pack(prostate, SHAPE, {"PTV70": ORGAN})])
    pred, dose = torch.cat([volume(0.9), volume(0.5)]), torch.ones(2, 1, *SHAPE)
    loss = dvh(prostate)
    loss(pred, dose, structures, torch.tensor([[70.0, 0.0], [35.0, 0.0]]), SPACING.repeat(2, 1))
    assert float(loss.figures["target_shortfall"]) == pytest.approx((0.05 + 0.0) / 2)


def test_gradient_descent_lifts_the_target_and_spares_the_organ(prostate, pack):
    structures = pack(prostate, SHAPE, {"PTV70": TARGET, "Rectum": ORGAN})
    torch.manual_seed(0)
    dose = volume(1.0)
    dose[:, :, ORGAN] = 0.3
    pred = (volume(0.85) + 0.05 * torch.randn(1, 1, *SHAPE)).requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.02)
    loss, rx = dvh(prostate), torch.tensor([[70.0, 0.0]])
    first = float(loss(pred, dose, structures, rx, SPACING).detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss(pred, dose, structures, rx, SPACING).backward()
        optimizer.step()
    assert float(loss(pred, dose, structures, rx, SPACING).detach()) < 0.02 * first


def test_gradcheck(prostate, pack, with_goals):
    """Without volume goals, whose ramp is set anew for every dose (see test_soft_dvh.py)."""
    protocol = with_goals(prostate, Goal("Rectum", "Dmean", "<=", 35, "Gy"))
    structures = pack(protocol, SHAPE, {"PTV70": TARGET, "Rectum": ORGAN})
    torch.manual_seed(0)
    pred, dose = (0.8 + 0.1 * torch.randn(1, 1, *SHAPE).double()).requires_grad_(), torch.ones(1, 1, *SHAPE).double()
    dose[:, :, ORGAN] = 0.5
    assert torch.autograd.gradcheck(lambda p: dvh(protocol)(p, dose, structures, torch.tensor([[70.0, 0.0]]), SPACING), pred)
