"""Learned weights: the formula, where they settle, no decay, and agreement between processes."""

import math
import subprocess
import sys

import pytest
import torch
from torch import distributed, nn

from monai_vmat.losses.composite import CompositeLoss
from monai_vmat.losses.mean_squared_error import MeanSquaredError
from monai_vmat.losses.negative_dose import NegativeDose
from monai_vmat.losses.uncertainty_weighted import UncertaintyWeightedLoss, parameter_groups


class Value(nn.Module):
    """A loss of whatever ``pred`` says."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, pred):
        return self.factor * pred.mean()


def terms():
    return {"a": Value(1.0), "b": Value(10.0), "never": Value(1.0), "negative_dose": NegativeDose()}


WEIGHTS = {"a": 1.0, "b": 0.5, "never": 0.0, "negative_dose": 0.1}


def test_it_starts_as_the_plain_sum():
    reference = {"dose": torch.rand(1, 1, 3, 3, 3)}
    pred = torch.randn(1, 1, 3, 3, 3)
    parts = {"mse": MeanSquaredError(), "negative_dose": NegativeDose()}
    weights = {"mse": 2.0, "negative_dose": 0.1}
    learned = UncertaintyWeightedLoss(parts, weights)
    assert torch.equal(learned(pred, reference), CompositeLoss(parts, weights)(pred, reference))
    assert list(learned.log_variances) == ["mse"]


def test_by_hand():
    loss = UncertaintyWeightedLoss(terms(), WEIGHTS)
    assert set(loss.log_variances) == {"a", "b"}
    with torch.no_grad():
        loss.log_variances["a"].fill_(math.log(2))
        loss.log_variances["b"].fill_(-1.0)
    total = loss(torch.full((1, 1, 2, 2, 2), 0.3), {})
    a, b = 0.3 / 2 + math.log(2), math.e * 0.5 * 3 - 1
    assert float(total.detach()) == pytest.approx(a + b)
    assert {k: float(v) for k, v in loss.weighted.items()} == pytest.approx({"a": a, "b": b, "negative_dose": 0.0})
    assert {k: float(v) for k, v in loss.figures.items()} == pytest.approx({"a_weight": 0.5, "b_weight": math.e / 2})
    total.backward()
    assert float(loss.log_variances["a"].grad) == pytest.approx(1 - 0.15)


def test_weights_settle_where_every_term_counts_the_same():
    loss = UncertaintyWeightedLoss(terms(), WEIGHTS)
    optimizer = torch.optim.AdamW(parameter_groups(nn.Linear(1, 1), loss, 0.05), lr=0.0, weight_decay=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        loss(torch.full((1, 1, 2, 2, 2), 0.3), {}).backward()
        optimizer.step()
    settled = {name: float(s.detach()) for name, s in loss.log_variances.items()}
    assert settled == pytest.approx({"a": math.log(0.3), "b": math.log(1.5)}, abs=1e-3)  # decay would pull them to 0


def test_a_term_that_is_zero_leaves_its_weight_alone():
    loss = UncertaintyWeightedLoss(terms(), WEIGHTS)
    loss(torch.zeros(1, 1, 2, 2, 2), {}).backward()
    assert all(float(s.grad) == 0.0 for s in loss.log_variances.values())


def test_groups_of_the_optimizer():
    network, loss = nn.Linear(2, 1), UncertaintyWeightedLoss(terms(), WEIGHTS)
    optimizer = torch.optim.AdamW(parameter_groups(network, loss, 0.01), lr=1e-4, weight_decay=0.02)
    first, second = optimizer.param_groups
    assert (first["lr"], first["weight_decay"]) == (1e-4, 0.02) and list(first["params"]) == list(network.parameters())
    assert (second["lr"], second["weight_decay"]) == (0.01, 0.0)
    assert list(second["params"]) == list(loss.log_variances.values())


def _train_two(rank, path):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    loss = UncertaintyWeightedLoss(terms(), WEIGHTS)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss(torch.full((1, 1, 2, 2, 2), (0.3, 0.9)[rank]), {}).backward()
        optimizer.step()
    torch.save(loss.state_dict(), f"{path}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_agree(tmp_path):
    """Two processes with other data end with the same weights: those of the mean gradient."""
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), tmp_path]) for rank in (0, 1)]
    assert [process.wait() for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    s = 0.0
    for _ in range(3):
        s -= 0.1 * (1 - math.exp(-s) * (0.3 + 0.9) / 2)
    assert float(first["log_variances.a"]) == pytest.approx(s, rel=1e-5)


if __name__ == "__main__":
    _train_two(int(sys.argv[1]), sys.argv[2])
