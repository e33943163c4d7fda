"""Which cases train, validate and test: the ``datalist.json`` beside the case files.

    {"protocol": "prostate_sib",
     "training": [{"case": "p1.npz", "case_id": "p1", "patient": "p1"}, ...],
     "validation": [...],
     "test": [...]}

``case`` is relative to the list's folder and never leads out of it. ``case_id``, of letters, digits, ``.``, ``_`` and ``-``, is
part of the names of what is written of the case. ``patient`` says whose anatomy a plan is on: all plans of a patient are in one
section. An item may have ``spacing_mm`` ([x, y, z]; v2.x files have none of their own) and ``constraints`` ({name: value}: the
plan's own objectives, in the units of the protocol's constraints).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from monai_vmat.case import CASE_ID
from monai_vmat.errors import InputError
from monai_vmat.files import read_json

SECTIONS = ("training", "validation", "test")
FILE_NAME = "datalist.json"
DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)

_REQUIRED_KEYS = ("case", "case_id", "patient")
_OPTIONAL_KEYS = ("spacing_mm", "constraints")
_REMAKE = "Correct it, or make it again with data_scripts/make_splits.py --overwrite"


def read_datalist(path: str | Path, section: str) -> list[dict[str, Any]]:
    """The items of one section.

    Args:
        path: the JSON file, or the folder that holds a ``datalist.json``.
        section: ``training``, ``validation`` or ``test``.

    Returns:
        one dictionary per case, ``case`` being an absolute path; at least one.

    Raises:
        InputError: whatever :func:`load_datalist` finds, an unknown or empty section, or a case file that is missing.
    """
    if section not in SECTIONS:
        raise InputError(path, f"section '{section}' is unknown", f"Use one of {', '.join(SECTIONS)}")
    content = load_datalist(path)
    if not content[section]:
        counts = ", ".join(f"{name} {len(content[name])}" for name in SECTIONS)
        raise InputError(
            path,
            f"section '{section}' is empty (cases: {counts})",
            f"Choose another section, or put cases into it with data_scripts/make_splits.py --{section}-ids ID ... --overwrite",
        )
    needed = SECTIONS if section == "training" else (section,)  # a training records the checksums of all
    missing = [
        item["case"] for name in needed for item in content[name] if not os.path.isfile(item["case"])
    ]  # no error for a name that no file system has
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(path, f"section '{section}': {missing[0]}{more} not found", "Restore the files or " + _REMAKE.lower())
    return content[section]


def load_datalist(path: str | Path) -> dict[str, Any]:
    """The whole list, checked: ``protocol`` and the three sections, whose items have absolute ``case`` paths.

    Raises:
        InputError: when the file is missing or not JSON; for unknown keys and wrong types; for a case path that is
            absolute or leads out of the folder; for a case id that occurs twice or a patient in two sections.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            path,
            f"not found; folder {path.absolute().parent} was expected to hold the cases and their {path.name}",
            "Make them with data_scripts/openkbp_to_npz.py, then data_scripts/make_splits.py; "
            f"or point --dataset_dir to a folder that has a {FILE_NAME}",
        )
    content = read_json(path)
    _require(isinstance(content, dict), path, "a JSON object was expected")
    unknown = sorted(set(content) - {"protocol", *SECTIONS})
    _require(not unknown, path, f"unknown keys {unknown}; 'protocol', {', '.join(map(repr, SECTIONS))} were expected")
    protocol = content.get("protocol")
    _require(isinstance(protocol, str) and protocol != "", path, f"'protocol': a name was expected, got {protocol!r}")

    checked: dict[str, Any] = {"protocol": protocol}
    section_of_patient: dict[str, str] = {}
    case_ids: set[str] = set()
    for section in SECTIONS:
        items = content.get(section, [])
        _require(isinstance(items, list), path, f"'{section}': a list was expected, got {type(items).__name__}")
        checked[section] = [_checked_item(item, path, f"{section}[{i}]") for i, item in enumerate(items)]
        for item in checked[section]:
            case_id, patient = item["case_id"], item["patient"]
            _require(case_id not in case_ids, path, f"case id '{case_id}' occurs twice")
            case_ids.add(case_id)
            other = section_of_patient.setdefault(patient, section)
            _require(other == section, path, f"patient '{patient}' is in two sections, '{other}' and '{section}'")
    return checked


def build_datalist(
    cases: Sequence[tuple[str, str, str]],
    protocol_name: str,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 42,
    explicit_ids: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Split cases by patient, the same way whatever their order.

    Args:
        cases: (path relative to the list's folder, case id, patient) of each.
        protocol_name: the protocol that the cases belong to.
        fractions: share of the patients for training, validation and test. Each share above 0 gets a patient if there
            are enough.
        seed: another seed, another split.
        explicit_ids: case ids by section. A section given here gets exactly these, with all plans of their patients;
            the other patients go to the sections not given, in proportion to their fractions (to none when all are given).

    Returns:
        the content of a ``datalist.json``, items in the natural order of their case ids.

    Raises:
        InputError: no cases, a case id twice, unusable fractions, or explicit ids that are unknown or contradict.
    """
    explicit_ids = explicit_ids or {}
    mend = "Correct the fractions or ids"
    _require(len(cases) > 0, "split", "there are no cases", "Convert some first")
    usable = len(fractions) == len(SECTIONS) and min(fractions) >= 0 and math.isclose(sum(fractions), 1.0, abs_tol=1e-6)
    _require(usable, "fractions", f"three numbers from 0 that sum to 1 were expected, got {list(fractions)}", mend)
    patient_of: dict[str, str] = {}
    for _, case_id, patient in cases:
        _require(case_id not in patient_of, f"case id '{case_id}'", "occurs twice", "Rename one of the cases")
        patient_of[case_id] = patient

    section_of: dict[str, str] = {}
    for section, ids in explicit_ids.items():
        _require(section in SECTIONS, f"section '{section}'", "unknown", f"Use one of {', '.join(SECTIONS)}")
        for case_id in ids:
            _require(case_id in patient_of, f"{section} id '{case_id}'", "is none of the cases", mend)
            other = section_of.setdefault(patient_of[case_id], section)
            problem = f"its patient '{patient_of[case_id]}' is named for '{other}' too; plans of a patient stay together"
            _require(other == section, f"{section} id '{case_id}'", problem, mend)

    shares = {s: f for s, f in zip(SECTIONS, fractions, strict=True) if s not in explicit_ids}
    rest = sorted(set(patient_of.values()) - set(section_of), key=lambda p: hashlib.sha256(f"{seed}/{p}".encode()).digest())
    if shares and rest:
        problem = f"{list(fractions)} leave no place for the {len(rest)} patients that no id names"
        _require(sum(shares.values()) > 0, "fractions", problem, mend)
        for section, count in _apportion(len(rest), shares).items():
            section_of |= dict.fromkeys(rest[:count], section)
            rest = rest[count:]

    content: dict[str, Any] = {"protocol": protocol_name, **{section: [] for section in SECTIONS}}
    for path, case_id, patient in sorted(cases, key=lambda case: natural_order(case[1])):
        if patient in section_of:
            content[section_of[patient]].append({"case": path, "case_id": case_id, "patient": patient})
    return content


def patient_of(name: str, pattern: str | None) -> str:
    """Whose anatomy a plan is on: what the pattern's one group finds in the name of its file or folder (without ending);
    without a pattern, the name.

    Raises:
        InputError: for a pattern that is none, has not one group or does not match.
    """
    if pattern is None:
        return name
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError("--patient-pattern", f"'{pattern}' is no regular expression ({error})", "Correct it") from error
    if compiled.groups != 1:
        raise InputError("--patient-pattern", f"one group was expected, '{pattern}' has {compiled.groups}", "Use one ( )")
    match = compiled.search(name)
    if not match or not match[1]:
        raise InputError(name, f"this name does not match --patient-pattern '{pattern}'", "Widen the pattern or rename it")
    return match[1]


def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """A sorting key that puts pt_2 before pt_10."""
    return tuple((int(digits or -1), text) for digits, text in re.findall(r"(\d+)|(\D+)", name))


def _apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """``total`` in proportion to ``shares`` by largest remainder, then one for each empty share from the fullest."""
    scale = total / sum(shares.values())
    counts = {name: math.floor(share * scale + 1e-9) for name, share in shares.items()}
    remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * scale)
    for name in remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name, share in shares.items():
        fullest = max(counts, key=lambda n: counts[n])
        if share > 0 and counts[name] == 0 and counts[fullest] > 1:
            counts[name] += 1
            counts[fullest] -= 1
    return counts


def _require(condition: bool, where: str | Path, problem: str, mend: str = _REMAKE) -> None:
    if not condition:
        raise InputError(where, problem, mend)


def _checked_item(item: Any, path: Path, field: str) -> dict[str, Any]:
    """A copy of ``item`` with an absolute ``case`` path."""
    _require(isinstance(item, dict), path, f"{field}: an object was expected, got {item!r}")
    missing = [key for key in _REQUIRED_KEYS if key not in item]
    unknown = sorted(set(item) - {*_REQUIRED_KEYS, *_OPTIONAL_KEYS})
    _require(not missing and not unknown, path, f"{field}: keys missing {missing}, unknown {unknown}")
    for key in _REQUIRED_KEYS:
        value = item[key]
        _require(isinstance(value, str) and value.strip() != "", path, f"{field}.{key}: text was expected, got {value!r}")
    problem = f"{field}.case_id: up to 128 letters, digits, '.', '_' or '-' were expected, got {item['case_id']!r}"
    _require(CASE_ID.fullmatch(item["case_id"]) is not None, path, problem)
    problem = f"{field}.case: a relative path inside the list's folder was expected, got {item['case']!r}"
    _require(stays_inside(item["case"]), path, problem)
    if "spacing_mm" in item:
        spacing = item["spacing_mm"]
        ok = isinstance(spacing, list) and len(spacing) == 3 and all(_is_number(s) and s > 0 for s in spacing)
        _require(ok, path, f"{field}.spacing_mm: three numbers above 0 in mm were expected, got {spacing!r}")
    if "constraints" in item:
        stated = item["constraints"]
        ok = isinstance(stated, dict) and all(_is_number(v) and v >= 0 for v in stated.values())
        _require(ok, path, f"{field}.constraints: an object of numbers from 0 by name was expected, got {stated!r}")
    return {**item, "case": str(path.absolute().parent / item["case"])}


def stays_inside(relative: str) -> bool:
    """Whether a path is neither absolute nor climbing, as POSIX or Windows reads it."""
    return all(not (p := kind(relative)).anchor and ".." not in p.parts for kind in (PurePosixPath, PureWindowsPath))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def find_cases(
    source: str | Path, constraints: Mapping[str, float] | None = None, spacing_mm: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Items for inference: one case file, or every ``.npz`` case in a folder; the dose is not needed.

    Args:
        source: a file or a folder (searched without its subfolders; predictions, ``*_pred.npz``, are passed over).
        constraints: objectives by name that replace the cases' own.
        spacing_mm: voxel size of v2.x files, which have none of their own.

    Raises:
        InputError: when nothing is found.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(p for p in source.glob("*.npz") if not p.name.endswith("_pred.npz"))
    else:
        paths = [source] if source.is_file() else []
    if not paths:
        raise InputError(source, "no case files (.npz) found", "Name a case or a folder of cases with --input")
    return [{"case": str(p.resolve()), "constraints": dict(constraints or {}), "spacing_mm": spacing_mm} for p in paths]
