"""What a space file may say, and the trials that follow from it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from monai_vmat.errors import InputError
from monai_vmat.sweeps.space import read_space

SPACE = {
    "base": ["train.json", "quick.json"],
    "settings": {"val_interval": 2},
    "space": {
        "overlay": {"choice": ["grad_loss", "dvh_aware"]},
        "loss#weights#gradient": {"loguniform": [0.01, 1.0]},
        "seed": {"grid": [42, 43]},
    },
    "max_epochs": 14,
    "asha": {"grace_period": 2, "reduction_factor": 3},
    "trials": 6,
}


@pytest.fixture
def read(tmp_path):
    """``read(count=None, **changes)``: read the space above, changed; a change to ``...`` leaves the key out."""

    def read(count: int | None = None, **changes):
        content = {key: value for key, value in (SPACE | changes).items() if value is not ...}
        (tmp_path / "space.json").write_text(json.dumps(content))
        return read_space(tmp_path / "space.json", count)

    return read


def test_each_draw_is_run_in_every_combination_of_the_grids(read):
    trials = read().trials
    assert [trial.name for trial in trials] == [
        f"{i:02d}-{trials[2 * i - 1].settings['overlay']}-seed{s}" for i in (1, 2, 3) for s in (42, 43)
    ]
    draws = Counter((t.settings["overlay"], t.settings["loss#weights#gradient"]) for t in trials)
    assert list(draws.values()) == [2, 2, 2]
    assert all(0.01 <= weight <= 1 and float(f"{weight:.4g}") == weight for _, weight in draws)


def test_draws_are_the_same_each_time_and_more_trials_begin_with_the_fewer(read):
    assert read().trials == read().trials == read(count=20).trials[:6]
    assert len({json.dumps(t.settings) for t in read(count=200).trials}) == 200


def test_numbers_are_drawn_over_the_whole_range(read):
    space = {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "patience": {"uniform": [0, 10]}}
    settings = [trial.settings for trial in read(space=space, trials=400).trials]
    below = sum(s["learning_rate"] < 1e-3 for s in settings)
    assert below == pytest.approx(200, abs=40)  # as many below as above the middle, in the logarithm
    assert sum(s["patience"] < 5 for s in settings) == pytest.approx(200, abs=40)
    assert min(s["patience"] for s in settings) < 0.2 and max(s["patience"] for s in settings) > 9.8


def test_choices_are_not_drawn_twice(read):
    space = {"overlay": {"choice": ["a", "b"]}, "amp": {"choice": [True, False]}, "seed": {"grid": [1, 2]}}
    trials = read(space=space, trials=8).trials
    assert len({json.dumps(t.settings) for t in trials}) == 8
    with pytest.raises(InputError, match="'trials': 10, but the space has 8 different ones"):
        read(space=space, trials=10)


def test_a_grid_alone_needs_no_number_of_trials(read):
    space = read(space={"seed": {"grid": [1, 2, 3]}, "amp": {"grid": [True, False]}}, trials=..., asha=...)
    assert len(space.trials) == 6 and space.trials[0].name == "01-seed1"
    assert space.grace_period == 14  # nothing is stopped


def test_the_example_spaces_are_right():
    folder = Path(__file__).resolve().parents[2] / "bundles" / "dose" / "configs" / "sweeps"
    assert all(read_space(path).trials for path in sorted(folder.glob("*.json")))


WRONG = {
    "unknown key": ({"trails": 6}, "unknown ['trails']"),
    "missing key": ({"max_epochs": ...}, "missing ['max_epochs']"),
    "no base": ({"base": []}, "'base': a list of configuration files"),
    "settings": ({"settings": [1]}, "'settings': an object"),
    "metric": ({"metric": "train/loss"}, "'metric': a name 'val/...'"),
    "mode": ({"mode": "least"}, "'mode': min or max"),
    "epochs": ({"max_epochs": 1.5}, "'max_epochs': a whole number from 1"),
    "cpus": ({"cpus_per_trial": 0}, "'cpus_per_trial': a number above 0"),
    "gpus": ({"gpus_per_trial": -1}, "'gpus_per_trial': a number from 0"),
    "asha keys": ({"asha": {"grace_period": 2}}, "'asha': an object of ['grace_period', 'reduction_factor']"),
    "late grace": (
        {"asha": {"grace_period": 15, "reduction_factor": 3}},
        "'asha.grace_period': a whole number of epochs from 1 to max_epochs (14)",
    ),
    "reduction": ({"asha": {"grace_period": 2, "reduction_factor": 1}}, "'asha.reduction_factor': a whole number from 2"),
    "empty space": ({"space": {}}, "'space': an object with at least one key"),
    "own key": ({"space": {"max_epochs": {"grid": [1]}}}, "'max_epochs' is set by the sweep itself"),
    "overlay in settings": ({"settings": {"overlay": "a"}}, "'settings.overlay': name the file in 'base'"),
    "both": ({"settings": {"seed": 1}}, "'seed' is in 'settings' and in 'space'"),
    "no domain": ({"space": {"seed": [1, 2]}}, "'space.seed': an object with one of grid, choice, uniform, loguniform"),
    "two domains": ({"space": {"seed": {"grid": [1], "choice": [1]}}}, "'space.seed': an object with one of"),
    "unknown domain": ({"space": {"seed": {"random": [1]}}}, "'space.seed': an object with one of"),
    "empty list": ({"space": {"seed": {"grid": []}}}, "'space.seed.grid': a list of values"),
    "twice": ({"space": {"seed": {"grid": [1, 1]}}}, "'space.seed.grid': [1, 1] has a value twice"),
    "range of one": ({"space": {"a": {"uniform": [1]}}}, "'space.a.uniform': two numbers"),
    "falling range": ({"space": {"a": {"uniform": [2, 1]}}}, "'space.a.uniform': two numbers, the smaller first"),
    "log of 0": ({"space": {"a": {"loguniform": [0, 1]}}}, "'space.a.loguniform': two numbers, above 0"),
    "bool range": ({"space": {"a": {"uniform": [False, True]}}}, "'space.a.uniform': two numbers"),
    "overlay path": ({"space": {"overlay": {"grid": ["../a"]}}}, "'space.overlay': a name in configs/experiments"),
    "seed text": ({"space": {"seed": {"grid": ["42"]}}}, "'space.seed': a whole number from 0"),
    "odd trials": ({"trials": 5}, "'trials': a multiple of 2 (combinations of the grids) was expected, got 5"),
    "no trials": ({"trials": 0}, "'trials': a multiple of 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_with_its_field(read, tmp_path, name):
    changes, told = WRONG[name]
    with pytest.raises(InputError) as caught:
        read(**changes)
    assert caught.value.where == str(tmp_path / "space.json") and told in caught.value.problem
