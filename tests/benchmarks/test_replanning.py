"""Plans made again are predictions of the plans they repeat, from other voxels or other windows."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from monai_vmat.case import read_case, write_case
from monai_vmat.datalist import build_datalist
from monai_vmat.errors import InputError
from monai_vmat.predictions import read_prediction
from monai_vmat.protocol import load_protocol

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "replanning.py"
SPEC = importlib.util.spec_from_file_location("replanning", SCRIPT)
replanning = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(replanning)
PROTOCOL = load_protocol("prostate_sib")
PLAN = {"objectives": "balanced", "lean": 0.5, "phantom_seed": 7, "sectors": 9}


@pytest.fixture
def cohort(tmp_path, make_case, monkeypatch):
    """Two plans of one anatomy; a planner whose dose says what it was asked."""
    case = make_case(PROTOCOL, shape=(20, 18, 16), spacing=(3.0, 3.0, 3.0), seed=1, case_id="a")
    first = replace(case, patient="p", metadata={"plan": PLAN}, prescription_gy={"PTV70": 70.0, "PTV56": 50.4})
    second = replace(first, case_id="b", metadata={"plan": PLAN | {"lean": 0.9, "sectors": 15}})
    folder = tmp_path / "cohort"
    for plan in (first, second):
        write_case(plan, folder / f"{plan.case_id}.npz")
    content = build_datalist([("a.npz", "a", "p"), ("b.npz", "b", "p")], PROTOCOL.name, (0, 0, 1))
    (folder / "datalist.json").write_text(json.dumps(content))

    class Planner:
        def __init__(self, phantom, seed):
            self.seed = seed

        def plan(self, objectives, sectors):
            asked = 10 * self.seed + objectives.ptv56_gy / 10 + objectives.lean + sectors / 100
            return SimpleNamespace(dose_gy=np.full(case.ct_hu.shape, asked, np.float32))

    monkeypatch.setattr("monai_vmat.planning.plan.Planner", Planner)
    monkeypatch.setattr("monai_vmat.planning.phantom.make_phantom", lambda seed: SimpleNamespace(structures=case.structures))
    # fresh processes would not know these
    monkeypatch.setattr(replanning, "map_in_processes", lambda work, items, workers, unit: [work(item) for item in items])

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["replanning.py", str(folder), str(tmp_path / "out"), *options])
        replanning.main()
        cases = [read_case(folder / f"{name}.npz", PROTOCOL) for name in "ab"]
        return [float(read_prediction(tmp_path / "out" / f"{c.case_id}_pred.npz", c, 70.0)[0].max()) for c in cases]

    return SimpleNamespace(run=run, folder=folder, first=first)


def test_other_voxels_the_same_anatomy_objectives_and_windows(cohort):
    assert cohort.run() == pytest.approx([80 + 5.04 + 0.5 + 0.09, 80 + 5.04 + 0.9 + 0.15], abs=0.005)


def test_other_windows_the_same_voxels(cohort):
    assert cohort.run("--sectors", "15") == pytest.approx([70 + 5.04 + 0.5 + 0.15, 70 + 5.04 + 0.9 + 0.15], abs=0.005)


@pytest.mark.parametrize("sectors", ["0", "7", "x"])
def test_sectors_must_divide_the_control_points(cohort, sectors, capsys):
    with pytest.raises(SystemExit):
        cohort.run("--sectors", sectors)
    assert "--sectors" in capsys.readouterr().err


def test_plans_that_cannot_be_made_again_are_named(cohort, monkeypatch):
    write_case(replace(cohort.first, metadata={}), cohort.folder / "a.npz")
    with pytest.raises(InputError, match="p: no phantom_seed.*make_phantom_cohort"):
        cohort.run()
    write_case(cohort.first, cohort.folder / "a.npz")
    other = {name: ~mask for name, mask in cohort.first.structures.items()}
    monkeypatch.setattr("monai_vmat.planning.phantom.make_phantom", lambda seed: SimpleNamespace(structures=other))
    with pytest.raises(InputError, match="p: this version draws another anatomy from seed 7"):
        cohort.run()
