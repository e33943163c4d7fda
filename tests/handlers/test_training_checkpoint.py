"""Checkpoints: what is kept, what is restored, what is refused, and that a crash between the files does no harm."""

import signal
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from monai_vmat.engines import train
from monai_vmat.errors import InputError
from monai_vmat.handlers import training_checkpoint
from monai_vmat.handlers.training_checkpoint import TrainingCheckpoint, best_checkpoint, default_weights, may_train
from monai_vmat.weights import facts_of
from monai_vmat.interruption import Interrupted


class Run:
    """A training of a linear network whose validation gives the values it is told."""

    def __init__(self, folder, values, width=2):
        torch.manual_seed(0)
        self.network = torch.nn.Linear(width, 1)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.validator = Engine(lambda engine, batch: None)
        self.validator.state = SimpleNamespace(best_metric=-1, best_metric_epoch=-1)
        self.values, self.width = values, width
        self.trainer = Engine(self.step)
        self.trainer.state.max_epochs, self.trainer.state.epoch_length, self.trainer.state.iteration = len(values), 2, 0
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        options = {"network": self.network, "evaluated_network": self.network, "validator": self.validator}
        self.checkpoint = TrainingCheckpoint(folder, optimizer=self.optimizer, scheduler=self.scheduler, **options)
        self.checkpoint.attach(self.trainer)

    def step(self, engine, batch):
        self.optimizer.zero_grad()
        self.network(torch.randn(4, self.width)).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()

    def validate(self, engine):
        value, state = self.values[engine.state.epoch - 1], self.validator.state
        if state.best_metric_epoch == -1 or value < state.best_metric:
            state.best_metric, state.best_metric_epoch = value, engine.state.epoch

    def go(self, until=None):
        if until:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=until), lambda e: e.terminate())
        self.trainer.run([0, 0])
        return self


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_best_is_kept_under_its_name(tmp_path):
    Run(tmp_path, [3.0, 1.5, 2.0]).go()
    assert names(tmp_path) == ["best-epoch=002-val_mae_gy=1.500.pt", "last.pt"]
    best = torch.load(best_checkpoint(tmp_path), weights_only=True)
    assert (best["epoch"], best["val_mae_gy"]) == (2, 1.5)


def test_resumed_equals_undisturbed_bit_for_bit(tmp_path):
    values = [3.0, 2.0, 2.5, 1.0]
    whole = Run(tmp_path / "a", values).go()
    Run(tmp_path / "b", values).go(until=2)
    torch.manual_seed(99)  # whatever a new process starts with
    resumed = Run(tmp_path / "b", values)
    torch.manual_seed(99)
    resumed.checkpoint.restore(resumed.trainer)
    assert resumed.trainer.state.epoch == 2 and resumed.validator.state.best_metric == 2.0
    resumed.go()
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    assert resumed.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_a_crash_before_last_keeps_both_bests(tmp_path, monkeypatch):
    run = Run(tmp_path, [3.0, 1.0])
    run.go(until=1)
    run = Run(tmp_path, [3.0, 1.0])
    run.checkpoint.restore(run.trainer)
    save = training_checkpoint._save

    def crash(content, path):
        if path.name == "last.pt":
            raise KeyboardInterrupt
        save(content, path)

    monkeypatch.setattr(training_checkpoint, "_save", crash)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert names(tmp_path) == ["best-epoch=001-val_mae_gy=3.000.pt", "best-epoch=002-val_mae_gy=1.000.pt", "last.pt"]
    monkeypatch.setattr(training_checkpoint, "_save", save)
    again = Run(tmp_path, [3.0, 1.0])
    again.checkpoint.restore(again.trainer)
    assert again.trainer.state.epoch == 1
    again.go()
    assert names(tmp_path) == ["best-epoch=002-val_mae_gy=1.000.pt", "last.pt"]


def test_nothing_there_starts_afresh(tmp_path):
    run = Run(tmp_path, [1.0])
    run.checkpoint.restore(run.trainer)
    assert run.trainer.state.epoch == 0


def test_another_architecture_is_refused(tmp_path):
    Run(tmp_path, [1.0]).go()
    other = Run(tmp_path, [1.0, 1.0], width=3)
    with pytest.raises(InputError, match="last.pt.*another architecture"):
        other.checkpoint.restore(other.trainer)


@pytest.mark.parametrize("entry", ["optimizer", "scheduler", "epoch", "random_state"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path, entry):
    Run(tmp_path, [1.0]).go()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content[entry]
    torch.save(content, tmp_path / "last.pt")
    run = Run(tmp_path, [1.0, 1.0])
    with pytest.raises(InputError, match=f"last.pt.*{entry}"):
        run.checkpoint.restore(run.trainer)


def test_what_else_training_changes_is_saved_and_restored(tmp_path):
    run = Run(tmp_path, [1.0])
    run.checkpoint.stateful["loss"] = torch.nn.Linear(1, 1)  # as also={"loss": ...} does
    run.go()
    other = Run(tmp_path, [1.0, 1.0])
    learned = torch.nn.Linear(1, 1)
    options = {"network": other.network, "evaluated_network": other.network, "validator": other.validator}
    options |= {"optimizer": other.optimizer, "scheduler": other.scheduler}
    TrainingCheckpoint(tmp_path, **options, also={"loss": learned}).restore(other.trainer)
    assert torch.equal(learned.weight, run.checkpoint.stateful["loss"].weight)
    with pytest.raises(InputError, match="last.pt.*'loss' does not fit"):
        TrainingCheckpoint(tmp_path, **options, also={"loss": torch.nn.Linear(2, 1)}).restore(other.trainer)
    with pytest.raises(InputError, match="last.pt.*discriminator"):
        TrainingCheckpoint(tmp_path, **options, also={"discriminator": learned}).restore(other.trainer)


def test_an_earlier_run_is_not_overwritten_by_accident(tmp_path):
    may_train(tmp_path, resume=False)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"epoch": 1}, tmp_path / "checkpoints" / "last.pt")
    for resume in (True, "true", "True"):
        may_train(tmp_path, resume)
    with pytest.raises(InputError, match="true or false"):
        may_train(tmp_path, "yes")
    for resume in (False, "false"):
        with pytest.raises(InputError, match="--resume true"):
            may_train(tmp_path, resume)


def test_a_run_without_a_whole_epoch_may_be_begun_anew_or_resumed(tmp_path):
    """The checkpoint of the start is there from the start: resumed, it gives what an undisturbed run gives."""
    folder = tmp_path / "checkpoints"
    run = Run(folder, [1.0])
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), _interrupt)
    with pytest.raises(Interrupted) as caught:
        train(run.trainer, run.checkpoint, complete=pytest.fail)
    assert str(caught.value) == f"interrupted: {folder / 'last.pt'} is as after epoch 0; go on with --resume true"
    may_train(tmp_path, resume=False)
    anew = Run(folder, [1.0])
    torch.manual_seed(7)  # another random state, as with other settings
    anew.checkpoint.restore(anew.trainer, resume=False)
    assert torch.initial_seed() == 7
    torch.manual_seed(99)
    resumed = Run(folder, [1.0])
    torch.manual_seed(99)
    resumed.checkpoint.restore(resumed.trainer, resume="true")
    resumed.go()
    whole = Run(tmp_path / "whole", [1.0]).go()
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))
    with pytest.raises(InputError, match="--resume true"):
        may_train(tmp_path, resume=False)


def _interrupt():
    raise Interrupted(signal.SIGTERM)


def test_no_best_checkpoint(tmp_path):
    with pytest.raises(InputError, match="Train first.*--weights"):
        best_checkpoint(tmp_path)


def test_a_named_experiment_comes_before_what_is_shipped(tmp_path):
    Run(tmp_path / "runs" / "mine" / "checkpoints", [1.0]).go()
    best = best_checkpoint(tmp_path / "runs" / "mine" / "checkpoints")
    assert default_weights(tmp_path / "bundle", tmp_path, "mine") == best
    assert default_weights(tmp_path / "bundle", tmp_path) == str(tmp_path / "bundle" / "models" / "model.pt")
    several = default_weights(tmp_path / "bundle", tmp_path, None, ["neck.pt", "other.pt"])
    assert several == [str(tmp_path / "bundle" / "models" / name) for name in ("neck.pt", "other.pt")]
    with pytest.raises(InputError, match="Train first"):
        default_weights(tmp_path / "bundle", tmp_path, "another")


def test_weights_say_what_they_are(tmp_path):
    run = Run(tmp_path, [1.0])
    run.checkpoint.facts = {"protocol": "neck", "settings": {"width": 2}}  # as facts=... does
    run.go()
    for path in (tmp_path / "last.pt", best_checkpoint(tmp_path)):
        assert facts_of(torch.load(path, weights_only=True)["network"]) == run.checkpoint.facts
    with_facts = TrainingCheckpoint(
        tmp_path,
        network=run.network,
        evaluated_network=run.network,
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        validator=run.validator,
        facts={"protocol": "neck"},
    )
    assert with_facts.facts == {"protocol": "neck"}


def test_epochs_of_another_length_are_refused(tmp_path):
    Run(tmp_path, [1.0]).go()
    run = Run(tmp_path, [1.0, 1.0])
    run.trainer.state.epoch_length = 3
    with pytest.raises(InputError, match="last.pt.*3 steps"):
        run.checkpoint.restore(run.trainer)


def broken(moment, change):
    def damage(saved):
        saved["optimizer"]["state"][0][moment] = change(saved["optimizer"]["state"][0][moment])

    return damage


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda saved: saved.update(epoch=None), "'epoch': a whole number from 0 was expected, got None"),
        (lambda saved: saved.update(iteration=-2), "'iteration': a whole number from 0 was expected, got -2"),
        (lambda saved: saved.update(best_metric="x"), "'best_metric': a number was expected, got 'x'"),
        (lambda saved: saved.update(best_metric_epoch=1.0), "'best_metric_epoch': a whole number from -1"),
        (lambda saved: saved.update(random_state=torch.zeros(3)), "'random_state' is none of this PyTorch"),
        (lambda saved: saved.update(random_state=None), "'random_state' is none of this PyTorch"),
        (lambda saved: saved["scheduler"].update(_step_count="1"), "'scheduler' does not fit .*_step_count: int was expected"),
        (broken("exp_avg", lambda m: m * torch.nan), "'optimizer' does not fit .*exp_avg holds NaN"),
        (broken("exp_avg_sq", lambda m: m[..., :1]), r"'optimizer' does not fit .*exp_avg_sq has shape \(1, 1\)"),
        (broken("exp_avg", lambda m: None), "'optimizer' does not fit .*different kinds of moments"),
        (lambda saved: saved["optimizer"]["state"][0].pop("exp_avg"), "'optimizer' does not fit .*different kinds of moments"),
    ],
)
def test_what_a_later_step_would_stumble_over_is_refused(tmp_path, damage, problem):
    Run(tmp_path, [3.0, 2.0]).go()
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    damage(saved)
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(InputError, match=f"last.pt: {problem}"):
        run = Run(tmp_path, [3.0, 2.0])
        run.checkpoint.restore(run.trainer)
