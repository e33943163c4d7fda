"""Means over the epoch, raw and weighted."""

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from monai_vmat.handlers.training_losses import TrainingLosses


def run(values):
    loss = SimpleNamespace(components={}, weighted={}, figures={}, counts={})

    def step(engine, value):
        loss.components = {"mse": torch.tensor(value)} | ({"rare": torch.tensor(4.0)} if value > 1 else {})
        loss.weighted = {"mse": torch.tensor(2 * value)} | ({"rare": torch.tensor(2.0)} if value > 1 else {})
        loss.figures = {"mse_weight": torch.tensor(value + 1)}
        loss.counts = {
            "rare_structures": 5,
            "rare_skipped": 1 + (value > 1) * 2,
            "mse_structures": 5,
            "mse_skipped": 0,
            "rare_cut": 1,
        }
        return {"loss": torch.tensor(value, requires_grad=True)}

    engine = Engine(step)
    TrainingLosses(loss).attach(engine)
    return engine.run(values, max_epochs=2).metrics


def test_means_and_counts_of_the_last_epoch():
    expected = {"train/loss": 2.0, "train/mse": 2.0, "train/mse_weighted": 4.0, "train/rare": 4.0, "train/rare_weighted": 2.0}
    expected |= {"train/mse_weight": 3.0, "train/mse_structures": 10, "train/mse_skipped": 0, "train/rare_structures": 10}
    expected |= {"train/rare_skipped": 4, "train/rare_cut": 2}
    assert run([1.0, 3.0]) == pytest.approx(expected)


def test_the_log_says_which_structures_did_not_count(caplog):
    with caplog.at_level("INFO"):
        run([1.0, 3.0])
    assert "left out for having too few voxels in the patch (rare: 4 of 10)" in caplog.text
    assert "touch the border: their DVH is that of the part in the patch (rare: 2 of 10)" in caplog.text
