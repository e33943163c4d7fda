"""Which of an earlier file's metadata go into a new one: facts about the plan, nothing about who the patient is.

The files' makers put what they liked into their metadata. Kept are numbers, truth values and single short words. What goes by
a name that speaks of a person, an identifier, a date or a place is left out, and so is what looks like one: text with spaces, a
path, a date, a whole number of five digits or more. (A surname under an innocent name would still pass: look at the report.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Words in a key, after "PatientID" and "patient_id" alike have been taken apart.
_IDENTIFYING = frozenset(
    "patient patients person name names surname firstname lastname initials id ids uid uids guid uuid mrn ssn nhs accession "
    "birth birthdate birthday dob age sex gender ethnic date dates day time datetime timestamp year "
    "address street city zip postcode country phone telephone email mail hospital clinic institution site station "
    "physician doctor oncologist physicist dosimetrist planner operator user author creator owner study series "
    "comment comments note notes remark remarks history "
    "path paths file files filename folder dir directory source src url host hostname".split()
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PLAIN_KEY = re.compile(r"[\w .%+()<>=-]{1,64}", re.ASCII)
_PLAIN_TEXT = re.compile(r"(?!.*\d{5})(?!.*\d+[.-]\d+[.-]\d+[.-]?\d)[\w.%+()<>=-]{1,32}", re.ASCII)
_JOINED = ("patientid", "patientname", "studyuid", "seriesuid", "planuid", "birthdate")
_SPACING_KEYS = ("spacing", "spacing_mm", "voxel_spacing", "voxel_spacing_mm", "voxel_size", "voxel_size_mm")
_AFFINE_KEYS = ("affine", "affine_matrix")


def plain_facts(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The facts that are kept (ready for JSON), and the names of those that are left out, ``outer.inner``.

    Args:
        metadata: plain values, as :func:`~monai_vmat.pickled_metadata.read_pickled_metadata` returns them.
    """
    left_out: list[str] = []

    def kept(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            found = {}
            for key, item in value.items():
                inner = f"{name}.{key}" if name else key
                if _identifies(key) or not _plain(item):
                    left_out.append(inner)
                else:
                    found[key] = kept(item, inner)
            return found
        return [kept(item, name) for item in value] if isinstance(value, list) else value

    return kept(metadata, ""), left_out


def stated_spacing(metadata: Mapping[str, Any]) -> tuple[tuple[float, float, float] | None, str]:
    """The voxel size (X, Y, Z) in mm that metadata state, and where (``'spacing_mm'``); None and why not otherwise.

    Looked at are ``spacing``, ``voxel_spacing``, ``voxel_size`` (also with ``_mm``) and the columns of a 4 x 4 ``affine``.
    Nobody wrote down in which order: the arrays are (Y, X, Z), tools write X, Y, Z or Z, Y, X. So it counts only where the
    first two numbers are the same, the voxels of a slice being squares: then the third is Z. Two that differ state nothing.
    """
    found: dict[str, tuple[float, float, float]] = {}
    for key, value in metadata.items():
        if key.lower() in _SPACING_KEYS and value is not None:
            numbers = value
        elif key.lower() in _AFFINE_KEYS and value is not None:
            rows = value if isinstance(value, list) and len(value) == 4 and all(_numbers(row, 4) for row in value) else []
            numbers = [math.hypot(*(row[axis] for row in rows[:3])) for axis in range(3)] if rows else None
        else:
            continue
        if not _numbers(numbers, 3) or not all(0.0 < n < 1000.0 for n in numbers):
            return None, f"metadata '{key}' is not three numbers of mm"
        x, y, z = map(float, numbers)
        if not math.isclose(x, y, rel_tol=1e-4):
            return None, f"metadata '{key}' ({x:g}, {y:g}, {z:g}) does not say in which order its axes are"
        found[key] = (x, y, z)
    if not found:
        return None, "no metadata state it"
    (name, spacing), *others = found.items()
    for other, numbers in others:
        if not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(spacing, numbers, strict=True)):
            return None, f"metadata '{name}' and '{other}' differ"
    return spacing, f"metadata '{name}'"


def _identifies(key: str) -> bool:
    words = {word.lower() for word in _WORDS.findall(key)}
    joined = re.sub(r"[^a-z]", "", key.lower())
    return not _PLAIN_KEY.fullmatch(key) or bool(words & _IDENTIFYING) or any(part in joined for part in _JOINED)


def _plain(value: Any) -> bool:
    """Whether a value can go into JSON and looks like a fact; what is inside a mapping is judged on its own."""
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    if isinstance(value, str):
        return _PLAIN_TEXT.fullmatch(value) is not None
    if isinstance(value, (int, float)):  # a bool is an int
        return math.isfinite(value) and not (value == int(value) and abs(value) >= 10_000)
    return True


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == count
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in value)
    )
