"""A sweep's folder from session to session."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from monai_vmat.errors import InputError
from monai_vmat.sweeps.plan import keep_plan, only_session
from monai_vmat.sweeps.space import read_space

CONTENT = {"base": ["train.json"], "space": {"learning_rate": {"uniform": [1, 2]}}, "max_epochs": 3, "trials": 4}


@pytest.fixture
def space(tmp_path):
    def space(**changes):
        (tmp_path / "space.json").write_text(json.dumps(CONTENT | changes))
        return read_space(tmp_path / "space.json")

    return space


def test_a_sweep_goes_on_with_as_many_trials_or_more(space, tmp_path):
    keep_plan(space(), tmp_path, resume=True)
    keep_plan(space(), tmp_path, resume=True)
    keep_plan(space(trials=6, cpus_per_trial=2), tmp_path, resume=True)
    plan = json.loads((tmp_path / "sweep.json").read_text())
    assert [trial["trial"] for trial in plan["trials"]] == [f"0{i}" for i in range(1, 7)]
    with pytest.raises(InputError, match="5 trials, but the sweep in .* has 6. Resume with --trials 6 or more"):
        keep_plan(space(trials=5), tmp_path, resume=True)


def test_another_sweep_is_refused(space, tmp_path):
    keep_plan(space(), tmp_path, resume=False)
    with pytest.raises(InputError, match="holds a sweep already"):
        keep_plan(space(), tmp_path, resume=False)
    with pytest.raises(InputError, match="'max_epochs' is not what the sweep in"):
        keep_plan(space(max_epochs=4), tmp_path, resume=True)


def test_one_session_at_a_time(tmp_path):
    with only_session(tmp_path / "out") as temporary:
        assert temporary.is_dir()
        with pytest.raises(InputError, match="held by another session"), only_session(tmp_path / "out"):
            pass
    assert not temporary.exists()
    with only_session(tmp_path / "out"):
        pass


def test_what_a_killed_session_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = Path(tempfile.mkdtemp(prefix="monai_vmat-sweep-"))
    (tmp_path / "out" / "ray").mkdir(parents=True)
    (tmp_path / "out" / ".lock").write_text(str(killed))
    (tmp_path / "mine").mkdir()
    with only_session(tmp_path / "out") as temporary:
        assert not killed.exists() and not (tmp_path / "out" / "ray").exists()
        assert (tmp_path / "out" / ".lock").read_text() == str(temporary)
    (tmp_path / "out" / ".lock").write_text(str(tmp_path / "mine"))  # no folder of a session
    with only_session(tmp_path / "out"):
        assert (tmp_path / "mine").exists()
