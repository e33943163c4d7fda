"""Whose plan a case is, told only to those who hold the salt."""

from __future__ import annotations

import csv
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from monai_vmat.dicom.reading import read_dataset, text
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError
from monai_vmat.files import write_secret

_KEPT = ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
_COLUMNS = ["patient_id", "case_id"]


@dataclass(frozen=True)
class Identity:
    """Names of a study that identify nobody: of the case, and of the patient (the same for all of a patient's plans)."""

    case_id: str
    patient: str


def identify(study: Study, salt: bytes, case_ids: dict[str, str] | None = None) -> Identity:
    """Name a study: the same files and salt always give the same names.

    Args:
        study: one that has no problem.
        salt: without it, nobody can find out by trying whose plan it is.
        case_ids: the user's own case id by PatientID.

    Raises:
        InputError: when a file is damaged, or ``case_ids`` does not have the patient.
    """
    files = [path for path in (study.structures, study.plan, *study.doses) if path] or [study.ct[0]]
    headers = [read_dataset(path, study.names(path), _KEPT) for path in files]
    patient_id = text(headers[0], "PatientID")
    patient = patient_id or text(headers[0], "FrameOfReferenceUID")
    own = None
    if case_ids is not None:
        own = case_ids.get(patient_id)
        if own is None:
            raise InputError(study.label, "the table of --case-ids does not have its PatientID", "Add it to the table")
    plan = "\n".join(sorted(text(header, "SOPInstanceUID") for header in headers))
    return Identity(own or f"case-{_hash(salt, plan)}", f"patient-{_hash(salt, patient)}")


def identifiers(study: Study) -> dict[str, str]:
    """What identifies a study's patient, for those who ask for it: fields of its structure set."""
    assert study.structures is not None  # no case without it
    header = read_dataset(study.structures, study.names(study.structures), _KEPT)
    return {keyword: text(header, keyword) for keyword in _KEPT}


def read_case_ids(path: Path) -> dict[str, str]:
    """The user's own table: case id by PatientID, from a CSV file with the columns ``patient_id`` and ``case_id``.

    Raises:
        InputError: when it is unreadable, has other columns, empty fields, or a patient or case id twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = reader.fieldnames, list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "cannot be read as CSV", "Check the path, save it as UTF-8") from error
    if columns != _COLUMNS:
        raise InputError(path, f"columns {', '.join(_COLUMNS)} were expected in its first line", "Correct it")
    table: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        patient_id, case_id = ((row[column] or "").strip() for column in _COLUMNS)
        if not patient_id or not case_id or patient_id in table or case_id in table.values():
            raise InputError(path, f"line {number}: a patient and a case id, each once, were expected", "Correct it")
        table[patient_id] = case_id
    return table


def read_salt(path: Path) -> bytes:
    """The salt in a file, which is made when it is not there: for its owner to read, and for nobody who gets the cases.

    Raises:
        InputError: when it is empty or cannot be read or written.
    """
    try:
        if not path.exists():
            write_secret(path, secrets.token_hex(32) + "\n")
        salt = path.read_bytes().strip()
    except OSError as error:
        raise InputError(path, f"cannot be read or written ({error.strerror})", "Name another file with --salt") from error
    if not salt:
        raise InputError(path, "is empty; a salt was expected", "Delete it, and a new one is made: case ids will change")
    return salt


def _hash(salt: bytes, content: str) -> str:
    return hmac.new(salt, content.encode(), hashlib.sha256).hexdigest()[:12]
