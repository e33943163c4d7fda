"""Which of an earlier file's metadata are kept, and what they say about the voxels' size."""

from __future__ import annotations

import json

import pytest

from monai_vmat.plain_facts import plain_facts, stated_spacing


def test_facts_are_kept():
    facts = {
        "version": "2.3",
        "technique": "VMAT",
        "n_beams": 2,
        "normalised": True,
        "mu": 611.5,
        "absent": None,
        "shape": [300, 300, 160],
        "volumes_cc": {"PTV70": 101.5, "structures": ["PTV70", "Rectum"]},
        "slices": [{"index": 1}, {"index": 2}],
    }
    kept, left_out = plain_facts(facts)
    assert kept == facts and left_out == []
    json.dumps(kept, allow_nan=False)


@pytest.mark.parametrize(
    "key",
    [
        *("patient", "patient_name", "PatientName", "PatientID", "patientid", "PATIENT_ID", "mrn", "MRN", "birth_date"),
        *("PatientBirthDate", "dob", "StudyInstanceUID", "SOPInstanceUID", "seriesuid", "AccessionNumber", "case_id", "id"),
        *("planner", "institution", "source_dir", "dicom_path", "file", "study_date", "comment", "ReferringPhysicianName"),
        *("Smith^John", "", "a" * 65, "Ä"),
    ],
)  # fmt: skip
def test_keys_that_may_name_a_patient_are_left_out(key):
    kept, left_out = plain_facts({"n": 1, "deep": [{"er": {key: 5, "m": 2}}], key: "x"})
    assert kept == {"n": 1, "deep": [{"er": {"m": 2}}]}
    assert left_out == [f"deep.er.{key}", key]


@pytest.mark.parametrize(
    "value",
    [
        *("John Smith", "/data/p7/ct", "C:\\p7", "2024-01-31", "31.1.2024", "20240131", "A12345", "1.2.840.1136"),
        *("x" * 33, "Ä", "a@b", "", 12345, 20240131, 12345678.0, -54321, float("nan"), float("inf"), 2**64),
        *(["VMAT", "John Smith"], [[1.0, float("nan")]], [99999]),
    ],
)  # fmt: skip
def test_values_that_may_name_a_patient_or_are_no_json_are_left_out(value):
    assert plain_facts({"label": value, "n": 1}) == ({"n": 1}, ["label"])


AFFINE = [[-1.5, 0, 0, 12.0], [0, -1.5, 0, -7.0], [0, 0, 3.0, 100.0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("metadata", "spacing", "where"),
    [
        ({"spacing": [1.0, 1.0, 2.5]}, (1, 1, 2.5), "metadata 'spacing'"),
        ({"Voxel_Spacing_mm": [2, 2, 2]}, (2, 2, 2), "metadata 'Voxel_Spacing_mm'"),
        ({"affine": AFFINE}, (1.5, 1.5, 3), "metadata 'affine'"),
        ({"affine": AFFINE, "spacing": [1.5, 1.5, 3.0], "n": 1}, (1.5, 1.5, 3), "metadata 'affine'"),
        ({"spacing": None}, None, "no metadata state it"),
        ({"original_spacing": [1, 1, 3], "n": 1}, None, "no metadata state it"),
        ({"spacing": [2.0, 1.0, 1.0]}, None, "metadata 'spacing' (2, 1, 1) does not say in which order its axes are"),
        ({"affine": AFFINE, "spacing": [1.5, 1.5, 2.0]}, None, "metadata 'affine' and 'spacing' differ"),
        ({"spacing": 2.0}, None, "metadata 'spacing' is not three numbers of mm"),
        ({"spacing": "112"}, None, "metadata 'spacing' is not three numbers of mm"),
        ({"spacing": [1, 1]}, None, "metadata 'spacing' is not three numbers of mm"),
        ({"spacing": [1, 1, 0]}, None, "metadata 'spacing' is not three numbers of mm"),
        ({"spacing": [1, 1, float("nan")]}, None, "metadata 'spacing' is not three numbers of mm"),
        ({"affine": [[1, 2], [3, 4]]}, None, "metadata 'affine' is not three numbers of mm"),
    ],
)
def test_stated_spacing(metadata, spacing, where):
    assert stated_spacing(metadata) == (spacing, where)
