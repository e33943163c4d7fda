"""Two processes do what one does: the laws of shares, gradients, means and learned parameters."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_vmat import console, distributed
from monai_vmat.distributed import SPARE, average_gradients, gather_dealt, job, join, local_device, own_run, share
from monai_vmat.errors import InputError
from monai_vmat.files import write_json
from monai_vmat.handlers.dashboard import Dashboard
from monai_vmat.handlers.discriminator_step import DiscriminatorStep
from monai_vmat.handlers.gradient_clip import GradientClip
from monai_vmat.handlers.progress import Progress
from monai_vmat.handlers.run_record import RunRecord
from monai_vmat.handlers.training_checkpoint import TrainingCheckpoint
from monai_vmat.handlers.training_losses import TrainingLosses
from monai_vmat.handlers.validation_loss import ValidationLoss
from monai_vmat.handlers.weight_average import WeightAverage, averaged_copy
from monai_vmat.losses import uncertainty_weighted
from monai_vmat.losses.composite import CompositeLoss
from monai_vmat.losses.gradient import GradientLoss
from monai_vmat.losses.mean_squared_error import MeanSquaredError
from monai_vmat.losses.negative_dose import NegativeDose
from monai_vmat.losses.uncertainty_weighted import UncertaintyWeightedLoss
from monai_vmat.networks.film_unet import FiLMUNet

STEPS = 2


def mean_loss():
    """Every term is a mean over voxels, so that the mean over processes is the mean over their patches together."""
    terms = {"mse": MeanSquaredError(), "negative_dose": NegativeDose(), "gradient": GradientLoss()}
    return CompositeLoss(terms, {"mse": 1.0, "negative_dose": 0.1, "gradient": 0.1})


def patches(step):
    """Two patients' patches: image, constraints, dose."""
    generator = torch.Generator().manual_seed(step)
    return [torch.rand((2, *shape), generator=generator) for shape in ((3, 16, 16, 16), (5,), (1, 16, 16, 16))]


def train_network(ranks, together):
    """A few clipped steps with an averaged copy, on the patches of ``ranks`` in one batch."""
    torch.manual_seed(0)
    network = FiLMUNet(in_channels=3, constraint_dim=5, base_channels=8)
    wrapped = DistributedDataParallel(network) if together else network
    averaged, loss = averaged_copy(network, 0.9), mean_loss()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)  # Adam would blow up the last bits of gradients near 0
    gradients = []

    def step(engine, number):
        image, constraints, dose = (tensor[ranks] for tensor in patches(number))
        optimizer.zero_grad()
        value = loss(wrapped(image, constraints), {"dose": dose})
        value.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]).clone())
        engine.state.output = {"loss": value}
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        optimizer.step()
        return {"loss": value}

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    GradientClip(network, 0.05).attach(engine)
    WeightAverage(network, averaged, 0.9).attach(engine)
    TrainingLosses(loss).attach(engine)
    engine.run(range(STEPS))
    weights, average = (torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (network, averaged))
    return {"gradients": gradients, "weights": weights, "average": average, "metrics": dict(engine.state.metrics)}


def train_discriminator(ranks):
    """A few steps of a discriminator on the doses of ``ranks``; it begins the same everywhere."""
    torch.manual_seed(1)
    discriminator = nn.Sequential(nn.Conv3d(1, 4, 3), nn.LeakyReLU(), nn.Conv3d(4, 1, 3))
    judge = Judge(discriminator)

    def step(engine, number):
        image, _, dose = (tensor[ranks] for tensor in patches(number))
        engine.state.output = {"pred": image[:, :1], "label": {"dose": dose}}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    DiscriminatorStep(judge, torch.optim.Adam(judge.parameters(), lr=0.01)).attach(engine)
    engine.run(range(STEPS))
    weights = torch.cat([p.detach().flatten() for p in judge.parameters()])
    return weights, engine.state.metrics["train/discriminator"]


class Judge(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, dose):
        return [self.layers(dose)]


def learn_weights(rank):
    loss = UncertaintyWeightedLoss({"mse": MeanSquaredError()}, {"mse": 1.0})
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    for step in range(STEPS):
        image, _, dose = (tensor[[rank]] for tensor in patches(step))
        optimizer.zero_grad()
        loss(image[:, :1], {"dose": dose}).backward()
        optimizer.step()
    return float(loss.log_variances["mse"].detach())


def validation_loss(items):
    """The mean of what :class:`ValidationLoss` sees: a loss of 1/7, 2/7, ... for the items."""
    engine = Engine(lambda engine, batch: [{"pred": torch.full((1, 1, 1, 1), i["value"] / 7), "label": {}} for i in batch])
    ValidationLoss(lambda pred, reference: pred.double().mean()).attach(engine, "val/loss")
    return engine.run([[item] for item in items]).metrics["val/loss"]


def items(count):
    return [{"value": number + 1} for number in range(count)]


def counted(rank):
    """What TrainingLosses makes of a term that only the second process has, and of counts."""
    loss = mean_loss()

    def step(engine, number):
        loss.components = {"rare": torch.tensor(3.0)} if rank else {}
        loss.counts = {"dvh_cut": 1 + rank, "dvh_structures": 4}
        return {"loss": torch.tensor(float(rank))}

    engine = Engine(step)
    TrainingLosses(loss).attach(engine)
    engine.run(range(STEPS))
    return {k: v for k, v in engine.state.metrics.items() if k in ("train/loss", "train/rare", "train/dvh_cut")}


def work(rank, folder):
    """What each of the two processes does and finds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {
        "network": train_network([rank], True),
        "discriminator": train_discriminator([rank]),
        "learned": learn_weights(rank),
        "counted": counted(rank),
        "shares": {n: share(items(n)) for n in (5, 1)},
        "dealt": {n: gather_dealt([i["value"] for i in share(items(n)) if SPARE not in i]) for n in (5, 1)},
        "validation_loss": {n: validation_loss(share(items(n))) for n in (5, 1)},
    }
    for module in (distributed, uncertainty_weighted):
        module.mean_over_processes = lambda tensor: tensor  # the same without telling each other
    found |= {"alone": {"discriminator": train_discriminator([rank])[0], "learned": learn_weights(rank)}}
    torch.save(found, f"{folder}/{rank}.pt")
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    console.plain_errors()
    average_gradients([])  # nothing to average, nobody to ask
    distributed.gather(rank)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two processes found, and how each of them ended."""
    folder = tmp_path_factory.mktemp("two")
    arguments = [[sys.executable, "-W", "ignore", __file__, str(rank), str(folder)] for rank in (0, 1)]
    processes = [subprocess.Popen(a, stderr=subprocess.PIPE, text=True) for a in arguments]
    errors = [process.communicate(timeout=110)[1] for process in processes]
    assert all((folder / f"{rank}.pt").exists() for rank in (0, 1)), errors
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    return found, [process.returncode for process in processes], errors


def test_mean_of_gradients_is_the_gradient_of_the_batch(both):
    """A step of two processes with a patient each is the step of one process with both; clipping and averaging follow."""
    first, second = (found["network"] for found in both[0])
    alone = train_network([0, 1], False)
    for a, b, c in zip(first["gradients"], second["gradients"], alone["gradients"], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-6)
    assert torch.linalg.vector_norm(alone["gradients"][0]) > 0.1  # so that clipping to 0.05 acts
    for name in ("weights", "average"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], rtol=0, atol=1e-6)
    assert not torch.equal(first["weights"], first["average"])
    assert first["metrics"] == second["metrics"]
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)


def test_discriminators_stay_one(both):
    first, second = both[0]
    weights, loss = train_discriminator([0, 1])
    assert torch.equal(first["discriminator"][0], second["discriminator"][0])
    torch.testing.assert_close(first["discriminator"][0], weights, rtol=0, atol=1e-4)
    assert first["discriminator"][1] == second["discriminator"][1] == pytest.approx(loss, rel=1e-5)
    assert not torch.equal(first["alone"]["discriminator"], second["alone"]["discriminator"])


def test_learned_loss_weights_stay_one(both):
    first, second = both[0]
    assert first["learned"] == second["learned"] != 0
    assert first["alone"]["learned"] != second["alone"]["learned"]


def test_training_losses_are_those_of_all(both):
    expected = {"train/loss": 0.5, "train/rare": 3.0, "train/dvh_cut": STEPS * 3.0}
    assert [found["counted"] for found in both[0]] == [expected, expected]


def test_every_item_goes_to_one_process(both):
    first, second = (found["shares"] for found in both[0])
    assert [i["value"] for i in first[5]] == [1, 3, 5] and [i["value"] for i in second[5]] == [2, 4]
    assert first[1] == items(1) and second[1] == [{"value": 1, SPARE: True}]
    assert [found["dealt"] for found in both[0]] == [{5: [1, 2, 3, 4, 5], 1: [1]}] * 2
    assert share(items(3)) == items(3)  # one process has all


def test_validation_loss_is_that_of_one_process_to_the_bit(both):
    expected = {n: validation_loss(items(n)) for n in (5, 1)}
    assert [found["validation_loss"] for found in both[0]] == [expected, expected]


def test_a_lost_process_is_told_in_a_line(both):
    _, codes, errors = both
    assert codes == [1, -signal.SIGKILL]
    (line,) = [line for line in errors[0].splitlines() if "error:" in line]
    assert "another process" in line and "--max-restarts" in line and "--resume true" in line
    assert "Traceback" not in errors[0]


@pytest.mark.parametrize("kind", [Progress, RunRecord, Dashboard, TrainingCheckpoint])
def test_writers_are_silent_in_other_processes(kind, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    engine = Engine(lambda engine, batch: None)
    kind.__new__(kind).attach(engine)
    assert not any(engine._event_handlers.values())


def test_the_overlay_needs_torchrun(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match="torchrun --standalone"):
        local_device()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device() == torch.device("cuda", 1)


@pytest.mark.parametrize(
    "own, recorded, expected", [("a", "a", True), ("b", "a", False), ("none", "none", False), (None, None, False)]
)
def test_only_the_jobs_own_run_is_resumed_by_itself(tmp_path, monkeypatch, own, recorded, expected):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if own is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", own)
    assert not own_run(tmp_path)  # no run there yet
    write_json(tmp_path / "training_config.json", {"sessions": [{"job": "earlier"}, {"job": recorded}]})
    assert own_run(tmp_path) is expected and job() == (None if own == "none" else own)


def test_restarts_on_several_machines_need_a_store_of_their_own(monkeypatch):
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(dist.HashStore(), 0, 1)]))
    settings = {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        join(torch.device("cpu"))
    assert not dist.is_initialized()


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
