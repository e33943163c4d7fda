"""Means over the epoch, raw and weighted; a loss that is not finite ends the run and names the cases."""

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from monai_vmat.handlers.training_losses import TrainingLosses


def run(values):
    loss = SimpleNamespace(components={}, weights={"mse": 2.0, "rare": 0.5})

    def step(engine, value):
        engine.state.batch = {"case_id": ["case_7"]}
        loss.components = {"mse": torch.tensor(value)} | ({"rare": torch.tensor(4.0)} if value > 1 else {})
        return {"loss": torch.tensor(value, requires_grad=True)}

    engine = Engine(step)
    TrainingLosses(loss).attach(engine)
    return engine.run(values).metrics


def test_means():
    expected = {"train/loss": 2.0, "train/mse": 2.0, "train/mse_weighted": 4.0, "train/rare": 4.0, "train/rare_weighted": 2.0}
    assert run([1.0, 3.0]) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_cases(bad):
    with pytest.raises(FloatingPointError, match="case_7"):
        run([1.0, bad])
