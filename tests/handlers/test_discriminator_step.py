"""The discriminator's side: one step after each of the network's."""

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from monai_vmat.handlers.discriminator_step import DiscriminatorStep


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return [None, self.factor * x]


def train(steps, lr):
    """Real doses are 2, predicted ones 1: the best factor f has f * 2 near 1 and f * 1 near 0: f = 2 / 5."""
    discriminator, network = Scale(), nn.Linear(1, 1)

    def step(engine, batch):
        pred = network.weight.new_ones(1, 1, 1, 1, 1) + 0 * network.weight
        engine.state.output = {"pred": pred, "label": {"dose": torch.full((1, 1, 1, 1, 1), 2.0)}}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    DiscriminatorStep(discriminator, torch.optim.SGD(discriminator.parameters(), lr=lr)).attach(engine)
    engine.run([0] * steps)
    assert network.weight.grad is None  # nothing goes back to the network from here
    return float(discriminator.factor.detach()), engine.state.metrics["train/discriminator"]


def test_one_step_by_hand():
    factor, loss = train(1, 0.1)
    assert loss == pytest.approx(0.5 * ((1 - 1) ** 2 + 0.5**2))
    assert factor == pytest.approx(0.5 - 0.1 * (2 * (1 - 1) + 0.5))


def test_it_learns():
    assert train(200, 0.1)[0] == pytest.approx(0.4, abs=1e-4)
