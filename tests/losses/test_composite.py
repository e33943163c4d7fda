"""The weighted sum, its parts, and what it hands to each part."""

import pytest
import torch

from monai_vmat.errors import InputError
from monai_vmat.losses.composite import CompositeLoss
from monai_vmat.losses.mean_squared_error import MeanSquaredError
from monai_vmat.losses.negative_dose import NegativeDose
from monai_vmat.losses.region_absolute_error import RegionAbsoluteError


def reference(dose):
    return {"dose": dose, "region": dose > 0.2, "structures": torch.zeros_like(dose, dtype=torch.int16)}


def test_sum_and_components():
    pred, dose = torch.randn(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4)
    terms = {"mse": MeanSquaredError(), "negative": NegativeDose(), "mae": RegionAbsoluteError()}
    loss = CompositeLoss(terms, {"mse": 1.0, "negative": 0.1, "mae": 2.0})
    expected = {
        "mse": terms["mse"](pred, dose),
        "negative": terms["negative"](pred),
        "mae": terms["mae"](pred, dose, dose > 0.2),
    }
    total = loss(pred, reference(dose))
    assert float(total) == pytest.approx(float(expected["mse"] + 0.1 * expected["negative"] + 2 * expected["mae"]))
    assert {k: float(v) for k, v in loss.components.items()} == pytest.approx({k: float(v) for k, v in expected.items()})


def test_gradients_flow_and_components_do_not_hold_them():
    pred = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    loss = CompositeLoss({"mse": MeanSquaredError()}, {"mse": 3.0})
    loss(pred, reference(torch.zeros(1, 1, 2, 2, 2))).backward()
    assert torch.allclose(pred.grad, 3 * 2 * pred.detach() / 8)
    assert not loss.components["mse"].requires_grad


def test_weight_zero_is_not_computed():
    class Explodes(torch.nn.Module):
        def forward(self, pred):
            raise AssertionError

    loss = CompositeLoss({"mse": MeanSquaredError(), "never": Explodes()}, {"mse": 1.0, "never": 0.0})
    loss(torch.zeros(1, 1, 2, 2, 2), reference(torch.zeros(1, 1, 2, 2, 2)))
    assert set(loss.components) == {"mse"}


def test_names_must_agree():
    with pytest.raises(InputError, match="mse.*mes"):
        CompositeLoss({"mse": MeanSquaredError()}, {"mes": 1.0})


class Tells(torch.nn.Module):
    figures = {"part": torch.tensor(2.0)}
    counts = {"skipped": 3}

    def forward(self, pred, dose):
        return (pred - dose).mean()


def test_what_each_term_adds_and_says():
    pred = torch.full((1, 1, 2, 2, 2), 3.0)
    loss = CompositeLoss({"tells": Tells(), "mse": MeanSquaredError()}, {"tells": 0.5, "mse": 2.0})
    loss(pred, reference(torch.ones(1, 1, 2, 2, 2)))
    assert {k: float(v) for k, v in loss.weighted.items()} == {"tells": 1.0, "mse": 8.0}
    assert loss.figures == {"tells_part": torch.tensor(2.0)} and loss.counts == {"tells_skipped": 3}


def test_what_a_term_lacks_is_told():
    loss = CompositeLoss({"mae": RegionAbsoluteError()}, {"mae": 1.0})
    with pytest.raises(InputError, match="'mae'.*region"):
        loss(torch.zeros(1, 1, 2, 2, 2), {"dose": torch.zeros(1, 1, 2, 2, 2)})
