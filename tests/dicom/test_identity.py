"""Names that tell nobody who the patient is, except holders of the salt."""

from __future__ import annotations

import re
import shutil
import stat

import pytest

from monai_vmat.dicom.identity import identify, read_case_ids, read_salt
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import InputError


def test_the_same_study_and_salt_give_the_same_names(pelvis_files):
    (study,) = find_studies(pelvis_files)
    identity = identify(study, b"salt")
    assert identity == identify(study, b"salt")
    assert re.fullmatch("case-[0-9a-f]{12}", identity.case_id) and re.fullmatch("patient-[0-9a-f]{12}", identity.patient)
    other = identify(study, b"pepper")
    assert other.case_id != identity.case_id and other.patient != identity.patient


def test_plans_of_a_patient_share_the_patient_only(export, edit):
    before = identify(find_studies(export)[0], b"salt")
    edit(export / "rd.dcm", SOPInstanceUID="1.2.3.4.5")
    after = identify(find_studies(export)[0], b"salt")
    assert before.patient == after.patient and before.case_id != after.case_id
    for name in ("rs.dcm", "rp.dcm", "rd.dcm"):
        edit(export / name, PatientID="someone else")
    assert identify(find_studies(export)[0], b"salt").patient != after.patient


def test_without_a_patient_id_the_frame_of_reference_names_the_patient(export, edit):
    edit(export / "rs.dcm", PatientID="")
    assert identify(find_studies(export)[0], b"salt").patient.startswith("patient-")


def test_the_users_own_case_ids(tmp_path, pelvis_files):
    table = tmp_path / "ids.csv"
    table.write_text("patient_id,case_id\nSECRET-ID-4711,p01\nother,p02\n")
    (study,) = find_studies(pelvis_files)
    assert identify(study, b"salt", read_case_ids(table)).case_id == "p01"
    with pytest.raises(InputError, match="--case-ids does not have its PatientID") as caught:
        identify(study, b"salt", {"other": "p02"})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ("", "id,case\na,b\n", "patient_id,case_id\na,\n", "patient_id,case_id\na,1\na,2\n", "patient_id,case_id\na,1\nb,1\n"),
)
def test_unusable_tables(tmp_path, content):
    (tmp_path / "ids.csv").write_text(content)
    with pytest.raises(InputError, match="ids.csv: (columns|line)"):
        read_case_ids(tmp_path / "ids.csv")


def test_a_salt_is_made_once_and_for_its_owner(tmp_path):
    path = tmp_path / "out" / ".salt"
    salt = read_salt(path)
    assert len(salt) == 64 and read_salt(path) == salt and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty; a salt was expected"):
        read_salt(path)
    shutil.rmtree(path.parent)
    assert read_salt(path) != salt
