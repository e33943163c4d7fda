"""The reader of the published OpenKBP layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import read_case, write_case
from monai_vmat.errors import InputError
from monai_vmat.openkbp import publisher_split, read_openkbp_patient
from monai_vmat.protocol import load_protocol

PROTOCOL = load_protocol("openkbp_head_and_neck")
# A voxel 10th from anterior, 20th from the patient's right, 30th from superior: C-order index into 128^3.
MARKER = (10 * 128 + 20) * 128 + 30
LAST = 128**3 - 1


def write_patient(folder: Path, **files: str | None) -> Path:
    """A smallest complete patient; ``files`` replaces the content of its files, None leaves one out."""
    content = {
        "ct": f",data\n{MARKER},1064.0\n5,0.0\n{LAST},4095.0\n",
        "dose": f",data\n{MARKER},70.25\n6,1.5\n",
        "possible_dose_mask": f",data\n{MARKER},\n6,\n",
        "PTV70": f",data\n{MARKER},\n",
        "voxel_dimensions": "3.0\n4.0\n5.0\n",
        **files,
    }
    folder.mkdir(parents=True)
    for name, text in content.items():
        if text is not None:
            (folder / f"{name}.csv").write_text(text)
    return folder


def test_axes_become_left_posterior_superior(tmp_path):
    case = read_openkbp_patient(write_patient(tmp_path / "pt_7"), PROTOCOL)
    place = (20, 10, 127 - 30)  # X from the right, Y from anterior, Z from inferior
    assert case.ct_hu[place] == 1064 - 1024
    assert case.dose_gy[place] == 70.25
    assert np.argwhere(case.structures["PTV70"]).tolist() == [list(place)]
    assert case.structures["possible_dose_mask"][place]
    assert np.count_nonzero(case.structures["possible_dose_mask"]) == 2
    assert case.spacing_mm == (4.0, 3.0, 5.0)
    assert case.ct_hu.shape == (128, 128, 128)


def test_values_are_hounsfield_and_gray(tmp_path):
    case = read_openkbp_patient(write_patient(tmp_path / "pt_7"), PROTOCOL)
    assert case.ct_hu.max() == 4095 - 1024
    assert np.count_nonzero(case.ct_hu != -1024) == 2  # voxels that no row names are air
    assert float(case.dose_gy.sum(dtype=np.float64)) == 71.75


def test_identity_prescription_and_constraints(tmp_path):
    case = read_openkbp_patient(write_patient(tmp_path / "pt_7", PTV56=",data\n9,\n"), PROTOCOL)
    assert (case.case_id, case.patient, case.protocol) == ("pt_7", "pt_7", "openkbp_head_and_neck")
    assert case.prescription_gy == {"PTV70": 70.0, "PTV56": 56.0}
    expected = [1.0, 0.0, 56 / 70, 50 / 70, 45 / 70, 26 / 70, 26 / 70, 45 / 70, 45 / 70, 73.5 / 70]
    np.testing.assert_allclose(case.constraints, expected, rtol=1e-6)


def test_structures_without_file_or_voxels_are_absent(tmp_path):
    case = read_openkbp_patient(write_patient(tmp_path / "pt_7", Larynx=",data\n", Mandible=",data\n8,\n"), PROTOCOL)
    assert set(case.structures) == {"PTV70", "Mandible", "possible_dose_mask"}


def test_windows_line_ends(tmp_path):
    folder = write_patient(tmp_path / "pt_7")
    (folder / "ct.csv").write_bytes(f",data\r\n{MARKER},1064.0\r\n".encode())
    assert read_openkbp_patient(folder, PROTOCOL).ct_hu.max() == 40


def test_survives_the_native_format(tmp_path):
    case = read_openkbp_patient(write_patient(tmp_path / "pt_7"), PROTOCOL)
    write_case(case, tmp_path / "pt_7.npz")
    again = read_case(tmp_path / "pt_7.npz", PROTOCOL)
    np.testing.assert_array_equal(again.ct_hu, case.ct_hu)
    np.testing.assert_allclose(again.dose_gy, case.dose_gy, atol=0.005)
    assert set(again.structures) == set(case.structures)


@pytest.mark.parametrize("name", ["ct", "dose", "possible_dose_mask", "PTV70", "voxel_dimensions"])
def test_incomplete_patient(tmp_path, name):
    folder = write_patient(tmp_path / "pt_7", **{name: None})
    with pytest.raises(InputError, match=rf"pt_7: incomplete: {name}\.csv not found"):
        read_openkbp_patient(folder, PROTOCOL)


@pytest.mark.parametrize("name", ["ct", "dose", "possible_dose_mask", "PTV70"])
def test_empty_required_file(tmp_path, name):
    folder = write_patient(tmp_path / "pt_7", **{name: ",data\n"})
    with pytest.raises(InputError, match=rf"{name}\.csv: incomplete: it holds no voxels"):
        read_openkbp_patient(folder, PROTOCOL)


def test_dose_may_be_missing_when_allowed(tmp_path):
    folder = write_patient(tmp_path / "pt_7", dose=None)
    assert read_openkbp_patient(folder, PROTOCOL, require_dose=False).dose_gy is None


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("ct", "1,2.0\n", "header"),
        ("ct", "", "header"),
        ("ct", ",data\n1,abc\n", "abc"),
        ("ct", ",data\n1,\n", "malformed"),
        ("ct", ",data\n1,2,3\n4,5\n", "malformed"),
        ("ct", ",data\n1,nan\n", "NaN"),
        ("ct", ",data\n1,5000\n", "0 to 4095"),
        ("ct", ",data\n1,-5\n", "0 to 4095"),
        ("dose", ",data\n1.5,2\n", "1.5"),
        ("dose", ",data\n1,inf\n", "infinity"),
        ("dose", ",data\n-1,2\n", "got -1 to -1"),
        ("dose", f",data\n{LAST + 1},2\n", f"0 to {LAST} were expected"),
        ("dose", ",data\n7,2\n3,1\n7,2\n", "index 7 occurs more than once"),
        ("dose", ",data\n7,7000\n", "cGy"),
        ("PTV70", ",data\nx,\n", "'x'"),
        ("PTV70", ",data\n3,\n3,\n", "index 3 occurs"),
        ("Larynx", ",data\n99999999,\n", "indices"),
        ("voxel_dimensions", "3.0\n4.0\n", "three numbers"),
        ("voxel_dimensions", "3.0\n4.0\nfive\n", "three numbers"),
        ("voxel_dimensions", "3.0\n-4.0\n5.0\n", "above 0"),
        ("voxel_dimensions", "3.0\nnan\n5.0\n", "above 0"),
    ],
)
def test_malformed_file_is_named(tmp_path, name, text, problem):
    folder = write_patient(tmp_path / "pt_7", **{name: text})
    with pytest.raises(InputError) as caught:
        read_openkbp_patient(folder, PROTOCOL)
    assert problem in caught.value.problem
    assert "pt_7" in caught.value.where


def test_binary_file_is_named(tmp_path):
    folder = write_patient(tmp_path / "pt_7")
    (folder / "ct.csv").write_bytes(b",data\n\xff\xfe\x00")
    with pytest.raises(InputError, match=r"ct\.csv: cannot be read"):
        read_openkbp_patient(folder, PROTOCOL)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        read_openkbp_patient(tmp_path / "pt_1", PROTOCOL)


@pytest.mark.parametrize(
    ("number", "split"),
    [(1, "training"), (200, "training"), (201, "validation"), (240, "validation"), (241, "test"), (340, "test")],
)
def test_publisher_split(number, split):
    assert publisher_split(f"pt_{number}") == split


@pytest.mark.parametrize("case_id", ["pt_0", "pt_341", "pt_", "pt_1b", "case_1", "xpt_1"])
def test_publisher_split_knows_its_patients_only(case_id):
    with pytest.raises(InputError, match=case_id):
        publisher_split(case_id)


def test_real_patient_is_upright(tmp_path, openkbp_dir):
    spec = importlib.util.spec_from_file_location("openkbp_expand", openkbp_dir / "expand.py")
    expand = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expand)
    expand.write_csv(expand.read(openkbp_dir / "train" / "pt_2.npz"), tmp_path / "pt_2")
    case = read_openkbp_patient(tmp_path / "pt_2", PROTOCOL)
    x, y, z = range(3)
    center = {name: np.argwhere(mask).mean(0) for name, mask in case.structures.items()}
    assert center["LeftParotid"][x] > center["RightParotid"][x]
    assert center["Mandible"][y] < center["SpinalCord"][y]
    assert center["Brainstem"][z] > center["SpinalCord"][z]
    assert 70 < case.dose_gy.max() < 80
    assert not case.dose_gy[~case.structures["possible_dose_mask"]].any()
