"""Large gradients are scaled to the norm, small ones are left alone; what is no number ends the run before the step."""

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monai_vmat.errors import InputError
from monai_vmat.handlers.gradient_clip import GradientClip


def run(size, max_norm=1.0, loss=0.5):
    network = torch.nn.Linear(2, 2, bias=False)

    def step(engine, batch):
        engine.state.batch = {"case_id": ["case_7", "case_7", "case_2"]}
        engine.state.output = {"loss": torch.tensor(loss, requires_grad=True)}
        network.weight.grad = torch.full((2, 2), size)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    GradientClip(network, max_norm).attach(engine)
    engine.run([0])
    return network


@pytest.mark.parametrize("size, norm", [(30.0, 1.0), (0.1, 0.2)])
def test_clip(size, norm):
    assert float(run(size).weight.grad.norm()) == pytest.approx(norm, rel=1e-4)


def test_without_a_limit_gradients_stay_to_the_bit():
    for size in (0.0, 0.1, 1e15):
        assert torch.equal(run(size, max_norm=0.0).weight.grad, torch.full((2, 2), size))


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
@pytest.mark.parametrize(
    "size, loss, told",
    [
        (1.0, float("nan"), "the loss is nan"),
        (1.0, float("inf"), "the loss is inf"),
        (float("nan"), 0.5, "the loss is 0.5, the norm of its gradients nan"),
        (float("inf"), 0.5, "gradients inf"),
    ],
)
def test_what_is_no_number_names_the_cases_of_its_batch(size, loss, told, max_norm):
    with pytest.raises(InputError, match=rf"^cases case_7, case_2: in epoch 1 .*{told}.*\. Look at them") as caught:
        run(size, max_norm, loss)
    assert "--max_gradient_norm 1" in caught.value.mend and "--learning_rate" in caught.value.mend
