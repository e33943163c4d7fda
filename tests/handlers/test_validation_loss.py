"""The mean over cases of the training loss."""

import pytest
import torch
from ignite.engine import Engine

from monai_vmat.distributed import SPARE
from monai_vmat.handlers.validation_loss import ValidationLoss


def test_mean_over_cases():
    def loss(pred, reference):
        assert pred.shape == reference["dose"].shape == (1, 1, 2, 2, 2)
        return (pred - reference["dose"]).mean()

    def case(value):
        return {"pred": torch.full((1, 2, 2, 2), value), "label": {"dose": torch.ones(1, 2, 2, 2)}}

    engine = Engine(lambda engine, batch: batch)
    ValidationLoss(loss).attach(engine, "val/loss")
    assert engine.run([[case(2.0)], [case(5.0), case(6.0)]]).metrics["val/loss"] == pytest.approx((1 + 4 + 5) / 3)
    shared = [[case(2.0)], [case(5.0) | {SPARE: True}]]  # the second is another process's
    assert engine.run(shared, epoch_length=2).metrics["val/loss"] == pytest.approx(1)
