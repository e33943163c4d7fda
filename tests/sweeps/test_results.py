"""What is told of a sweep, from the records of its runs."""

from __future__ import annotations

import json

import pytest

from monai_vmat.console import table
from monai_vmat.files import read_json
from monai_vmat.sweeps.results import is_done, mark_stopped, results_table, trial_results, write_results
from monai_vmat.sweeps.space import read_space


@pytest.fixture
def sweep(tmp_path):
    """A space of five trials and the folder of their runs: finished, stopped, interrupted, failed, waiting."""
    space = {"seed": {"grid": [1, 2, 3, 4, 5]}, "learning_rate": {"grid": [0.0001]}}
    (tmp_path / "space.json").write_text(json.dumps({"base": ["train.json"], "space": space, "max_epochs": 3}))
    for seed, values in ((1, (3.0, "", 2.5)), (2, (9.0,)), (3, (float("nan"), 4.0)), (4, ())):
        folder = tmp_path / "runs" / f"01-seed{seed}"
        folder.mkdir(parents=True)
        rows = [f"{epoch},{value},2.5" for epoch, value in enumerate(values, 1)]
        (folder / "metrics.csv").write_text("\n".join(["epoch,val/mae_gy,seconds", *rows]) + "\n")
    (tmp_path / "runs" / "01-seed1" / "training_summary.json").write_text(json.dumps({"epochs": 3}))
    mark_stopped(tmp_path / "runs" / "01-seed2", {"epochs": 1})
    return read_space(tmp_path / "space.json"), tmp_path / "runs"


def test_status_epochs_and_best_of_every_trial(sweep):
    space, out = sweep
    found = trial_results(space, out, {"01-seed4": "FloatingPointError: the loss is nan"})
    assert [(r["trial"], r["status"], r["epochs"], r["best"], r["best_epoch"], r["seconds"]) for r in found] == [
        ("01-seed1", "finished", 3, 2.5, 3, 7.5),
        ("01-seed2", "stopped", 1, 9.0, 1, 2.5),
        ("01-seed3", "interrupted", 2, 4.0, 2, 5.0),
        ("01-seed4", "failed", 0, None, None, 0),
        ("01-seed5", "waiting", 0, None, None, 0),
    ]
    assert found[3]["error"] == "FloatingPointError: the loss is nan" and "error" not in found[0]
    assert found[0]["settings"] == {"seed": 1, "learning_rate": 0.0001}
    assert [is_done(out / r["trial"]) for r in found] == [True, True, False, False, False]


def test_the_file_is_json_without_nan(sweep):
    space, out = sweep
    write_results(space, out, trial_results(space, out, {}))
    written = read_json(out / "sweep_results.json")
    assert written["sweep"] == "runs" and written["metric"] == "val/mae_gy" and len(written["trials"]) == 5


@pytest.mark.parametrize("mode, order", [("min", "13245"), ("max", "23145")])
def test_the_table_begins_with_the_best(sweep, mode, order):
    space, out = sweep
    space.content["mode"] = mode
    header, rows = results_table(trial_results(space, out, {}), "val/mae_gy", mode)
    assert header == ("trial", "seed", "learning_rate", "epochs", "best val/mae_gy", "at epoch", "status")
    assert [row[0] for row in rows] == [f"01-seed{seed}" for seed in order]
    assert "0.0001" in table(header, rows)


def test_for_max_the_best_is_the_largest(sweep):
    space, out = sweep
    space.content["mode"] = "max"
    assert trial_results(space, out, {})[0]["best"] == 3.0
