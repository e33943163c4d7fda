"""The record of a run: its files, its columns, and what a resumed run makes of them."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from monai_vmat.case import write_case
from monai_vmat.errors import InputError
from monai_vmat.handlers.run_record import RunRecord, read_metrics


@pytest.fixture
def datalist(tmp_path, prostate, make_case):
    for name in ("a", "b"):
        write_case(make_case(prostate, case_id=name), tmp_path / f"{name}.npz")
    items = {name: [{"case": f"{name}.npz", "case_id": name, "patient": name}] for name in ("a", "b")}
    (tmp_path / "datalist.json").write_text(
        json.dumps({"protocol": "prostate_sib", "training": items["a"], "test": items["b"]})
    )
    return tmp_path / "datalist.json"


def run(folder, datalist, epochs, start=0, validate=lambda epoch: epoch % 2 == 0):
    network = torch.nn.Linear(2, 1)
    validator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, best_metric=0.5, best_metric_epoch=2))
    record = RunRecord(
        folder, experiment="e", datalist=datalist, project_root=folder, seed=7, validator=validator, network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.25),
    )  # fmt: skip

    def step(engine, batch):
        engine.state.metrics = {"train/loss": 1.0 / engine.state.epoch}
        if validate(engine.state.epoch):
            validator.state.epoch = engine.state.epoch
            validator.state.metrics = {"val/loss": 0.1, "val/mae_gy": float(engine.state.epoch), "other": 1.0}

    engine = Engine(step)
    engine.state.epoch, engine.state.iteration = start, start
    engine.state.max_epochs, engine.state.epoch_length = epochs, 1
    record.attach(engine)
    if start < epochs:
        engine.run([0])
    else:
        record.complete(engine)


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_columns_and_rows(tmp_path, datalist):
    run(tmp_path / "run", datalist, 3)
    found = rows(tmp_path / "run")
    assert list(found[0])[:3] == ["epoch", "val/loss", "val/mae_gy"] and {"train/loss", "lr", "seconds"} <= set(found[0])
    assert [r["epoch"] for r in found] == ["1", "2", "3"]
    assert [r["val/mae_gy"] for r in found] == ["", "2.0", ""]
    assert "other" not in found[0] and {r["lr"] for r in found} == {"0.25"}


def test_configuration_and_cases(tmp_path, datalist):
    run(tmp_path / "run", datalist, 2)
    config = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert config["seed"] == 7 and config["parameters"] == 3 and set(config["data_sha256"]) == {"a", "b"}
    assert config["cases"] == {"training": ["a"], "validation": [], "test": ["b"]}
    assert {"git_commit", "versions", "hardware", "config"} <= set(config)
    assert json.loads((tmp_path / "run" / "test_cases.json").read_text())["test_cases"] == ["b"]
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["epochs"] == 2 and summary["best_epoch"] == 2 and summary["best_val_mae_gy"] == 0.5


def test_a_resumed_run_drops_rows_that_its_checkpoint_does_not_know(tmp_path, datalist):
    run(tmp_path / "run", datalist, 3)
    run(tmp_path / "run", datalist, 4, start=2)
    assert [r["epoch"] for r in rows(tmp_path / "run")] == ["1", "2", "3", "4"]
    sessions = json.loads((tmp_path / "run" / "training_config.json").read_text())["sessions"]
    assert [s["first_epoch"] for s in sessions] == [1, 3]


def test_a_finished_run_whose_process_died_before_the_summary_gets_it(tmp_path, datalist):
    path = tmp_path / "run" / "training_summary.json"
    run(tmp_path / "run", datalist, 3)
    summary, before = json.loads(path.read_text()), path.stat().st_ino
    run(tmp_path / "run", datalist, 3, start=3)
    assert path.stat().st_ino == before
    path.unlink()
    run(tmp_path / "run", datalist, 3, start=3)
    assert json.loads(path.read_text()) == summary


def test_a_damaged_table_is_told(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val/loss\n1,much\n")
    with pytest.raises(InputError, match="metrics.csv.*row 1"):
        read_metrics(tmp_path / "metrics.csv")
    assert read_metrics(tmp_path / "none.csv") == []
