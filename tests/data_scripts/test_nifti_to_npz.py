"""The NIfTI converter as users start it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import lps_affine, read_case

from ..nifti_folder import write_nifti, write_nifti_folder

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "nifti_to_npz.py"


def convert(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments), "--protocol", "prostate_sib", "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def counts(done: subprocess.CompletedProcess) -> dict[str, int]:
    found = re.findall(r"^(converted|already there|refused|usable) +(\d+)$", done.stdout, re.M)
    return {status: int(number) for status, number in found}


@pytest.fixture
def case(make_case, prostate):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0), seed=4)
    return replace(case, affine=lps_affine(case.spacing_mm, (-31.5, 12.25, 871.0)))


@pytest.mark.parametrize("axes", ("LPS", "RAI"))
def test_a_case_becomes_a_folder_and_the_same_case(case, tmp_path, prostate, axes):
    plan = {"prescription_gy": {"PTV56": 50.4}, "constraints": {"Rectum_V50Gy": 0.3}}
    folder = write_nifti_folder(case, tmp_path / "in" / "deeper" / "p07_a", axes)
    (folder / "plan.json").write_text(json.dumps(plan))
    done = convert(tmp_path / "in", tmp_path / "out", "--patient-pattern", r"(p\d+)_")
    assert done.returncode == 0 and counts(done) == {"converted": 1}, done.stderr
    found = read_case(tmp_path / "out" / "p07_a.npz", prostate)
    assert (found.case_id, found.patient, found.metadata) == ("p07_a", "p07", {"source": "NIfTI"})
    np.testing.assert_array_equal(found.ct_hu, case.ct_hu, strict=True)
    np.testing.assert_allclose(found.affine, case.affine, atol=1e-4)
    assert np.abs(found.dose_gy - case.dose_gy).max() < 0.01
    assert set(found.structures) == set(case.structures)
    for name, mask in case.structures.items():
        np.testing.assert_array_equal(found.structures[name], mask)
    assert found.prescription_gy == {"PTV70": 70.0, "PTV56": 50.4} and found.constraints[3] == pytest.approx(0.3)


@pytest.fixture
def source(case, tmp_path) -> Path:
    """A whole folder, one with a strange name for the rectum, and every kind that cannot train."""
    source = tmp_path / "in"
    for name in ("a", "b", "c", "d", "e", "f"):
        write_nifti_folder(case, source / name)
    (source / "b" / "rectum.nii.gz").rename(source / "b" / "R_1.nii.gz")
    (source / "c" / "dose.nii.gz").unlink()
    write_nifti(source / "d" / "dose.nii.gz", case.dose_gy / 28, case.affine)  # of a fraction
    write_nifti(source / "e" / "dose.nii.gz", case.dose_gy[:, :10], case.affine)  # half of the patient
    write_nifti_folder(case, source / "again" / "f")
    return source


REASONS = {
    "b": "required structures are absent: Rectum; names without a match: 'R_1'",
    "c": "has no dose.nii.gz",
    "d": r"dose.nii.gz: mean dose of PTV70: about 70 Gy were expected, got 2.5",
    "e": r"the dose grid leaves out part of PTV70: it reaches from 10.8 to 40.8 mm along Y",
    "f": r"2 folders would be case f",
}


def test_refuses_with_a_reason_and_goes_on(source, tmp_path, prostate):
    out = tmp_path / "out"
    first = convert(source, out)
    assert first.returncode == 0 and counts(first) == {"converted": 1, "refused": 6}, first.stdout + first.stderr
    refused = first.stdout.split("refused, and why:")[1]
    for name, reason in REASONS.items():
        assert re.search(rf"\(in/{name}\): .*{reason}", refused), name
    assert [path.name for path in out.iterdir()] == ["a.npz"]
    written = (out / "a.npz").stat().st_mtime_ns

    (out / ".b.npz.k1ll3d.part").write_bytes(b"PK\x03\x04 half a file")  # what a killed run leaves
    (tmp_path / "names.json").write_text(json.dumps({"R_1": "Rectum"}))
    second = convert(source, out, "--mapping", tmp_path / "names.json")
    assert counts(second) == {"already there": 1, "converted": 1, "refused": 5}
    assert (out / "a.npz").stat().st_mtime_ns == written and "Rectum" in read_case(out / "b.npz", prostate).structures
    assert second.stdout.rstrip().endswith(f"next: python data_scripts/make_splits.py {out} --seed 42")

    assert counts(convert(source, out, "--overwrite")) == {"converted": 1, "refused": 6}
    assert (out / "a.npz").stat().st_mtime_ns > written


def test_a_dry_run_shows_names_and_writes_nothing(source, tmp_path):
    done = convert(source, tmp_path / "out", "--dry-run")
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert lines["Rectum"] == ["4", "rectum", "(4)", "-"] and lines["(no"][1] == "R_1"
    assert counts(done) == {"usable": 3, "refused": 4}  # of doses it sees only whether they are there


def test_nothing_usable(source, tmp_path):
    done = convert(source / "c", tmp_path / "out")
    assert done.returncode == 2 and "(c): " in done.stdout and "none of its folders can be converted" in done.stderr
    done = convert(source / "a", tmp_path / "out", "--patient-pattern", "(p)", "--dry-run")
    assert done.returncode == 2 and "a: this name does not match --patient-pattern '(p)'" in done.stdout
    done = convert(tmp_path / "missing", tmp_path / "out")
    assert done.returncode == 2 and "holds no folder with a ct.nii.gz" in done.stderr and "Traceback" not in done.stderr


def test_the_help_says_what_a_folder_holds():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Every folder in SRC with a ct.nii.gz is a case" in done.stdout
