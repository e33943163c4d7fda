"""What a network must beat, computed right."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import Case, lps_affine, write_case
from monai_vmat.protocol import load_protocol

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "baselines.py"
SPEC = importlib.util.spec_from_file_location("baselines", SCRIPT)
baselines = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(baselines)
PROTOCOL = load_protocol("prostate_sib")


def test_fall_off_is_the_median_of_each_bin():
    bins = np.array([[0], [0], [0], [2], [2]])
    guess = baselines.fall_off([(np.array([70.0, 60, 65, 10, 30]), bins)], [0], 99.0)
    assert guess(np.array([[0], [2], [1]])).tolist() == [65.0, 30.0, 99.0]


def test_distances_are_signed():
    mask = np.zeros((9, 5, 5), bool)
    mask[:4] = True
    case = Case("a", "prostate_sib", np.zeros(mask.shape, np.int16), lps_affine((3, 3, 3)), {"PTV70": mask}, {"PTV70": 70.0},
                np.zeros(13, np.float32))  # fmt: skip
    assert baselines.distance_mm(case, "PTV70")[[3, 4, 6], 2, 2].tolist() == pytest.approx([-3, 3, 9])


def test_a_dose_that_only_depends_on_the_distance_is_guessed(tmp_path, make_case, capsys, monkeypatch):
    """Then the fall-off errs by the width of its bins alone, and a constant errs by much."""
    items = {"training": [], "validation": [], "test": []}
    for i, section in enumerate(("training", "training", "test")):
        case = make_case(PROTOCOL, shape=(20, 18, 16), spacing=(3.0, 3.0, 3.0), seed=i, case_id=f"c{i}")
        dose = (70 * np.exp(-baselines.distance_mm(case, "PTV70").clip(0) / 20)).astype(np.float32)
        values = {
            k: getattr(case, k) for k in ("case_id", "protocol", "affine", "structures", "prescription_gy", "constraints")
        }
        write_case(Case(**values, ct_hu=np.zeros(dose.shape, np.int16), dose_gy=dose), tmp_path / f"c{i}.npz")
        items[section].append({"case": f"c{i}.npz", "case_id": f"c{i}", "patient": f"c{i}"})
    (tmp_path / "datalist.json").write_text(json.dumps({"protocol": "prostate_sib", **items}))
    monkeypatch.setattr("sys.argv", ["baselines.py", str(tmp_path)])
    assert baselines.main() == 0
    errors = {
        line.rsplit(maxsplit=1)[0]: float(line.rsplit(maxsplit=1)[1]) for line in capsys.readouterr().out.splitlines()[2:]
    }
    assert errors["distance from PTV70"] < 2.5 < 5 < next(v for k, v in errors.items() if k.startswith("constant"))
