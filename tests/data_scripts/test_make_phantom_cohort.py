"""The cohort's command line as users start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data_scripts" / "make_phantom_cohort.py"
SHIPPED = ROOT / "data" / "cohort"


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_finished_anatomies_are_not_made_again(tmp_path):
    for path in SHIPPED.glob("*.npz"):
        (tmp_path / path.name).symlink_to(path)
    done = run("--cases", 24, "--seed", 2026, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 of 24 anatomies are there already" in done.stdout and "PTV70 D95" in done.stdout
    for name in ("datalist.json", "README.md"):
        assert (tmp_path / name).read_text() == (SHIPPED / name).read_text(), name
    ours, shipped = ((folder / "SHA256SUMS").read_text().splitlines() for folder in (tmp_path, SHIPPED))
    if f"matplotlib=={matplotlib.__version__}\n" not in (ROOT / "constraints.txt").read_text():  # another draws other pictures
        ours, shipped = ([line for line in lines if not line.endswith(".png")] for lines in (ours, shipped))
    assert ours == shipped and len(ours) > 24


@pytest.mark.parametrize("arguments", [("--cases", 0), ("--seed", -1), ("--workers", 0)])
def test_bad_numbers_are_refused(tmp_path, arguments):
    done = run(*arguments, "--out", tmp_path / "new")
    assert done.returncode == 2 and "was expected" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
