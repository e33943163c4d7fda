"""The average follows its formula; without decay there is none."""

import pytest
import torch
from ignite.engine import Engine

from monai_vmat.handlers.weight_average import WeightAverage, averaged_copy


def test_by_hand():
    network = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    averaged = averaged_copy(network, 0.3)
    values = iter([1.0, 2.0, 3.0])

    def step(engine, batch):
        with torch.no_grad():
            network.weight.fill_(next(values))

    engine = Engine(step)
    WeightAverage(network, averaged, 0.3).attach(engine)
    engine.run([0, 0, 0])
    expected = 0.0
    for t, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * value
    assert float(averaged.weight) == pytest.approx(expected)
    assert not averaged.weight.requires_grad and network.weight.requires_grad


def test_no_decay_no_copy():
    network = torch.nn.Linear(2, 2)
    assert averaged_copy(network, 0) is network
