"""Large gradients are scaled to the norm, small ones are left alone."""

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monai_vmat.handlers.gradient_clip import GradientClip


def run(size):
    network = torch.nn.Linear(2, 2, bias=False)

    def step(engine, batch):
        engine.state.batch = {"case_id": ["case_7"]}
        network.weight.grad = torch.full((2, 2), size)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    GradientClip(network, 1.0).attach(engine)
    engine.run([0])
    return network


@pytest.mark.parametrize("size, norm", [(30.0, 1.0), (0.1, 0.2)])
def test_clip(size, norm):
    assert float(run(size).weight.grad.norm()) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("size", [float("inf"), float("nan")])
def test_gradients_that_are_not_finite_name_their_cases(size):
    with pytest.raises(FloatingPointError, match="case_7"):
        run(size)
