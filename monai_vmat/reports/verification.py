"""Is a case what it should be? Checks before training, as tables and as one HTML page that works offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from monai_vmat.case import Case
from monai_vmat.errors import InputError
from monai_vmat.masks import body_from_ct
from monai_vmat.metrics.dvh import dose_at_volume
from monai_vmat.protocol import Protocol
from monai_vmat.reports.planes import NOTE, three_planes

DOSE_MAX_RANGE = (0.8, 1.3)  # of the primary prescription
LEAST_VOXELS = 100
LEAST_D95 = 0.9  # of the target's prescription
OUTSIDE_BODY_GY, OUTSIDE_BODY_PART = 1.0, 0.01
TISSUE_HU, TISSUE_PART, BONE_HU = -400, 0.01, 300

_PICTURE_DPI, _PICTURE_QUALITIES, _PICTURE_BYTES = 72, (75, 60, 45), 44_000  # in base64 less than 60 kB

Table = tuple[tuple[str, ...], list[tuple[object, ...]]]


@dataclass(frozen=True)
class CaseCheck:
    """What was found in one case.

    Args:
        case_id: the case, or the name of a file that cannot be read.
        shape: voxels along X, Y, Z.
        spacing_mm: voxel size along X, Y, Z.
        dose_max_gy: greatest dose, None without dose.
        d95_gy: D95 of each target by name.
        volumes_cc: volume of each structure by name.
        problems: what deserves a look, in words.
        readable: whether the case could be read.
        picture: JPEG of three planes, or nothing.
    """

    case_id: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    dose_max_gy: float | None = None
    d95_gy: Mapping[str, float] = field(default_factory=dict)
    volumes_cc: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    readable: bool = True
    picture: bytes = b""


def check_case(case: Case, protocol: Protocol) -> CaseCheck:
    """Measure a case and find its problems; the thresholds are this module's constants."""
    dose = case.dose_gy
    d95 = {}
    if dose is not None:
        d95 = {t.name: dose_at_volume(dose[case.structures[t.name]], 95) for t in protocol.targets if t.name in case.structures}
    return CaseCheck(
        case_id=case.case_id,
        shape=case.ct_hu.shape,
        spacing_mm=case.spacing_mm,
        dose_max_gy=None if dose is None else float(dose.max()),
        d95_gy=d95,
        volumes_cc={name: float(np.count_nonzero(mask)) * case.voxel_cc for name, mask in case.structures.items()},
        problems=(*_ct_problems(case), *_structure_problems(case, protocol), *_dose_problems(case, protocol, d95)),
    )


def unreadable_case(name: str, error: InputError) -> CaseCheck:
    """The record of a file that cannot be read."""
    return CaseCheck(name, problems=(f"unreadable: {error}",), readable=False)


def case_picture(case: Case, protocol: Protocol) -> bytes:
    """JPEG of three planes through the primary target: CT and dose, with contours. In the best quality that stays light."""
    doses = {} if case.dose_gy is None else {"dose": case.dose_gy}
    figure = three_planes(case.ct_hu, case.structures, doses, protocol, case.spacing_mm, title=case.case_id)
    for quality in _PICTURE_QUALITIES:
        picture = io.BytesIO()
        figure.savefig(picture, format="jpeg", dpi=_PICTURE_DPI, pil_kwargs={"quality": quality, "optimize": True})
        if picture.tell() <= _PICTURE_BYTES:
            break
    return picture.getvalue()


def case_table(checks: Sequence[CaseCheck], protocol: Protocol) -> Table:
    """Header and one row per case."""
    targets = [t.name for t in protocol.targets]
    header = ("case", "shape", "spacing mm", "Dmax Gy", "structures", *(f"{t} D95 Gy" for t in targets), "problems")
    rows: list[tuple[object, ...]] = []
    for check in checks:
        rows.append(
            (
                check.case_id,
                " x ".join(map(str, check.shape)) or None,
                " x ".join(f"{s:.2f}" for s in check.spacing_mm) or None,
                check.dose_max_gy,
                len(set(check.volumes_cc) & set(protocol.structure_names)) if check.readable else None,
                *(check.d95_gy.get(t) for t in targets),
                len(check.problems),
            )
        )
    return header, rows


def structure_table(checks: Sequence[CaseCheck], protocol: Protocol) -> Table:
    """Header and one row per structure: in how many cases it is, and its least, median and greatest volume."""
    others = sorted({name for check in checks for name in check.volumes_cc} - set(protocol.structure_names))
    rows: list[tuple[object, ...]] = []
    for name in (*protocol.structure_names, *others):
        volumes = [check.volumes_cc[name] for check in checks if name in check.volumes_cc]
        spread = (min(volumes), float(np.median(volumes)), max(volumes)) if volumes else (None, None, None)
        rows.append((name, len(volumes), *spread))
    return ("structure", "cases", "min cc", "median cc", "max cc"), rows


def verification_html(checks: Sequence[CaseCheck], protocol: Protocol, title: str) -> str:
    """One self-contained page: both tables, the problems, and the pictures that the checks carry.

    Args:
        checks: one per case.
        protocol: the protocol that they belong to.
        title: heading, e.g. the folder.
    """
    problems = "".join(f"<li><b>{escape(c.case_id)}</b>: {escape(p)}</li>" for c in checks for p in c.problems)
    encoded = {check.case_id: base64.b64encode(check.picture).decode() for check in checks if check.picture}
    pictures = "\n".join(f'<img alt="{escape(c)}" src="data:image/jpeg;base64,{jpeg}">' for c, jpeg in encoded.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{escape(title)}</title>
<style>
body {{ font-family: sans-serif; margin: 2em; color: #222; }}
table {{ border-collapse: collapse; font-size: 0.85em; }}
th, td {{ padding: 0.25em 0.7em; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ border: 1px solid #ccc; margin: 0.4em; vertical-align: top; }}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{len(checks)} cases, protocol {escape(protocol.name)}. {NOTE}.</p>
<h2>Problems</h2>
{f"<ul>{problems}</ul>" if problems else "<p>None found.</p>"}
<h2>Cases</h2>
{_html_table(case_table(checks, protocol))}
<h2>Structures</h2>
{_html_table(structure_table(checks, protocol))}
<h2>Pictures</h2>
{pictures or "<p>None.</p>"}
</body>
</html>
"""


def _ct_problems(case: Case) -> Iterator[str]:
    tissue = np.count_nonzero(case.ct_hu > TISSUE_HU) / case.ct_hu.size
    if tissue < TISSUE_PART:
        part = f"{100 * tissue:.2f} % of the voxels are above {TISSUE_HU} HU"
        yield f"CT values odd: {part}, at least {100 * TISSUE_PART:g} % expected"
    if case.ct_hu.max() < BONE_HU:
        yield f"CT values odd: no bone, the greatest is {case.ct_hu.max()} HU, at least {BONE_HU} HU expected"


def _structure_problems(case: Case, protocol: Protocol) -> Iterator[str]:
    for structure in protocol.structures:
        mask = case.structures.get(structure.name)
        if mask is None:
            if structure.required:
                yield f"{structure.name} is missing, the protocol requires it"
        elif (voxels := np.count_nonzero(mask)) < LEAST_VOXELS:
            yield f"{structure.name} has {voxels} voxels, at least {LEAST_VOXELS} expected for stable metrics"
    for left, right in protocol.pairs:
        if left in case.structures and right in case.structures:
            if _mean_x(case.structures[left]) <= _mean_x(case.structures[right]):
                yield f"{left} does not lie to the patient's left of {right}: names swapped or image mirrored"


def _dose_problems(case: Case, protocol: Protocol, d95_gy: Mapping[str, float]) -> Iterator[str]:
    dose = case.dose_gy
    if dose is None:
        yield "no dose: it can be predicted for, not trained on"
        return
    rx = case.prescription_gy.get(protocol.primary, protocol.rx_gy)
    low, high = (part * rx for part in DOSE_MAX_RANGE)
    if not low <= dose.max() <= high:
        yield f"dose maximum {dose.max():.2f} Gy, {low:.1f} to {high:.1f} Gy expected for a prescription of {rx:g} Gy"
    for name, value in d95_gy.items():
        prescribed = case.prescription_gy.get(name, protocol.structure(name).prescription_gy)
        if prescribed and value < LEAST_D95 * prescribed:
            expected = f"at least {LEAST_D95 * prescribed:.1f} Gy expected for a prescription of {prescribed:g} Gy"
            yield f"{name} D95 {value:.2f} Gy, {expected}"
    irradiated = dose > OUTSIDE_BODY_GY
    if irradiated.any():
        outside = 1.0 - np.count_nonzero(irradiated & body_from_ct(case.ct_hu)) / np.count_nonzero(irradiated)
        if outside > OUTSIDE_BODY_PART:
            yield (
                f"{100 * outside:.1f} % of the voxels above {OUTSIDE_BODY_GY:g} Gy lie outside the body, "
                f"at most {100 * OUTSIDE_BODY_PART:g} % expected: dose off the CT's grid, or in couch and mask"
            )


def _mean_x(mask: np.ndarray) -> float:
    return float(np.average(np.arange(mask.shape[0]), weights=np.count_nonzero(mask, axis=(1, 2))))


def _html_table(table: Table) -> str:
    header, rows = table
    cells = [[f"{v:.2f}" if isinstance(v, float) else "-" if v is None else str(v) for v in row] for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in cells)
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"
