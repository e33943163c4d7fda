"""The verifier as users start it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import Case, lps_affine, write_case
from monai_vmat.protocol import load_protocol

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "verify_cases.py"
PROTOCOL = load_protocol("prostate_sib")
SHAPE = (24, 24, 12)


def write_case_file(folder: Path, case_id: str, dose_gy: float = 70.0) -> None:
    ct = np.full(SHAPE, 40, np.int16)
    ct[0, 0, 0] = 900
    structures = {name: np.zeros(SHAPE, bool) for name in ("PTV70", "Rectum", "Bladder")}
    for mask, y in zip(structures.values(), (9, 15, 3)):
        mask[8:14, y : y + 6, 3:9] = True
    case = Case(
        case_id=case_id,
        protocol=PROTOCOL.name,
        ct_hu=ct,
        affine=lps_affine((2.0, 2.0, 2.5)),
        structures=structures,
        prescription_gy={"PTV70": 70.0},
        constraints=PROTOCOL.encode_constraints({"PTV70": 70.0}),
        dose_gy=np.where(structures["PTV70"], dose_gy, 0.0).astype(np.float32),
    )
    write_case(case, folder / f"{case_id}.npz")


def verify(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A good case, a hot one, and half of one."""
    folder = tmp_path_factory.mktemp("cases")
    for case_id, dose_gy in (("case_10", 70.0), ("case_2", 95.0), ("half", 70.0)):
        write_case_file(folder, case_id, dose_gy)
    whole = (folder / "half.npz").read_bytes()
    (folder / "half.npz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def done(folder) -> subprocess.CompletedProcess:
    return verify(folder, "--html", folder / "page.html", "--workers", 2)


def test_case_and_structure_tables(done):
    lines = [line.split() for line in done.stdout.splitlines()]
    volume = f"{216 * 0.010:.2f}"
    assert lines[2] == ["case_2", *"24 x 24 x 12".split(), *"2.00 x 2.00 x 2.50".split(), "95.00", "3", "95.00", "-", "1"]
    assert lines[3] == ["case_10", *"24 x 24 x 12".split(), *"2.00 x 2.00 x 2.50".split(), "70.00", "3", "70.00", "-", "0"]
    assert ["PTV70", "2", volume, volume, volume] in lines


def test_problems_are_listed_and_an_unreadable_case_fails(done):
    assert done.returncode == 1
    assert "  case_2: dose maximum 95.00 Gy, 56.0 to 91.0 Gy expected" in done.stdout
    assert "  half: unreadable: " in done.stdout


def test_page_shows_the_readable_cases(done, folder):
    page = (folder / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and not re.search(r'(src|href)="(?!data:)', page)


def test_datalist_gives_cases_spacing_and_protocol(tmp_path):
    write_case_file(tmp_path, "not_listed")
    sdf = np.ones((8, 4, 4, 4), np.float32)
    sdf[0, 1:3, 1:3, 1:3] = sdf[3, :, 0, 0] = sdf[4, 0, 0, :] = -1
    arrays = {"ct": np.full((4, 4, 4), 0.5, np.float32), "masks_sdf": sdf, "constraints": np.ones(13, np.float32)}
    np.savez(tmp_path / "old.npz", **arrays)
    item = {"case": "old.npz", "case_id": "old", "patient": "old", "spacing_mm": [1.5, 1.5, 3]}
    (tmp_path / "datalist.json").write_text(json.dumps({"protocol": "prostate_sib", "training": [item]}))
    done = verify(tmp_path / "datalist.json", "--workers", 1)
    assert done.returncode == 0, done.stderr  # problems that deserve a look are no failure
    assert "1.50 x 1.50 x 3.00" in done.stdout and "no dose" in done.stdout and "not_listed" not in done.stdout


def test_bad_input_is_one_line(tmp_path):
    np.savez(tmp_path / "old.npz", masks_sdf=np.ones((8, 2, 2, 2), np.float32))
    done = verify(tmp_path)
    assert done.returncode == 2
    assert "--protocol" in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
