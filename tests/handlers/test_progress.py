"""The bar counts steps, shows the mean loss and is closed at the end of each epoch."""

import torch
from ignite.engine import Engine

from monai_vmat.handlers import progress
from monai_vmat.handlers.progress import Progress


def test_bar(monkeypatch):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, **options):
            super().__init__(**options, disable=False)
            self.closed, self.text = 0, ""
            bars.append(self)

        def set_postfix_str(self, text, refresh=True):
            self.text = text

        def close(self):
            self.closed += 1
            super().close()

    monkeypatch.setattr(progress, "tqdm", Bar)
    engine = Engine(lambda engine, loss: {"loss": torch.tensor(loss)})
    Progress("Training").attach(engine)
    engine.run([1.0, 3.0], max_epochs=2)
    assert [(b.n, b.desc) for b in bars] == [(2, "Training 1/2"), (2, "Training 2/2")]
    assert bars[0].text == "loss 2.0000" and all(b.closed for b in bars)


def test_outputs_without_a_loss_are_fine():
    engine = Engine(lambda engine, batch: [{"pred": 0}])
    Progress("Validation").attach(engine)
    assert engine.run([0, 1]).iteration == 2
