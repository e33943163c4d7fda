"""Soft gamma by hand, against exact gamma, and by law: what counts, what the gradients reach."""

import numpy as np
import pytest
import torch

from monai_vmat.losses.soft_gamma import SoftGamma
from monai_vmat.masks import unpack_mask
from monai_vmat.metrics.case_metrics import within_mm
from monai_vmat.metrics.gamma import gamma_analysis
from monai_vmat.transforms.signed_distance import signed_distance

SHAPE = (14, 12, 11)
SPACING = (2.0, 3.0, 4.0)


def ramp(slopes_per_mm, level=0.8):
    """(1, 1, X, Y, Z), fractions of the prescription."""
    axes = (torch.arange(float(n)) * step for n, step in zip(SHAPE, SPACING, strict=True))
    return sum((a * x for a, x in zip(slopes_per_mm, torch.meshgrid(*axes, indexing="ij"), strict=True)), torch.tensor(level))[
        None, None
    ]


@pytest.fixture
def nothing(prostate):
    """No structures: bits, and distances of absent structures."""
    return torch.zeros(1, 1, *SHAPE, dtype=torch.int16), torch.full((1, len(prostate.structure_names), *SHAPE), 50.0)


def spacing():
    return torch.tensor([SPACING])


@pytest.mark.parametrize("slopes", [(0.0, 0.0, 0.0), (0.01, 0.0, 0.0), (0.004, -0.006, 0.008)])
def test_by_hand_on_a_ramp(prostate, nothing, slopes):
    dose = ramp(slopes)
    chi = 0.05 / np.sqrt(0.03**2 + 9 * np.square(slopes).sum())
    found = SoftGamma(prostate)(dose + 0.05, dose, *nothing, spacing())
    assert float(found) == pytest.approx(chi**2 / (1 + chi**2), rel=1e-4)


def test_on_a_ramp_it_is_gamma(prostate):
    """By the exact gamma, of voxels whose 3 mm do not leave the grid; the percentage of the same 1.0."""
    dose = ramp((0.004, -0.006, 0.008))
    tolerance = SoftGamma(prostate).tolerance(dose, spacing())[0, 0].numpy()
    reference, pred = dose[0, 0].numpy(), dose[0, 0].numpy() + 0.04
    (found,) = gamma_analysis(reference, pred, SPACING, criteria=[(3, 3)], normalisation_gy=1.0, mode="exact")
    inside = (slice(3, -3),) * 3
    assert np.allclose(found.gamma[inside], (0.04 / tolerance)[inside], atol=0.011)


def test_half_at_the_border_of_pass_and_fail_and_bounded(prostate, nothing):
    dose, loss = ramp((0.0, 0.0, 0.0)), SoftGamma(prostate)
    values = [float(loss(dose + shift, dose, *nothing, spacing())) for shift in (0.0, 0.03, -0.03, 0.3, 30.0)]
    assert values[0] == 0 and values[1:3] == pytest.approx([0.5, 0.5], rel=1e-4)
    assert 0.98 < values[3] < values[4] <= 1


def test_voxels_below_the_cutoff_do_not_count(prostate, nothing, pack):
    dose = ramp((0.0, 0.0, 0.0))
    dose[:, :, 7:] = 0.099
    pred = dose.clone()
    pred[:, :, 8:] += 1.0  # 7 is steep, and below the cutoff as well
    assert float(SoftGamma(prostate)(pred, dose, *nothing, spacing())) == 0
    assert float(SoftGamma(prostate, cutoff=0.05)(pred, dose, *nothing, spacing())) > 0.3
    distances = torch.zeros_like(nothing[1])  # the target's rim reaches everywhere, also to where the dose is low
    target = pack(prostate, SHAPE, {"PTV70": slice(0, 4)})
    assert float(SoftGamma(prostate)(pred, dose, target, distances, spacing())) == 0


def test_each_target_with_its_rim_counts_as_much_as_the_body(prostate, pack):
    places = {"PTV70": (slice(5, 8), slice(4, 8), slice(4, 7)), "PTV56": (slice(2, 5), slice(4, 8), slice(4, 7))}
    structures = pack(prostate, SHAPE, {**places, "Rectum": slice(10, 12)})
    generator = torch.Generator().manual_seed(0)
    dose, error = ramp((0.002, 0.003, -0.004)), 0.1 * torch.randn(1, 1, *SHAPE, generator=generator)
    masks = {name: unpack_mask(structures[0, 0], name, prostate).numpy() for name in prostate.structure_names}
    distances = torch.stack([torch.as_tensor(50 * signed_distance(m, SPACING, absent=1.0)) for m in masks.values()])[None]
    chi = error / (0.03**2 + 9 * (0.002**2 + 0.003**2 + 0.004**2)) ** 0.5
    failed = (chi.square() / (1 + chi.square()))[0, 0].numpy()
    expected = np.mean([failed.mean(), *(failed[within_mm(masks[name], 5.0, SPACING)].mean() for name in places)])
    loss = SoftGamma(prostate, min_voxels=1)
    assert float(loss(dose + error, dose, structures, distances, spacing())) == pytest.approx(expected, rel=1e-4)
    assert loss.counts == {"structures": 2, "skipped": 0}
    few = SoftGamma(prostate, min_voxels=100)
    assert float(few(dose + error, dose, structures, distances, spacing())) == pytest.approx(failed.mean(), rel=1e-4)
    assert few.counts == {"structures": 2, "skipped": 2}


def test_without_dose_it_is_zero_and_backward_works(prostate, nothing):
    pred = torch.rand(1, 1, *SHAPE).requires_grad_()
    value = SoftGamma(prostate)(pred, torch.zeros(1, 1, *SHAPE), *nothing, spacing())
    value.backward()
    assert float(value.detach()) == 0 and not pred.grad.any()


def test_gradients_are_right_and_leave_what_cannot_be_won(prostate, nothing):
    dose = ramp((0.002, 0.003, -0.004)).double()
    pred = (dose + 0.03 * torch.randn(dose.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = SoftGamma(prostate)
    assert torch.autograd.gradcheck(lambda p: loss(p, dose, *nothing, spacing()), (pred,), fast_mode=True)
    pulls = []
    for shift in (0.02, 0.5):
        moved = (dose + shift).requires_grad_()
        loss(moved, dose, *nothing, spacing()).backward()
        pulls.append(float(moved.grad.sum()))
    assert 0 < pulls[1] < 0.01 * pulls[0]


def test_spacings_of_a_batch_are_each_ones_own(prostate, nothing):
    dose = torch.cat([ramp((0.01, 0.0, 0.0))] * 2)
    both = torch.tensor([SPACING, (4.0, 3.0, 4.0)])
    structures, distances = (torch.cat([part] * 2) for part in nothing)
    tolerance = SoftGamma(prostate).tolerance(dose, both)
    expected = [(0.03**2 + 9 * slope**2) ** 0.5 for slope in (0.01, 0.005)]  # the second's voxels are twice as wide along X
    assert tolerance.mean((1, 2, 3, 4)).tolist() == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(SoftGamma(prostate)(dose + 0.02, dose, structures, distances, both))
