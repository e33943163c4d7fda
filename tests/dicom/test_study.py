"""Files are put together by what they say of each other."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from monai_vmat.dicom.study import find_studies


def test_a_study_is_what_belongs_together(pelvis_files):
    (study,) = find_studies(pelvis_files)
    assert [p.name for p in study.ct] == [f"ct_{k:03d}.dcm" for k in range(1, 17)]
    assert (study.structures.name, study.plan.name, [p.name for p in study.doses]) == ("rs.dcm", "rp.dcm", ["rd.dcm"])
    assert study.problem is None


@pytest.fixture
def heap(tmp_path, make_case, prostate, write_dicom_set) -> Path:
    """Three studies of two patients under meaningless names in folders that mean nothing, with other files among them."""
    cases = [make_case(prostate, shape=(12, 10, 8), spacing=(6.0, 6.0, 6.0), seed=s, case_id=f"c{s}") for s in range(3)]
    files = []
    for number, case in enumerate(cases):
        folder = write_dicom_set(case, tmp_path / f"set{number}", prostate, patient_id=f"SECRET-{number // 2}", plan=number > 0)
        files += [(path, f"{number}{path.stem[:2]}") for path in folder.iterdir()]
    random.Random(0).shuffle(files)
    for number, (path, _) in enumerate(files):
        target = tmp_path / "heap" / f"{number % 3}" / f"{number % 2}" / f"file{number}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    (tmp_path / "heap" / "DICOMDIR.txt").write_text("no DICOM")
    return tmp_path / "heap"


def test_studies_are_told_apart_without_names(heap):
    studies = find_studies(heap)
    assert len(studies) == 3 and [study.problem for study in studies] == [None] * 3
    for study in studies:
        headers = [
            pydicom.dcmread(p) for p in (*study.ct, study.structures, *study.doses, *([study.plan] if study.plan else []))
        ]
        assert len({h.StudyInstanceUID for h in headers}) == 1 and len(study.ct) == 8 and len(study.doses) == 1
        heights = [h.ImagePositionPatient[2] for h in headers[:8]]
        assert heights == sorted(heights)
    assert sum(study.plan is not None for study in studies) == 2
    assert len({study.label for study in studies}) == 3


def test_each_plan_of_a_patient_is_a_study(export, edit):
    shutil.copy(export / "rp.dcm", export / "other_plan.dcm")
    shutil.copy(export / "rd.dcm", export / "other_dose.dcm")
    edit(export / "other_plan.dcm", SOPInstanceUID="1.2.3.4.5.6")
    edit(
        export / "other_dose.dcm",
        lambda d: setattr(d.ReferencedRTPlanSequence[0], "ReferencedSOPInstanceUID", "1.2.3.4.5.6"),
        SOPInstanceUID="1.2.3.4.5.7",
    )
    studies = find_studies(export)
    assert sorted((s.plan.name, s.doses[0].name) for s in studies) == [
        ("other_plan.dcm", "other_dose.dcm"),
        ("rp.dcm", "rd.dcm"),
    ]
    assert [s.label for s in studies] == ["export", "export #2"]
    (export / "other_plan.dcm").unlink()  # its dose still is of another plan than the one that is there
    assert sorted((s.plan is None, s.doses[0].name) for s in find_studies(export)) == [
        (False, "rd.dcm"),
        (True, "other_dose.dcm"),
    ]


def test_without_references_the_frame_of_reference_decides(export, edit):
    edit(export / "rd.dcm", ReferencedRTPlanSequence=None)
    edit(export / "rp.dcm", ReferencedStructureSetSequence=None)
    edit(export / "rs.dcm", lambda d: delattr(d.ReferencedFrameOfReferenceSequence[0], "RTReferencedStudySequence"))
    (study,) = find_studies(export)
    assert study.problem is None and study.plan and study.doses and len(study.ct) == 16


def test_two_structure_sets_are_told_apart_by_the_plan_or_not_at_all(export, edit):
    shutil.copy(export / "rs.dcm", export / "old.dcm")
    edit(export / "old.dcm", SOPInstanceUID="1.2.3.4.5.6")
    studies = find_studies(export)
    assert sorted((s.structures.name, len(s.doses)) for s in studies) == [("old.dcm", 0), ("rs.dcm", 1)]
    plan = pydicom.dcmread(export / "rp.dcm")
    (export / "rp.dcm").unlink()
    problems = [str(s.problem) for s in find_studies(export) if s.problem]
    assert problems == [
        "rd.dcm: RTDOSE that names none of the 2 structure sets of its frame of reference. "
        "Put the files of its study into the folder or leave it out"
    ]
    edit(export / "rd.dcm", ReferencedStructureSetSequence=plan.ReferencedStructureSetSequence)
    studies = find_studies(export)
    assert sorted((s.structures.name, len(s.doses)) for s in studies) == [("old.dcm", 0), ("rs.dcm", 1)]


def test_other_images_of_the_patient_do_not_matter(export, edit):
    for name, modality in (("mr.dcm", "MR"), ("reg.dcm", "REG")):
        shutil.copy(export / "ct_005.dcm", export / name)
        edit(export / name, Modality=modality, SeriesInstanceUID="1.2.3.4.5", SOPInstanceUID="1.2.3.4.5.6")
    (study,) = find_studies(export)
    assert study.problem is None and len(study.ct) == 16


def test_a_scan_that_nothing_was_drawn_on_is_a_study_of_its_own(export, edit):
    for path in sorted(export.glob("ct_*.dcm")):
        shutil.copy(path, export / f"cone_{path.name}")
        edit(export / f"cone_{path.name}", SeriesInstanceUID="1.2.3.4.5", FrameOfReferenceUID="1.2.3.4.6")
    assert sorted((len(s.ct), s.structures is None, s.problem is None) for s in find_studies(export)) == [
        (16, False, True),
        (16, True, True),
    ]


def test_labels_and_messages_do_not_identify(tmp_path, pelvis_files, edit):
    folder = tmp_path / "SECRET-ID-4711" / "secret_1947" / "1.2.826.0.1.3680043.8.498.77"
    shutil.copytree(pelvis_files, folder)
    dataset = pydicom.dcmread(folder / "ct_005.dcm")
    (folder / "ct_005.dcm").rename(folder / f"CT.{dataset.SOPInstanceUID}.dcm")
    edit(folder / f"CT.{dataset.SOPInstanceUID}.dcm", ImagePositionPatient=None)
    (folder / "SECRET-ID-4711_cut.dcm").write_bytes((folder / "rd.dcm").read_bytes()[:800])
    studies = find_studies(tmp_path)
    text = repr([(s.label, str(s.problem)) for s in studies])
    assert "SECRET" not in text.upper() and "4711" not in text and "1.2.826" not in text
    assert "***/***_1947/***/CT.***.dcm: ImagePositionPatient is missing" in text
    shown = repr([s.label for s in find_studies(tmp_path, keep_identifiers=True)])
    assert "SECRET-ID-4711/secret_1947/1.2.826" in shown


def test_links_are_followed(tmp_path, pelvis_files):
    os.symlink(pelvis_files, tmp_path / "link")
    (study,) = find_studies(tmp_path)
    assert study.label == "link" and replace(study, label="") == replace(find_studies(tmp_path)[0], label="")
