"""The DVH error is OpenKBP's DVH score, whatever the spacing; what it says of patches without structures; its gradients."""

import numpy as np
import pytest
import torch

from monai_vmat.losses.dvh_error import DVHError
from monai_vmat.masks import unpack_mask
from monai_vmat.metrics.openkbp import dvh_metrics, dvh_score

SHAPE = (12, 10, 9)
PLACES = {"PTV70": slice(0, 4), "PTV56": slice(3, 7), "Brainstem": slice(5, 6), "Mandible": slice(7, 12)}


def doses(seed, batch=1):
    return torch.rand(batch, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 2.5), (2.0, 2.0, 2.0), (5.0, 5.0, 5.0)])  # D_0.1cc: of 2, 12 and 1 voxels
def test_equals_the_challenges_score(head_and_neck, pack, spacing):
    structures = pack(head_and_neck, SHAPE, PLACES)
    pred, dose = doses(1), doses(2)
    masks = {name: unpack_mask(structures[0, 0], name, head_and_neck).numpy() for name in PLACES}
    ours, theirs = (
        dvh_metrics(70 * d[0, 0].double().numpy(), masks, np.prod(spacing) / 1000, head_and_neck) for d in (pred, dose)
    )
    expected = dvh_score([{name: ours[name] - theirs[name] for name in theirs}])
    assert len(theirs) == 2 * 3 + 2 * 2
    found = DVHError(head_and_neck, band=0.0, min_voxels=1)(pred, dose, structures, torch.tensor([spacing]))
    assert 70 * float(found) == pytest.approx(expected, rel=1e-5)


def test_patients_of_a_batch_count_by_their_metrics(head_and_neck, pack):
    """As in the challenge's score: two patients' metrics are pooled, here 3 of one and 4 of the other."""
    structures = torch.cat(
        [
            pack(head_and_neck, SHAPE, {"PTV70": PLACES["PTV70"]}),
            pack(head_and_neck, SHAPE, {n: PLACES[n] for n in ("Brainstem", "Mandible")}),
        ]
    )
    pred, dose = doses(1, 2), doses(2, 2)
    spacing = torch.tensor([[4.0, 4.0, 2.5]] * 2)
    loss = DVHError(head_and_neck, min_voxels=1)
    one, two = (loss(pred[i : i + 1], dose[i : i + 1], structures[i : i + 1], spacing[:1]) for i in range(2))
    torch.testing.assert_close(loss(pred, dose, structures, spacing), (3 * one + 4 * two) / 7)


def test_too_much_counts_as_too_little(head_and_neck, pack):
    structures, dose = pack(head_and_neck, SHAPE, PLACES), doses(2)
    loss = DVHError(head_and_neck, min_voxels=1)
    for shift in (0.1, -0.1):
        assert float(loss(dose + shift, dose, structures, torch.tensor([[4.0, 4.0, 2.5]]))) == pytest.approx(0.1, rel=1e-5)
    assert float(loss(dose, dose, structures, torch.tensor([[4.0, 4.0, 2.5]]))) == 0


def test_without_structures_it_is_zero_and_backward_works(head_and_neck, pack):
    pred = doses(1).requires_grad_()
    loss = DVHError(head_and_neck)
    value = loss(pred, doses(2), pack(head_and_neck, SHAPE, {"PTV70": slice(0, 1)}), torch.tensor([[4.0, 4.0, 2.5]]))
    value.backward()
    assert float(value.detach()) == 0 and not pred.grad.any()
    assert loss.counts == {"structures": 1, "skipped": 1}  # 90 voxels: too few


def test_gradients_stay_in_the_structures_and_reach_all_of_an_organ(head_and_neck, pack):
    pred = doses(1).requires_grad_()
    structures = pack(head_and_neck, SHAPE, {"Mandible": PLACES["Mandible"]})
    DVHError(head_and_neck)(pred, 0.5 * doses(2), structures, torch.tensor([[4.0, 4.0, 2.5]])).backward()
    organ = unpack_mask(structures[0, 0], "Mandible", head_and_neck)
    assert (pred.grad[0, 0][organ] > 0).all() and not pred.grad[0, 0][~organ].any()
    assert float(pred.grad.sum()) == pytest.approx(1.0, rel=1e-5)  # every metric follows a shift of all doses
