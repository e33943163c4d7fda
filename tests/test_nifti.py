"""NIfTI folders become cases, however their voxels are stored."""

from __future__ import annotations

import json
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_vmat.case import Case
from monai_vmat.errors import InputError
from monai_vmat.nifti import find_nifti_folders, match_masks, read_nifti_case

from .nifti_folder import write_nifti, write_nifti_folder


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA", "ARI"])
def test_a_case_comes_back_whole(tmp_path, prostate, make_case, axes):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0))
    found = read_nifti_case(write_nifti_folder(case, tmp_path / "mine", axes), prostate)
    assert found.case_id == "mine" and found.prescription_gy == case.prescription_gy
    np.testing.assert_allclose(found.affine, case.affine, atol=1e-5)
    np.testing.assert_array_equal(found.ct_hu, case.ct_hu)
    np.testing.assert_array_equal(found.dose_gy, case.dose_gy)
    assert set(found.structures) == set(case.structures)
    for name, mask in case.structures.items():
        np.testing.assert_array_equal(found.structures[name], mask)


def test_a_dose_on_a_grid_of_its_own(tmp_path, prostate, make_case):
    """A ramp is a ramp on every grid; where the dose was not calculated it is 0."""
    case = make_case(prostate, shape=(24, 20, 16))
    folder = write_nifti_folder(case, tmp_path / "mine")
    x = case.affine[0, 3] + case.affine[0, 0] * np.arange(24)  # RAS: falls
    affine = case.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine_x = affine[0, 3] + affine[0, 0] * np.arange(24)
    write_nifti(folder / "dose.nii.gz", np.broadcast_to((30 + 0.1 * fine_x)[:, None, None], (24, 40, 32)).copy(), affine)
    found = read_nifti_case(folder, prostate).dose_gy
    assert found[1:11, 2:-2, 2:-2] == pytest.approx(np.broadcast_to((30 + 0.1 * x)[1:11, None, None], (10, 16, 12)), abs=1e-3)
    assert (found[13:] == 0).all()


def test_names_and_plans_of_ones_own(tmp_path, prostate, make_case):
    folder = write_nifti_folder(make_case(prostate), tmp_path / "mine")
    (folder / "rectum.nii.gz").rename(folder / "R_1.nii.gz")
    (folder / "dose.nii.gz").unlink()
    (folder / "plan.json").write_text(json.dumps({"prescription_gy": {"PTV56": 50.4}, "constraints": {"Rectum_V50Gy": 0.3}}))
    with pytest.raises(InputError, match="required structures are absent: Rectum; names without a match: 'R_1'"):
        read_nifti_case(folder, prostate)
    found = read_nifti_case(folder, prostate, {"R_1": "Rectum"})
    assert found.prescription_gy == {"PTV70": 70.0, "PTV56": 50.4} and found.dose_gy is None
    assert found.constraints[3] == pytest.approx(0.3) and found.constraints[1] == pytest.approx(50.4 / 70)


def test_values_at_their_limits(tmp_path, prostate, make_case):
    """More than half is inside; what no scanner means becomes air, what int16 does not hold its greatest number."""
    case = make_case(prostate)
    folder = write_nifti_folder(case, tmp_path / "mine")
    part = np.where(case.structures["Rectum"], 0.51, 0.5).astype(np.float32)
    write_nifti(folder / "rectum.nii.gz", part, case.affine)
    hu = case.ct_hu.astype(np.float32)
    hu[0, 0, :4] = (-3000.0, 40000.0, 29.6, -1024.4)
    write_nifti(folder / "ct.nii.gz", hu, case.affine)
    found = read_nifti_case(folder, prostate)
    np.testing.assert_array_equal(found.structures["Rectum"], case.structures["Rectum"])
    assert found.ct_hu[0, 0, :4].tolist() == [-1024, 32767, 30, -1024]


def test_the_patients_outline_is_the_body(tmp_path, prostate, make_case):
    case = make_case(prostate)
    folder = write_nifti_folder(case, tmp_path / "mine")
    write_nifti(folder / "BODY.nii.gz", (case.ct_hu > -500).astype(np.uint8), case.affine)
    np.testing.assert_array_equal(read_nifti_case(folder, prostate).structures["Body"], case.ct_hu > -500)


def test_folders_and_masks_are_told_by_their_endings(tmp_path, prostate, make_case):
    for name in ("p10", "p2/again", "p9"):
        write_nifti_folder(make_case(prostate), tmp_path / name)
    (tmp_path / "p9" / "ct.nii.gz").rename(tmp_path / "p9" / "ct.nii.bak")
    assert find_nifti_folders(tmp_path) == [tmp_path / "p2" / "again", tmp_path / "p10"]
    assert find_nifti_folders(tmp_path / "p10") == [tmp_path / "p10"]
    (tmp_path / "p10" / "rectum.nii.bak").write_text("old")
    assert match_masks(tmp_path / "p10", prostate).unmatched == ()


def claim(path: Path, at: int, *values: float, kind: str) -> None:
    """Change numbers of a NIfTI-1 header; the file is no longer compressed."""
    content = bytearray(nib.load(path).to_bytes())
    path.unlink()
    content[at : at + len(values) * np.dtype(kind).itemsize] = np.array(values, kind).tobytes()
    path.with_suffix("").write_bytes(content)


def bombs(folder: Path, edge: int) -> None:
    for path in folder.glob("*.nii.gz"):
        bomb(path, edge)


def bomb(path: Path, edge: int) -> None:
    """A few kilobytes of zeros that claim to be ``edge`` voxels along each axis."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((edge,) * 3)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(10_000)))


def bad_files(folder: Path, case: Case) -> dict[str, tuple]:
    """What to do to a folder, and the words of the refusal."""
    tilt = case.affine.copy()
    tilt[:2, :2] = tilt[:2, :2] @ [[0.995, -0.1], [0.1, 0.995]]
    shifted = case.affine + np.array([[0, 0, 0, 5.0], [0] * 4, [0] * 4, [0] * 4])
    ct, mask = case.ct_hu, case.structures["PTV70"].astype(np.uint8)
    plan = folder / "plan.json"
    return {
        "no CT": (lambda: (folder / "ct.nii.gz").unlink(), "has no ct.nii.gz"),
        "truncated": (lambda: (folder / "ct.nii.gz").write_bytes(b"\x1f\x8b no"), "cannot be read as NIfTI"),
        "four dimensions": (
            lambda: nib.save(nib.Nifti1Image(ct[..., None], case.affine), folder / "ct.nii.gz"),
            "three dimens",
        ),
        "oblique": (lambda: nib.save(nib.Nifti1Image(ct, tilt), folder / "ct.nii.gz"), "oblique"),
        "NaN": (lambda: write_nifti(folder / "dose.nii.gz", case.dose_gy * np.nan, case.affine), "NaN"),
        "cGy": (lambda: write_nifti(folder / "dose.nii.gz", case.dose_gy * 100, case.affine), "cGy"),
        "another grid": (lambda: write_nifti(folder / "ptv70.nii.gz", mask, shifted), "another grid than the CT"),
        "empty mask": (lambda: write_nifti(folder / "ptv70.nii.gz", 0 * mask, case.affine), "'PTV70' is empty"),
        "two of a name": (lambda: write_nifti(folder / "PTV_70.nii.gz", mask, case.affine), "'PTV70' is ambiguous"),
        "unknown target": (lambda: plan.write_text('{"prescription_gy": {"PTV60": 60}}'), "targets among PTV70, PTV56"),
        "dose as text": (lambda: plan.write_text('{"prescription_gy": {"PTV70": "70"}}'), "numbers were expected"),
        "unknown field": (lambda: plan.write_text('{"rx": 70}'), "prescription_gy and constraints"),
        "unknown constraint": (lambda: plan.write_text('{"constraints": {"Rectum": 1}}'), "unknown to protocol"),
        "another file of the name": (lambda: (folder / "ptv70.nii").write_text(""), "ptv70.nii.gz: is there as ptv70.nii, too"),
        "giant": (lambda: claim(folder / "ct.nii.gz", 42, 3000, 3000, 3000, kind="<i2"), "at most 536,870,912 voxels"),
        "claimed zeros": (lambda: bombs(folder, 400), "claims to hold 64000000 bytes in .*archive bomb"),
        "CT of another size": (lambda: bomb(folder / "ct.nii.gz", 800), "another grid than the CT .*800, 800, 800"),
        "dose of another size": (lambda: bomb(folder / "dose.nii.gz", 400), "400, 400, 400. voxels of dose were not expected"),
        "mask of another size": (lambda: bomb(folder / "ptv70.nii.gz", 500), "another grid than the CT .*500, 500, 500"),
        "no size": (lambda: claim(folder / "ct.nii.gz", 280, 0.0, kind="<f4"), r"voxel size \[0.0, 3.0, 3.0\] mm"),
        "nowhere": (lambda: claim(folder / "ct.nii.gz", 292, np.nan, kind="<f4"), "ct.nii: holds NaN or infinity"),
        "zero voxels": (lambda: nib.save(nib.Nifti1Image(ct[:0], case.affine), folder / "ct.nii.gz"), "three dimensions"),
    }


KINDS = (
    "no CT, truncated, four dimensions, oblique, NaN, cGy, another grid, empty mask, two of a name, unknown target, "
    "dose as text, unknown field, unknown constraint, another file of the name, giant, claimed zeros, mask of "
    "another size, CT of another size, dose of another size, no size, nowhere, zero voxels"
)


@pytest.mark.parametrize("kind", KINDS.split(", "))
def test_bad_folders_are_refused_in_one_message(tmp_path, prostate, make_case, kind):
    case = make_case(prostate)
    folder = write_nifti_folder(case, tmp_path / "mine")
    spoil, words = bad_files(folder, case)[kind]
    spoil()
    with pytest.raises(InputError, match=words):
        read_nifti_case(folder, prostate)
