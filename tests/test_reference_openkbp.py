"""Real patients: conversion keeps every value and side, and our scores give the published no-learning baseline."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import Case, lps_affine, read_case
from monai_vmat.metrics.case_metrics import aggregate, case_metrics
from monai_vmat.transforms.load_case import case_masks
from monai_vmat.transforms.signed_distance import signed_distance

SCRIPT = Path(__file__).resolve().parents[1] / "data_scripts" / "openkbp_to_npz.py"
FALL_OFF_MM = {"PTV56": 28.0, "PTV63": 36.0, "PTV70": 22.0}


@pytest.fixture(scope="module")
def expand(openkbp_dir):
    spec = importlib.util.spec_from_file_location("openkbp_expand", openkbp_dir / "expand.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def xyz(volume):
    return np.ascontiguousarray(volume.transpose(1, 0, 2)[:, :, ::-1])


def as_case(patient, roi_names, protocol):
    masks = dict(zip(roi_names, map(xyz, patient["masks"]), strict=True)) | {
        "possible_dose_mask": xyz(patient["possible_dose_mask"])
    }
    structures = {name: mask for name, mask in masks.items() if mask.any()}
    prescription = {t.name: t.prescription_gy for t in protocol.targets if t.name in structures}
    return Case(
        case_id=patient["case_id"],
        protocol=protocol.name,
        ct_hu=xyz(patient["ct"].astype(np.int16) - np.int16(1024)),
        affine=lps_affine(patient["voxel_spacing_mm"][[1, 0, 2]]),
        structures=structures,
        prescription_gy=prescription,
        constraints=protocol.encode_constraints(prescription),
        dose_gy=xyz(patient["dose"]),
    )


def test_converted_patients_equal_their_source(openkbp_dir, expand, tmp_path, head_and_neck):
    paths = sorted(openkbp_dir.glob("train/pt_*.npz"))[:2]
    for path in paths:
        expand.write_csv(expand.read(path), tmp_path / "provided-data" / "train-pats" / path.stem)
    subprocess.run([sys.executable, SCRIPT, tmp_path, tmp_path / "out"], check=True, capture_output=True)
    for path in paths:
        expected = as_case(expand.read(path), expand.ROIS, head_and_neck)
        found = read_case(tmp_path / "out" / path.name, head_and_neck)
        assert np.array_equal(found.ct_hu, expected.ct_hu)
        assert np.abs(found.dose_gy - expected.dose_gy).max() <= 0.005 + 1e-5
        assert set(found.structures) == set(expected.structures)
        assert all(np.array_equal(found.structures[n], m) for n, m in expected.structures.items())
        assert found.spacing_mm == pytest.approx(expected.spacing_mm)


def test_left_is_left_and_front_is_front(openkbp_dir, expand, head_and_neck):
    for path in sorted(openkbp_dir.glob("train/pt_*.npz"))[:20]:
        case = as_case(expand.read(path), expand.ROIS, head_and_neck)
        centre = {name: np.argwhere(mask).mean(0) for name, mask in case.structures.items()}
        if {"LeftParotid", "RightParotid"} <= set(centre):
            assert centre["LeftParotid"][0] > centre["RightParotid"][0]  # X grows to the left
        if {"Mandible", "SpinalCord"} <= set(centre):
            assert centre["Mandible"][1] < centre["SpinalCord"][1]  # Y grows to the back
        if {"Brainstem", "Larynx"} <= set(centre):
            assert centre["Brainstem"][2] > centre["Larynx"][2]  # Z grows to the head


def test_scores_of_the_no_learning_baseline(openkbp_dir, expand, head_and_neck):
    """Prescription inside each target, exponential fall-off outside: known to score about 7.6 / 4.7 Gy on these patients."""
    results = []
    for path in sorted(openkbp_dir.glob("validation/pt_*.npz")):
        case = as_case(expand.read(path), expand.ROIS, head_and_neck)
        masks = case_masks(case, head_and_neck)
        dose = np.zeros(case.ct_hu.shape, np.float32)
        for name, prescription_gy in case.prescription_gy.items():
            distance_mm = 150 * np.clip(signed_distance(masks[name], case.spacing_mm, clip_mm=150.0), 0, None)
            dose = np.maximum(dose, prescription_gy * np.exp(-distance_mm / FALL_OFF_MM[name]))
        dose *= masks["possible_dose_mask"]
        results.append(case_metrics(dose, case.dose_gy, masks, case.spacing_mm, head_and_neck))
    summary = aggregate(results, head_and_neck)
    assert len(results) == 33
    assert summary["openkbp_dose_score_gy"] == pytest.approx(7.6, abs=0.3)
    assert summary["openkbp_dvh_score_gy"] == pytest.approx(4.7, abs=0.3)
