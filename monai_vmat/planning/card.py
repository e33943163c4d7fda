"""The cohort's card: statistics, pictures, checksums and limits, generated from the case files themselves."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.case import Case, read_case
from monai_vmat.datalist import FILE_NAME as DATALIST
from monai_vmat.datalist import SECTIONS, load_datalist
from monai_vmat.errors import InputError
from monai_vmat.files import write_text, write_whole
from monai_vmat.planning.plan import gates
from monai_vmat.protocol import Protocol, load_protocol
from monai_vmat.reports.planes import three_planes

FILE_NAME = "README.md"
CHECKSUMS = "SHA256SUMS"
HALF_DOSE_GY = 35.0
_PICTURES = 3
_MOST_MM = 60.0  # as far as the fall-off behind the prostate is followed
_OTHER = ("Rectum mean", "Bladder mean", "Bladder V50", "PTV70 max", "half dose behind PTV70", "monitor units")
_UNITS = {"half dose behind PTV70": "mm", "monitor units": "a fraction"}

Table = tuple[tuple[str, ...], list[tuple[object, ...]]]


def write_card(folder: Path, seed: int) -> Table:
    """Write ``README.md``, pictures and ``SHA256SUMS`` beside the cases of ``folder``; return the table of statistics.

    Raises:
        InputError: when a case is not what it should be.
    """
    items = load_datalist(folder)
    protocol = load_protocol(items["protocol"])
    figures: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    limits: dict[str, str] = {}
    pictures: list[str] = []
    plan: dict[str, Any] = {}
    missed: dict[str, int] = {}  # by anatomy: its cases all tell the same
    for item in (item for section in SECTIONS for item in items[section]):
        case = read_case(item["case"], protocol)
        plan = case.metadata["plan"]
        missed[case.patient] = len(plan["missed_before"])
        known = gates(_planned(case), case.structures, case.prescription_gy["PTV56"])
        limits |= {g.name: f"{'>=' if g.at_least else '<='} {g.limit:g}" for g in known if g.name != "PTV56 D95"}
        figures[plan["objectives"]][case.case_id] = {g.name: g.value for g in known} | _further(case)
        if len(pictures) < _PICTURES and len(figures[plan["objectives"]]) == 1:
            pictures.append(_picture(case, protocol, folder))
    limits["PTV56 D95"] = ">= 95 % of its prescription"
    header, rows = _statistics(figures, limits)

    counts = ", ".join(f"{section} {len(items[section])}" for section in SECTIONS)
    patients = {item["patient"] for section in SECTIONS for item in items[section]}
    write_text(
        folder / FILE_NAME,
        _TEXT.format(
            anatomies=len(patients),
            plans=sum(len(items[section]) for section in SECTIONS),
            counts=counts,
            seed=seed,
            engine=plan["engine"],
            machine=plan["machine"],
            fractions=plan["fractions"],
            missed=sum(missed.values()),
            table=_markdown(header, rows),
            pictures="\n".join(f"![{name}]({name})\n" for name in pictures),
            checksums=CHECKSUMS,
        ),
    )
    files = sorted([*folder.glob("*.npz"), *(folder / p for p in pictures), folder / DATALIST, folder / FILE_NAME])
    write_text(folder / CHECKSUMS, "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files))
    return header, rows


def half_dose_distance_mm(case: Case) -> float:
    """How far behind PTV70 the dose has fallen to 35 Gy: median over the middle third of its slices, on its midline.

    Measured from the face of PTV70's last voxel, the dose linear between voxel centres; infinite beyond 60 mm.
    """
    dose, target = _planned(case), case.structures["PTV70"]
    x, _, z = (int(round(i.mean())) for i in np.nonzero(target))
    slices = np.flatnonzero(target.any((0, 1)))
    third = len(slices) // 3
    spacing = case.spacing_mm[1]
    distances = []
    for z in slices[third : len(slices) - third]:
        column = np.flatnonzero(target[x, :, z])
        if not len(column):
            continue
        line = dose[x - 1 : x + 2, column[-1] :, z].mean(0)[: int(_MOST_MM / spacing)]
        below = np.flatnonzero(line < HALF_DOSE_GY)
        if not len(below):
            distances.append(np.inf)
            continue
        after = below[0]
        part = (line[after - 1] - HALF_DOSE_GY) / (line[after - 1] - line[after])
        distances.append((after - 1 + part - 0.5) * spacing)
    return float(np.median(distances))


def _planned(case: Case) -> np.ndarray:
    if case.dose_gy is None:
        raise InputError(case.source, "has no dose", "Make the cohort again")
    return case.dose_gy


def _further(case: Case) -> dict[str, float]:
    dose, structures = _planned(case), case.structures
    values = (
        dose[structures["Rectum"]].mean(),
        dose[structures["Bladder"]].mean(),
        100 * (dose[structures["Bladder"]] >= 50).mean(),
        dose[structures["PTV70"]].max(),
        half_dose_distance_mm(case),
        case.metadata["plan"]["monitor_units_per_fraction"],
    )
    return dict(zip(_OTHER, map(float, values), strict=True))


def _statistics(figures: dict[str, dict[str, dict[str, float]]], limits: dict[str, str]) -> Table:
    groups = sorted(figures, reverse=True)
    everything = [case for group in figures.values() for case in group.values()]
    header = ("metric", "limit", "least", "median", "most", *(f"{group} (n = {len(figures[group])})" for group in groups))
    rows: list[tuple[object, ...]] = []
    for name in everything[0]:
        values = np.array([case[name] for case in everything])
        unit = _UNITS.get(name, "%" if " V" in name else "Gy")
        means = (float(np.mean([case[name] for case in figures[group].values()])) for group in groups)
        rows.append(
            (f"{name} ({unit})", limits.get(name), *map(float, (values.min(), np.median(values), values.max())), *means)
        )
    near = np.mean([case["half dose behind PTV70"] <= 15 for case in everything])
    rows.append(
        (
            "plans with half dose within 15 mm (%)",
            None,
            None,
            100.0 * float(near),
            None,
            *(
                100.0 * float(np.mean([case["half dose behind PTV70"] <= 15 for case in figures[group].values()]))
                for group in groups
            ),
        )
    )
    return header, rows


def _markdown(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    def line(cells: tuple[object, ...]) -> str:
        return "| " + " | ".join("" if c is None else f"{c:.1f}" if isinstance(c, float) else str(c) for c in cells) + " |"

    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, rows)])


def _picture(case: Case, protocol: Protocol, folder: Path) -> str:
    figure = three_planes(
        case.ct_hu, case.structures, {"dose": _planned(case)}, protocol, case.spacing_mm, title=f"{case.case_id} (synthetic)"
    )
    name = f"{case.case_id}.png"
    with write_whole(folder / name) as temporary:
        figure.savefig(temporary, dpi=70, format="png")
    return name


_TEXT = """# The embedded cohort

{plans} VMAT plans on {anatomies} synthetic pelvic phantoms ({counts}; split by anatomy), prostate with simultaneous
integrated boost: 70 Gy to PTV70 and 56 (or 50.4) Gy to PTV56 in {fractions} fractions. No patient's data are in it.

**Research data: synthetic anatomy, a pencil-beam engine, not validated for clinical use.**

This card is generated; so is everything beside it:

    python data_scripts/make_phantom_cohort.py --cases {anatomies} --seed {seed} --out data/cohort

## How it was made

* Anatomy: procedural, from a seed (`monai_vmat/planning/anatomy.py`, `phantom.py`): organs of varied size, filling and place,
  smoothly deformed; rectum against the prostate; CT with texture and noise, in steps of 4 HU; voxels of 3 mm.
* Plans: two full arcs of 45 control points, collimator at 0 degrees, leaves of 5 mm; free fluence, sliding windows, then leaf
  positions and monitor units by gradient on a 6 mm grid (`influence.py`, `arcs.py`, `optimise.py`).
* Dose: {engine}, {machine}, on the 3 mm grid at 90 gantry angles, scaled to a PTV70 D95 of 68 Gy; stored in steps of 0.01 Gy.
* Trade-offs: each anatomy is planned rectum-first and bladder-first, every third one also balanced with 50.4 Gy to PTV56. What
  was asked for stands in the case's constraint vector, never anything computed from its dose; entries for femora, bowel and
  cord are the protocol's defaults.
* Gates: limits in the table. A plan that missed one was made again or its anatomy drawn again: {missed} times.

The same command gives the same cases again on the same kind of machine; on others, sums in another order may move doses by
some tenths of a Gy. `{checksums}` has the checksums of the shipped files (`sha256sum -c {checksums}`).

## Statistics

Doses in Gy over the whole course, volumes in % of the structure; the last columns are means. The half-dose distance is that
from PTV70's posterior face to 35 Gy on the midline.

{table}

## Three plans

{pictures}
## Limits

* Anatomy is drawn, not scanned: no implants, no scars, no asymmetry beyond the deformation, bowel and muscles are simple.
* The engine is a pencil beam without tongue and groove; leaf speed and dose rate are bounded, not simulated.
* One protocol, one energy, one planner. Results on it say how methods compare, not how a clinic's plans would be predicted.
"""
