"""The migration of v2.x files as users start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import read_case, read_metadata, write_case
from monai_vmat.npz import NpzArchive

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "migrate_npz.py"


def migrate(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments), "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def counts(done: subprocess.CompletedProcess) -> tuple[int, ...]:
    """Converted, already there, refused."""
    found = [re.search(rf"^{word} +(\d+)$", done.stdout, re.M) for word in ("converted", "already there", "refused")]
    assert all(found), done.stdout + done.stderr
    return tuple(int(match[1]) for match in found)


def metadata(**content: object) -> np.ndarray:
    return np.asarray(content, dtype=object)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_v2, make_case, prostate) -> Path:
    """Files with every kind of metadata."""
    folder = tmp_path_factory.mktemp("v2")
    personal = {"PatientName": "Doe^Jane", "plan": {"mrn": "4711", "n_beams": 2}, "technique": "VMAT"}
    write_v2(folder / "p1_plan1.npz", metadata=metadata(spacing=(1.0, 1.0, 2.5), mu=np.float32(611.5), **personal))
    write_v2(folder / "p1_plan2.npz", metadata=None, masks=None)
    write_v2(folder / "p2_plan1.npz", metadata=metadata(spacing=(2.5, 1.0, 1.0)))
    write_v2(folder / "p3_plan1.npz", metadata=metadata(x=[Evil()]))
    write_v2(folder / "p4_plan1.npz", make_case(prostate, spacing=(1, 1, 2), with_dose=False), metadata=metadata(n=1))
    write_case(make_case(prostate), folder / "p5_plan1.npz")
    (folder / "p6_plan1.npz").write_bytes((folder / "p1_plan1.npz").read_bytes()[:-99])
    return folder


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    out = tmp_path_factory.mktemp("native") / "out"
    return migrate(folder, out, "--patient-pattern", r"(p\d+)_plan\d+"), out


def test_every_file_is_converted_or_refused_with_a_reason(folder, done):
    done, out = done
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert counts(done) == (3, 0, 4)
    assert sorted(os.listdir(out)) == ["p1_plan1.npz", "p1_plan2.npz", "p4_plan1.npz"]
    refused = done.stdout.split("refused, and why:")[1]
    for name, reason in {
        "p2": "metadata 'spacing' (2.5, 1, 1) does not say in which order its axes are, so its voxel size is not known. "
        "Give it with --spacing X Y Z",
        "p3": "array 'metadata' needs 'posix.system', which is never loaded",
        "p5": "is a native case already",
        "p6": "is not a whole .npz archive",
    }.items():
        assert f"{folder / name}_plan1.npz: {reason}" in refused
    assert not Path("executed").exists()
    with np.load(folder / "p3_plan1.npz", allow_pickle=False) as archive, pytest.raises(ValueError, match="allow_pickle"):
        archive["metadata"]
    assert done.stdout.rstrip().endswith(f"next: python data_scripts/make_splits.py {out}")


@pytest.mark.parametrize("name", ["p1_plan1", "p1_plan2", "p4_plan1"])
def test_a_migrated_case_is_the_same_plan(folder, done, prostate, name):
    _, out = done
    spacing = (1, 1, 2.5) if name == "p1_plan1" else (1, 1, 2)
    old, new = read_case(folder / f"{name}.npz", prostate, spacing), read_case(out / f"{name}.npz", prostate)
    assert (new.case_id, new.patient, new.spacing_mm) == (name, name[:2], spacing)
    np.testing.assert_array_equal(new.ct_hu, old.ct_hu, strict=True)
    assert list(new.structures) == list(old.structures)
    for structure, mask in old.structures.items():
        np.testing.assert_array_equal(new.structures[structure], mask)
    assert new.prescription_gy == old.prescription_gy and (new.constraints == old.constraints).all()
    assert (new.dose_gy is None) == (old.dose_gy is None) == (name == "p4_plan1")
    if old.dose_gy is not None:
        assert np.abs(new.dose_gy - old.dose_gy).max() < 0.00501
        assert np.abs(new.dose_gy - old.dose_gy).max() > 0.004  # it was rounded: the bound is the format's


def test_metadata_lose_the_patient_and_the_report_says_what(folder, done):
    done, out = done
    kept = read_metadata(out / "p1_plan1.npz")
    facts = {"spacing": [1.0, 1.0, 2.5], "mu": 611.5, "plan": {"n_beams": 2}, "technique": "VMAT"}
    assert kept["v2_metadata"] == facts and kept["spacing_from"] == "metadata 'spacing'" and kept["dialect"] == "v2"
    assert "Jane" not in done.stdout and b"Jane" not in (out / "p1_plan1.npz").read_bytes()
    assert re.search(r"stay behind:\n  PatientName: 1\n  plan.mrn: 1\n", done.stdout)
    assert "v2_metadata" not in read_metadata(out / "p1_plan2.npz")
    assert re.search(r"  1 x 1 x 2 mm \(the v2.x default\): 2\n  1 x 1 x 2.5 mm \(metadata 'spacing'\): 1\n", done.stdout)
    with NpzArchive(out / "p1_plan1.npz") as archive:
        assert archive.read("metadata").dtype.kind == "U"  # nothing pickled any more


def test_distances_of_another_voxel_size_are_told(folder, done):
    """p1_plan1 states 2.5 mm, but its distances were measured with slices of 2 mm."""
    done, _ = done
    notes = done.stdout.split("look at:\n")[1].split("\nrefused")[0].strip().splitlines()
    assert len(notes) == 1 and re.match(r"p1_plan1.npz: its signed distances fit voxels of 1 x 1 x 2 mm", notes[0])


def test_goes_on_where_it_was(tmp_path, write_v2):
    source, out = tmp_path / "v2", tmp_path / "native"
    source.mkdir()
    write_v2(source / "a.npz")
    assert counts(migrate(source, out)) == (1, 0, 0)
    before = (out / "a.npz").stat().st_mtime_ns
    write_v2(source / "b.npz")
    (out / ".b.npz.k1ll3d.part").write_bytes(b"PK\x03\x04 half a file")  # what a killed run leaves
    done = migrate(source, out)
    assert counts(done) == (1, 1, 0) and done.returncode == 0
    assert (out / "a.npz").stat().st_mtime_ns == before
    assert counts(migrate(source, out, "--overwrite")) == (2, 0, 0)
    assert (out / "a.npz").stat().st_mtime_ns > before


def test_spacing_for_files_without(tmp_path, write_v2, prostate):
    source = tmp_path / "v2"
    source.mkdir()
    write_v2(source / "none.npz", metadata=None)
    write_v2(source / "unclear.npz", metadata=metadata(spacing=(3.0, 1.0, 1.0)))
    write_v2(source / "other.npz", metadata=metadata(spacing=(1.0, 1.0, 2.0)))
    write_v2(source / "same.npz", metadata=metadata(spacing=(1.0, 1.0, 3.0)))
    done = migrate(source, tmp_path / "out", "--spacing", 1, 1, 3)
    assert counts(done) == (3, 0, 1) and "other.npz: metadata 'spacing' says 1 x 1 x 2 mm, --spacing differs" in done.stdout
    for name in ("none", "unclear", "same"):
        assert read_case(tmp_path / "out" / f"{name}.npz", prostate).spacing_mm == (1, 1, 3)
    done = migrate(source, tmp_path / "all", "--spacing", 1, 1, 3, "--without-metadata")
    assert counts(done) == (4, 0, 0) and "v2_metadata" not in read_metadata(tmp_path / "all" / "other.npz")


def test_metadata_that_are_refused_can_be_left_unread(tmp_path, write_v2, prostate):
    (tmp_path / "v2").mkdir()
    write_v2(tmp_path / "v2" / "a.npz", metadata=metadata(x=Evil()))
    done = migrate(tmp_path / "v2", tmp_path / "out")
    assert done.returncode == 2 and "--without-metadata" in done.stdout and "none of its files" in done.stderr
    done = migrate(tmp_path / "v2", tmp_path / "out", "--without-metadata")
    assert done.returncode == 0 and read_case(tmp_path / "out" / "a.npz", prostate).case_id == "a"


def test_doses_below_zero_are_told(tmp_path, write_v2, make_case, prostate):
    (tmp_path / "v2").mkdir()
    case = make_case(prostate, spacing=(1, 1, 2))
    dose = case.dose_gy.swapaxes(0, 1) / np.float32(70)
    dose[0, 0, 0] = -0.03 / 70
    write_v2(tmp_path / "v2" / "a.npz", case, dose=dose)
    done = migrate(tmp_path / "v2", tmp_path / "out")
    assert done.returncode == 0 and "a.npz: doses below zero (down to -0.030 Gy) were set to zero" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{empty}", "out"], "holds no .npz files"),
        (["{v2}", "{v2}"], "another folder than SRC"),
        (["{v2}", "out", "--spacing", "1", "1", "0"], "three numbers above 0"),
        (["{v2}", "out", "--protocol", "lung"], "protocol 'lung': unknown"),
        (["{v2}", "out", "--patient-pattern", "("], "'(' is no regular expression"),
    ],
)
def test_bad_settings(tmp_path, write_v2, arguments, problem):
    for name in ("empty", "v2"):
        (tmp_path / name).mkdir()
    write_v2(tmp_path / "v2" / "a.npz")
    done = migrate(
        *(a.format(empty=tmp_path / "empty", v2=tmp_path / "v2").replace("out", str(tmp_path / "out")) for a in arguments)
    )
    assert done.returncode == 2 and problem in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
