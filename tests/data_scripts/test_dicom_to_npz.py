"""The DICOM converter as users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_vmat.case import read_case

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "dicom_to_npz.py"
SECRETS = ("SECRET", "4711", "19470813", "1.2.826.0.1.3680043.8.498")


def convert(*arguments: object, protocol: str = "prostate_sib") -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments), "--protocol", protocol, "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def counts(done: subprocess.CompletedProcess) -> dict[str, int]:
    lines = [line.split() for line in done.stdout.split("studies", 2)[2].split("\n\n")[0].splitlines()]
    return {" ".join(words[:-1]): int(words[-1]) for words in lines if words[-1:] and words[-1].isdecimal()}


@pytest.fixture(scope="module")
def source(tmp_path_factory, make_case, prostate, write_dicom_set) -> Path:
    """Two patients (one with a strange name for the rectum) and one without a dose, in folders named after them."""
    folder = tmp_path_factory.mktemp("source")
    shape = {"shape": (16, 14, 10), "spacing": (5.0, 5.0, 5.0)}
    good, strange = make_case(prostate, seed=1, case_id="a", **shape), make_case(prostate, seed=2, case_id="b", **shape)
    write_dicom_set(good, folder / "SECRET-ID-4711" / "x", prostate)
    write_dicom_set(strange, folder / "2", prostate, patient_id="SECRET-2", roi_names={"Rectum": "Rektum"})
    without = make_case(prostate, seed=3, case_id="c", with_dose=False, **shape)
    write_dicom_set(without, folder / "3", prostate, patient_id="SECRET-3")
    (folder / "3" / "report.pdf").write_text("no DICOM")
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("names") / "names.json"
    path.write_text(json.dumps({"Rektum": "Rectum"}))
    return path


def test_a_dry_run_shows_names_and_writes_nothing(source, tmp_path):
    done = convert(source, tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert lines["PTV70"] == ["3", "PTV70", "(3)", "-"] and lines["Rectum"] == ["2", "Rectum", "(2)", "-"]
    assert "Rektum" in done.stdout and counts(done) == {"refused": 2, "usable": 1}
    assert "required structures are absent: Rectum; names without a match: 'Rektum'" in done.stdout
    assert "(3): 3: no RTDOSE belongs to it" in done.stdout
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


def test_converts_refuses_and_goes_on(source, names, tmp_path, prostate):
    out = tmp_path / "out"
    first = convert(source, out)
    assert first.returncode == 0, first.stderr
    assert counts(first) == {"refused": 2, "converted": 1}
    (file,) = out.glob("*.npz")
    written = file.stat().st_mtime_ns
    second = convert(source, out, "--mapping", names)
    assert counts(second) == {"refused": 1, "already there": 1, "converted": 1}
    assert file.stat().st_mtime_ns == written
    third = convert(source, out, "--mapping", names, "--without-dose", "--overwrite")
    assert counts(third) == {"converted": 3} and file.stat().st_mtime_ns > written
    assert third.stdout.rstrip().endswith(f"next: python data_scripts/make_splits.py {out} --seed 42")
    files = sorted(out.glob("*.npz"))
    cases = [read_case(path, prostate) for path in files]
    assert len({case.patient for case in cases}) == 3 and sum(case.dose_gy is None for case in cases) == 1
    for path, case in zip(files, cases, strict=True):
        assert path.stem == case.case_id and "Rectum" in case.structures
    for path in files:
        content = path.read_bytes() + str(dict(np.load(path))).encode()
        assert not any(secret.encode() in content for secret in SECRETS)
    assert not any(secret in r.stdout + r.stderr for r in (first, second, third) for secret in SECRETS)
    assert sorted(p.name for p in out.iterdir()) == sorted([".salt", *(p.name for p in files)])


def test_identifiers_on_request(source, tmp_path, prostate):
    done = convert(source, tmp_path / "out", "--keep-identifiers")
    (path,) = (tmp_path / "out").glob("*.npz")
    assert "(SECRET-ID-4711/x)" in done.stdout
    assert read_case(path, prostate).metadata["identifiers"]["PatientName"] == "SECRET^PATIENT"


def test_the_users_own_ids_objectives_and_grid(source, names, tmp_path, prostate):
    (tmp_path / "ids.csv").write_text("patient_id,case_id\nSECRET-ID-4711,p01\nSECRET-2,p02\n")
    (tmp_path / "constraints.json").write_text(json.dumps({"p02": {"Rectum_V50Gy": 0.25}}))
    options = ("--mapping", names, "--spacing-mm", 4, 4, 6, "--margin-mm", 15, "--salt", tmp_path / "salt")
    done = convert(
        source, tmp_path / "out", *options, "--case-ids", tmp_path / "ids.csv", "--constraints", tmp_path / "constraints.json"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p01.npz", "p02.npz"]
    assert "(3): 3: the table of --case-ids does not have its PatientID" in done.stdout
    first, second = (read_case(tmp_path / "out" / f"p0{n}.npz", prostate) for n in (1, 2))
    assert first.constraints[3] == pytest.approx(0.5) and second.constraints[3] == pytest.approx(0.25)
    assert first.spacing_mm == pytest.approx((4, 4, 6)) and first.ct_hu.shape[0] < 20


def test_two_plans_of_a_patient_do_not_overwrite_each_other(source, tmp_path):
    folder = tmp_path / "plans"
    for path in (source / "SECRET-ID-4711" / "x").iterdir():
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    for name, uid in (("rp", "1.2.3.4.5.6"), ("rd", "1.2.3.4.5.7")):
        dataset = pydicom.dcmread(folder / f"{name}.dcm")
        dataset.SOPInstanceUID = uid
        if name == "rd":
            dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5.6"
        dataset.save_as(folder / f"{name}_2.dcm")
    done = convert(folder, tmp_path / "out")
    assert counts(done) == {"converted": 2} and len(list((tmp_path / "out").glob("*.npz"))) == 2
    (tmp_path / "ids.csv").write_text("patient_id,case_id\nSECRET-ID-4711,p01\n")
    done = convert(folder, tmp_path / "own", "--case-ids", tmp_path / "ids.csv")
    assert done.returncode == 2 and "2 studies would be case p01" in done.stdout
    assert not list((tmp_path / "own").glob("*.npz"))


def test_nothing_usable(source, tmp_path):
    done = convert(source / "3", tmp_path / "out")
    assert done.returncode == 2 and "no RTDOSE belongs to it" in done.stdout
    assert "none of its studies can be converted" in done.stderr and "Traceback" not in done.stderr
    done = convert(tmp_path / "missing", tmp_path / "out")
    assert done.returncode == 2 and "is not a folder" in done.stderr


@pytest.mark.parametrize(
    "option", (("--spacing-mm", 0, 1, 1), ("--margin-mm", -1), ("--mapping", "missing.json"), ("--constraints", "missing.json"))
)
def test_unusable_options(source, tmp_path, option):
    done = convert(source, tmp_path / "out", *option)
    assert (
        done.returncode == 2 and "Traceback" not in done.stderr and option[0].strip("-") in done.stderr + "mapping constraints"
    )


def test_says_what_to_install_without_pydicom(source, tmp_path):
    (tmp_path / "pydicom.py").write_text("raise ImportError('blocked')")
    command = [sys.executable, SCRIPT, source, tmp_path / "out", "--protocol", "prostate_sib"]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = {[str(c) for c in command[1:]]!r}; "
    code += f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "pip install 'monai_vmat[dicom]'" in done.stderr
