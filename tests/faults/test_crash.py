"""A short campaign, and that a campaign sees what it is there for."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from . import crash
from . import crash_files as files
from . import crash_programs as programs
from .crash import Campaign
from .crash_programs import ROOT, Program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def campaign(folder):
    return Campaign(folder, seed=3)


@pytest.fixture(scope="module")
def conversions(folder):
    return {program.name: program for program in programs.conversions(folder)}


def test_a_short_campaign(tmp_path):
    """As people start it: conversion, training and evaluation, each killed and started again."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.crash", "--kills", "3", "--seed", "3"]
    command += ["--programs", "migrate_npz", "training", "evaluating", "--out", str(tmp_path / "record.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "record.json").read_text())["programs"]
    assert [row["program"] for row in rows] == ["migrate_npz", "training", "evaluating"]
    assert all(row["kills"] == row["rerun_finished"] == row["identical"] == 1 for row in rows)
    assert not any(row[wrong] for row in rows for wrong in ("work_repeated", "partial_files", "left_over", "processes_left"))


CARELESS = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
for name in "abc":
    with open(out / f"{name}.json", "w") as file:
        file.write("[")
        file.flush()
        time.sleep(0.2)
        file.write(f"{time.time() if 'clock' in sys.argv else 1}]")
"""


def careless(folder, *arguments):
    path = folder / "careless.py"
    path.write_text(CARELESS)
    out = folder / "out" / "careless"
    return Program("careless", "the whole", [str(path), str(out), *arguments], out)


def test_what_does_not_end_is_ended(campaign, folder, monkeypatch):
    """A program with a worker: neither goes on after the campaign has given up."""
    monkeypatch.setattr(crash, "LIMIT_S", 3.0)
    (folder / "endless.py").write_text(
        "import os, time\nopen(__file__ + str(os.fork() == 0), 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    with pytest.raises(RuntimeError, match="has not ended after 3 s"):
        campaign._finish(Program("endless", "the whole", [str(folder / "endless.py")], folder / "out"))
    pids = {int((folder / f"endless.py{child}").read_text()) for child in (False, True)}
    assert len(pids) == 2 and not crash.outlive(pids, 5.0)


def test_half_files_and_other_results_are_seen(campaign, folder):
    tally = campaign.run(careless(folder, "clock"), 3)
    assert tally.partial_files and not tally.identical and tally.rerun_finished == tally.kills == 3 and not tally.survived


def test_repeated_work_is_seen(campaign, conversions):
    converter = conversions["openkbp_to_npz"]
    again = dataclasses.replace(converter, arguments=[*converter.arguments, "--overwrite", "--workers", "1"])
    campaign.random.seed(5)
    tally = campaign.run(again, 3)
    assert tally.work_repeated and tally.identical == 3


def test_what_may_differ_is_left_out_of_the_comparison(tmp_path):
    (tmp_path / "a.json").write_text('{"seconds": 1, "value": 2, "sessions": [{}]}')
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,seconds\n1,0.5,3\n")
    (tmp_path / ".a.json.x.part").write_text("[")
    before = files.contents(tmp_path)
    (tmp_path / "a.json").write_text('{"seconds": 9, "value": 2, "sessions": [{}, {}]}')
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,seconds\n1,0.5,7\n")
    assert files.contents(tmp_path) == before and files.left_over(tmp_path) == [".a.json.x.part"]
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,seconds\n1,0.6,7\n")
    assert files.contents(tmp_path) != before
