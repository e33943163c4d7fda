"""Whatever inference is given becomes items of the dataset."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from monai_vmat.case import read_case, write_case
from monai_vmat.errors import InputError
from monai_vmat.inputs import find_inputs


def test_case_files_are_taken_as_they_are(tmp_path, prostate, make_case):
    write_case(make_case(prostate), tmp_path / "in" / "a.npz")
    for source in (tmp_path / "in", tmp_path / "in" / "a.npz"):
        found = find_inputs(source, prostate, tmp_path / "out", constraints={"Rectum_V50Gy": 0.3})
        assert [item["case"] for item in found.items] == [str(tmp_path / "in" / "a.npz")] and found.studies == {}
        assert found.items[0]["constraints"] == {"Rectum_V50Gy": 0.3}
    assert not (tmp_path / "out").exists()


def test_a_dicom_export_becomes_cases(tmp_path, prostate, make_case, write_dicom_set, caplog):
    """Without dose or with an unusable one; a study that cannot be used is named and left out; nobody is named."""
    whole = make_case(prostate)
    write_dicom_set(whole, tmp_path / "in" / "first", prostate, dose_spacing_mm=(6.0, 6.0, 6.0))
    write_dicom_set(make_case(prostate, absent=("Rectum",)), tmp_path / "in" / "second", prostate, seed="2", patient_id="other")
    with caplog.at_level(logging.INFO):
        found = find_inputs(tmp_path / "in", prostate, tmp_path / "out", spacing_mm=[3.0, 3.0, 3.0])
    (item,) = found.items
    case = read_case(item["case"], prostate)
    assert list(found.studies) == [case.case_id] and len(found.studies[case.case_id].ct) == whole.ct_hu.shape[2]
    assert case.dose_gy is None and set(case.structures) >= set(whole.structures) and case.spacing_mm == (3.0, 3.0, 3.0)
    assert "second" in caplog.text and "required structures are absent: Rectum" in caplog.text
    assert "SECRET" not in caplog.text + str(case.metadata) + case.case_id


def test_own_names_for_structures(tmp_path, prostate, make_case, write_dicom_set):
    write_dicom_set(make_case(prostate), tmp_path / "in", prostate, roi_names={"Rectum": "R_1"})
    with pytest.raises(InputError, match="nothing in it can be predicted"):
        find_inputs(tmp_path / "in", prostate, tmp_path / "out")
    (tmp_path / "names.json").write_text('{"R_1": "Rectum"}')
    assert len(find_inputs(tmp_path / "in", prostate, tmp_path / "out", mapping=tmp_path / "names.json").items) == 1


def test_nifti_folders_become_cases(tmp_path, prostate, make_case):
    case = make_case(prostate)
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        volumes = {"ct": case.ct_hu} | {n: m.astype(np.uint8) for n, m in case.structures.items()}
        for file, volume in volumes.items():
            nib.save(nib.Nifti1Image(volume, case.affine), tmp_path / "in" / name / f"{file}.nii.gz")
    found = find_inputs(tmp_path / "in", prostate, tmp_path / "out")
    assert [read_case(item["case"], prostate).case_id for item in found.items] == ["one", "two"] and not found.studies
    assert [len(find_inputs(tmp_path / "in" / name, prostate, tmp_path / "out").items) for name in ("one", "two")] == [1, 1]


def test_nothing_there(tmp_path, prostate):
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(InputError, match=nothing.name):
            find_inputs(nothing, prostate, tmp_path / "out")
