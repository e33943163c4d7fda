"""The bar counts steps, shows the mean loss and is closed at the end of each epoch and before an error is told."""

import pytest
import torch
from ignite.engine import Engine

from monai_vmat.handlers import progress
from monai_vmat.handlers.progress import Progress


@pytest.fixture
def bars(monkeypatch):
    """The bars that are shown, each with its last text and how often it was closed."""
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
    return bars


def test_bar(bars):
    engine = Engine(lambda engine, loss: {"loss": torch.tensor(loss)})
    Progress("Training").attach(engine)
    engine.run([1.0, 3.0], max_epochs=2)
    assert [(b.n, b.desc) for b in bars] == [(2, "Training 1/2"), (2, "Training 2/2")]
    assert bars[0].text == "loss 2.0000" and all(b.closed for b in bars)


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_goes_on_once_the_bar_is_closed(bars, error):
    def step(engine, number):
        if number:
            raise error

    engine = Engine(step)
    Progress("Training").attach(engine)
    with pytest.raises(type(error)) as caught:
        engine.run([0, 1, 0])
    assert caught.value is error and [(b.n, b.closed) for b in bars] == [(1, 1)]


def test_outputs_without_a_loss_are_fine():
    engine = Engine(lambda engine, batch: [{"pred": 0}])
    Progress("Validation").attach(engine)
    assert engine.run([0, 1]).iteration == 2
