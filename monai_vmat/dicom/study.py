"""Which files of a folder belong together, by what they say themselves: never by their names.

A structure set names the CT series that it was drawn on, a plan its structure set, a dose its plan. Where such a reference
is missing, a shared frame of reference decides if it leaves one candidate; otherwise the study is refused, not guessed.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_vmat.dicom.privacy import PathNames, identifying_words
from monai_vmat.dicom.reading import EXPORT_AGAIN, load_pydicom, numbers, read_dataset, sequence, text
from monai_vmat.errors import InputError

_ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "ImagePositionPatient",
    "ReferencedFrameOfReferenceSequence",
    "ReferencedStructureSetSequence",
    "ReferencedRTPlanSequence",
)


@dataclass(frozen=True)
class Study:
    """Planning data that belong together.

    Args:
        ct: the slices of one series, from inferior to superior.
        structures: the RTSTRUCT, if there is one.
        doses: RTDOSE files: one of the plan, or one for each of its beams.
        plan: the RTPLAN, if there is one.
        label: what messages call the study: its folder, without identifiers.
        names: names a file for messages, without identifiers.
        problem: why these files are no study that can be used.
    """

    ct: tuple[Path, ...]
    structures: Path | None
    doses: tuple[Path, ...]
    plan: Path | None
    label: str
    names: PathNames = field(default=PathNames(), repr=False)
    problem: InputError | None = None


@dataclass(frozen=True)
class _Header:
    """What a file says about itself and others (UIDs; empty where it says nothing)."""

    path: Path
    kind: str  # CT, RTSTRUCT, RTPLAN, RTDOSE or another modality
    uid: str
    series: str
    frame_of_reference: str
    names: PathNames
    height_mm: float = 0.0
    drawn_on: frozenset[str] = frozenset()
    structures: str = ""
    plan: str = ""
    problem: InputError | None = None

    @property
    def name(self) -> str:
        return self.names(self.path)


def find_studies(folder: str | Path, *, keep_identifiers: bool = False) -> list[Study]:
    """Find the studies in a folder and its subfolders; only headers are read.

    There is one study for each plan; for each dose (or sum of beams) whose plan is not there; for each structure set and
    each CT series that nothing refers to. Damaged files and those that belong nowhere are studies with a ``problem``.

    Args:
        folder: any nesting, any file names, files of other kinds among them.
        keep_identifiers: whether messages show paths as they are, also where they hold a patient's name, id or UIDs.

    Raises:
        InputError: when the folder does not exist or holds no CT, RTSTRUCT, RTDOSE or RTPLAN; when pydicom is missing.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise InputError(folder, "is not a folder; a folder of DICOM files was expected", "Check the path")
    load_pydicom()  # that it is missing is no fault of the files
    paths = sorted(Path(parent) / name for parent, _, found in os.walk(folder, followlinks=True) for name in found)
    names = PathNames(folder, hide=not keep_identifiers)
    headers: list[_Header] = []
    damaged: list[tuple[Path, InputError]] = []
    foreign = 0
    for path in tqdm(paths, desc="reading headers", unit="file", leave=False):
        try:
            header = _read_header(path, names)
        except InputError as error:
            damaged.append((path, error))
            continue
        if header is None:
            foreign += 1
        else:
            headers.append(header)
    if not damaged and not any(h.kind in ("CT", "RTSTRUCT", "RTDOSE", "RTPLAN") for h in headers):
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(h.kind or "unknown" for h in headers).items())) or "no"
        problem = f"holds no CT, RTSTRUCT, RTDOSE or RTPLAN ({kinds} DICOM files, {foreign} others)"
        raise InputError(folder, problem, "Name the folder of a DICOM-RT export")
    return _label_uniquely([*_link(headers), *_unreadable(damaged, headers, names)])


def _read_header(path: Path, names: PathNames) -> _Header | None:
    dataset = read_dataset(path, names(path), _TAGS)
    if dataset is None:
        return None
    words = identifying_words(*(text(dataset, k) for k in ("PatientID", "PatientName", "PatientBirthDate")))
    names = replace(names, secrets=words)
    kind = text(dataset, "Modality")
    header = _Header(
        path,
        kind,
        uid=text(dataset, "SOPInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        names=names,
        structures=_first_reference(dataset, "ReferencedStructureSetSequence"),
        plan=_first_reference(dataset, "ReferencedRTPlanSequence"),
    )
    if kind == "RTSTRUCT":
        frames = sequence(dataset, "ReferencedFrameOfReferenceSequence")
        studies = [s for frame in frames for s in sequence(frame, "RTReferencedStudySequence")]
        series = [text(s, "SeriesInstanceUID") for study in studies for s in sequence(study, "RTReferencedSeriesSequence")]
        frame_of_reference = next((uid for f in frames if (uid := text(f, "FrameOfReferenceUID"))), header.frame_of_reference)
        return replace(header, drawn_on=frozenset(series) - {""}, frame_of_reference=frame_of_reference)
    if kind == "CT":
        return _read_slice_header(header, dataset)
    return header


def _read_slice_header(header: _Header, dataset: Any) -> _Header:
    if text(dataset, "SOPClassUID") in _ENHANCED_CT:
        problem = InputError(header.name, "a multi-frame (enhanced) CT is not read", "Export the CT as single slices")
        return replace(header, problem=problem)
    try:
        return replace(header, height_mm=numbers(dataset, "ImagePositionPatient", 3, header.name)[2])
    except InputError as error:
        return replace(header, problem=error)


def _first_reference(dataset: Any, keyword: str) -> str:
    return next((text(item, "ReferencedSOPInstanceUID") for item in sequence(dataset, keyword)), "")


def _unreadable(damaged: list[tuple[Path, InputError]], headers: list[_Header], names: PathNames) -> list[Study]:
    """A study for each damaged file; nobody knows whose it is, so no patient's words are shown."""
    names = replace(names, secrets=frozenset().union(*(h.names.secrets for h in headers)))
    errors = [InputError(names(path), error.problem, error.mend) for path, error in damaged]
    return [Study((), None, (), None, error.where, names, error) for error in errors]


def _link(headers: list[_Header]) -> list[Study]:
    of_kind: dict[str, list[_Header]] = defaultdict(list)
    series: dict[str, list[_Header]] = defaultdict(list)
    for header in headers:
        of_kind[header.kind].append(header)
        series[header.series].append(header)
    scans = {uid: members for uid, members in series.items() if any(h.kind == "CT" for h in members)}
    structure_sets = of_kind["RTSTRUCT"]

    # What is planned on a structure set, by the plan's UID (that of a plan which is not there as well).
    planned: dict[str, dict[str, tuple[_Header | None, list[_Header]]]] = {s.uid: {} for s in structure_sets}
    lost: list[tuple[_Header, str]] = []
    for plan in of_kind["RTPLAN"]:
        owner = _owner(plan, structure_sets)
        if isinstance(owner, str):
            lost.append((plan, owner))
        else:
            planned[owner.uid][plan.uid] = (plan, [])
    of_plan = {uid: doses for plans in planned.values() for uid, (_, doses) in plans.items()}
    for dose in of_kind["RTDOSE"]:
        if dose.plan in of_plan:
            of_plan[dose.plan].append(dose)
            continue
        owner = _owner(dose, structure_sets)
        if isinstance(owner, str):
            lost.append((dose, owner))
        elif not dose.plan and len(planned[owner.uid]) == 1:
            next(iter(planned[owner.uid].values()))[1].append(dose)
        else:
            planned[owner.uid].setdefault(dose.plan, (None, []))[1].append(dose)

    studies = []
    unused = dict(scans)
    for structures in structure_sets:
        scan, problem = _scan_of(structures, scans, series)
        # The CTs that it might have been drawn on are told about with it.
        near = structures.frame_of_reference if problem else None
        unused = {uid: s for uid, s in unused.items() if s is not scan and s[0].frame_of_reference != near}
        for planned_by, doses in list(planned[structures.uid].values()) or [(None, [])]:
            studies.append(_make_study(scan, structures, planned_by, doses, problem))
    for scan in unused.values():
        studies.append(_make_study(scan, None, None, [], None))
    for header, reason in lost:
        error = InputError(header.name, reason, "Put the files of its study into the folder or leave it out")
        is_plan = header.kind == "RTPLAN"
        studies.append(_make_study([], None, header if is_plan else None, [] if is_plan else [header], error))
    return studies


def _owner(header: _Header, structure_sets: Iterable[_Header]) -> _Header | str:
    """The structure set of a plan or dose, or why there is none."""
    named = [s for s in structure_sets if s.uid == header.structures]
    if named:
        return named[0]
    near = [s for s in structure_sets if header.frame_of_reference and s.frame_of_reference == header.frame_of_reference]
    if len(near) == 1:
        return near[0]
    if near:
        return f"{header.kind} that names none of the {len(near)} structure sets of its frame of reference"
    return f"{header.kind} whose frame of reference is that of no structure set here: it belongs to another study"


def _scan_of(
    structures: _Header, scans: dict[str, list[_Header]], series: dict[str, list[_Header]]
) -> tuple[list[_Header], InputError | None]:
    """The CT series that a structure set was drawn on, or what is wrong."""
    found = [uid for uid in structures.drawn_on if uid in scans]
    if not structures.drawn_on:
        found = [uid for uid, s in scans.items() if s[0].frame_of_reference == structures.frame_of_reference != ""]
    if len(found) == 1:
        return scans[found[0]], None
    if found:
        problem = f"RTSTRUCT that belongs to {len(found)} CT series as well"
        return [], InputError(structures.name, problem, "Leave the one that was planned on")
    kinds = {h.kind for uid in structures.drawn_on for h in series.get(uid, ())}
    problem = f"RTSTRUCT drawn on {' and '.join(sorted(kinds))}, not on CT" if kinds else "RTSTRUCT whose CT series is not here"
    return [], InputError(structures.name, problem, "Put the CT that it was drawn on into the folder")


def _make_study(
    scan: list[_Header],
    structures: _Header | None,
    plan: _Header | None,
    doses: list[_Header],
    problem: InputError | None,
) -> Study:
    members = [*scan, *doses, *(h for h in (structures, plan) if h)]
    names = members[0].names
    slices = sorted(scan, key=lambda h: h.height_mm)
    return Study(
        ct=tuple(h.path for h in slices),
        structures=structures.path if structures else None,
        doses=tuple(h.path for h in doses),
        plan=plan.path if plan else None,
        label=names(Path(os.path.commonpath([h.path.parent for h in members]))),
        names=names,
        problem=problem or _first_problem(slices, structures, plan, doses),
    )


def _first_problem(
    slices: list[_Header], structures: _Header | None, plan: _Header | None, doses: list[_Header]
) -> InputError | None:
    for image in slices:
        if image.kind != "CT":
            return InputError(image.name, f"is {image.kind or 'of unknown modality'} in a series of CT slices", EXPORT_AGAIN)
        if image.problem:
            return image.problem
    if not slices[0].frame_of_reference:
        return InputError(slices[0].name, "FrameOfReferenceUID is missing", EXPORT_AGAIN)
    for header in (*slices, *((structures,) if structures else ()), *((plan,) if plan else ()), *doses):
        if header.frame_of_reference != slices[0].frame_of_reference and not (header is plan and not plan.frame_of_reference):
            problem = f"{header.kind} has another frame of reference than the CT: their coordinates cannot be compared"
            return InputError(header.name, problem, "Export the files of one plan together")
    return None


def _label_uniquely(studies: list[Study]) -> list[Study]:
    seen: Counter[str] = Counter()
    unique = []
    for study in studies:
        seen[study.label] += 1
        number = seen[study.label]
        unique.append(study if number == 1 else replace(study, label=f"{study.label} #{number}"))
    return unique
