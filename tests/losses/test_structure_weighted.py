"""The map of weights by hand and on real anatomy; absent structures have no boundary."""

import numpy as np
import pytest
import torch

from monai_vmat.losses.mean_squared_error import MeanSquaredError
from monai_vmat.losses.structure_weighted import StructureWeightedError
from monai_vmat.masks import pack_masks
from monai_vmat.transforms.load_case import case_masks
from monai_vmat.transforms.signed_distance import signed_distance

SHAPE = (20, 3, 4)


def distances_mm(protocol, **given):
    """Far from everything but the given structures."""
    channels = [torch.as_tensor(given.get(name, 50.0)).expand(SHAPE) for name in protocol.structure_names]
    return torch.stack(channels)[None].clone()


def test_weights_by_hand(prostate, pack):
    """The rectum begins at x = 10 mm, 2 mm voxels: boundary |distance| <= 5. PTV70 takes x < 8 and goes first."""
    x = torch.arange(20.0)[:, None, None] * 2 + 1
    rectum = torch.where(x < 20, 20 - x + 1, -(x - 20 + 1))
    structures = pack(prostate, SHAPE, {"PTV70": slice(0, 9), "Rectum": slice(10, 20)})
    loss = StructureWeightedError(prostate, min_voxels=10)
    weights = loss.weights(torch.zeros(1, 1, *SHAPE), structures, distances_mm(prostate, Rectum=rectum))[0, 0, :, 0, 0]
    assert weights.tolist() == [2.0] * 9 + [1.5] * 3 + [0.5] * 8
    pred = torch.ones(1, 1, *SHAPE)
    value = loss(pred, 0 * pred, structures, distances_mm(prostate, Rectum=rectum))
    assert float(value) == pytest.approx((9 * 2 + 3 * 1.5 + 8 * 0.5) / 20)
    published = StructureWeightedError(prostate, min_voxels=10, boundary_mm=50.0)
    weights = published.weights(pred, structures, distances_mm(prostate, Rectum=rectum))[0, 0, :, 0, 0]
    assert weights.tolist() == [2.0] * 9 + [1.5] * 11


def test_each_patient_of_a_batch_has_its_own_map(prostate, pack):
    near, far = (distances_mm(prostate, Rectum=d) for d in (0.0, 50.0))
    structures = pack(prostate, SHAPE, {"Rectum": slice(0, 19)}).repeat(2, 1, 1, 1, 1)
    loss = StructureWeightedError(prostate)
    weights = loss.weights(torch.zeros(2, 1, *SHAPE), structures, torch.cat([far, near]))
    assert (weights[0] == 0.5).all() and (weights[1] == 1.5).all()


@pytest.mark.parametrize("absent", [0.0, 50.0])
@pytest.mark.parametrize("name", ["prostate", "head_and_neck"])
def test_absent_structures_have_no_boundary(name, absent, request, pack):
    protocol = request.getfixturevalue(name)
    pred, dose = torch.rand(1, 1, *SHAPE), torch.rand(1, 1, *SHAPE)
    distances = torch.full((1, len(protocol.structures), *SHAPE), absent)
    loss = StructureWeightedError(protocol)
    assert float(loss(pred, dose, pack(protocol, SHAPE, {}), distances)) == pytest.approx(
        0.5 * float(MeanSquaredError()(pred, dose))
    )
    few = pack(protocol, SHAPE, {protocol.organs[0].name: slice(0, 8)})  # 96 voxels
    assert float(loss(pred, dose, few, distances)) == pytest.approx(0.5 * float(MeanSquaredError()(pred, dose)))
    assert loss.counts == {"structures": 1, "skipped": 1}


def test_laws(prostate, pack):
    torch.manual_seed(0)
    pred, dose = torch.rand(2, 1, *SHAPE, requires_grad=True), torch.rand(2, 1, *SHAPE)
    structures = pack(prostate, SHAPE, {"PTV70": slice(0, 9), "Rectum": slice(7, 20)}).repeat(2, 1, 1, 1, 1)
    distances = distances_mm(prostate, Rectum=torch.randn(SHAPE) * 10).repeat(2, 1, 1, 1, 1)
    ones = StructureWeightedError(prostate, target_weight=1, boundary_weight=1, background_weight=1)
    assert float(ones(pred.detach(), dose, structures, distances)) == pytest.approx(
        float(MeanSquaredError()(pred.detach(), dose))
    )
    loss = StructureWeightedError(prostate)
    value = float(loss(pred.detach(), dose, structures, distances))
    assert float(loss(dose, dose, structures, distances)) == 0.0
    assert float(loss(3 * pred.detach(), 3 * dose, structures, distances)) == pytest.approx(9 * value, rel=1e-5)
    loss(pred, dose, structures, distances).backward()
    expected = 2 * loss.weights(dose, structures, distances) * (pred.detach() - dose) / pred.numel()
    assert torch.allclose(pred.grad, expected)


def test_most_of_a_patient_is_background(prostate, make_case):
    """A pelvis of 300 mm: the targets and 5 mm about the organs are a small part of it."""
    spacing = (5.0, 5.0, 5.0)
    case = make_case(prostate, shape=(64, 64, 40), spacing=spacing)
    masks = case_masks(case, prostate)
    distances = np.stack([50 * signed_distance(masks[name], spacing) for name in prostate.structure_names])[None]
    structures = torch.as_tensor(pack_masks(masks, prostate))[None, None]
    loss = StructureWeightedError(prostate)
    weights = loss.weights(torch.zeros(structures.shape), structures, torch.as_tensor(distances))
    shares = {w: float((weights == w).float().mean()) for w in (0.5, 1.5, 2.0)}
    assert sum(shares.values()) == pytest.approx(1.0) and shares[0.5] > 0.9 and min(shares.values()) > 0.005
