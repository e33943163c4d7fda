"""The regions of interest of an RTSTRUCT: names first, contours when they are wanted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monai_vmat.dicom.reading import EXPORT_AGAIN, read_dataset, sequence, text
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_FLAT_MM = 0.1


@dataclass(frozen=True)
class Roi:
    """A region of interest.

    Args:
        number: by which plans refer to it.
        name: as its author wrote it.
        external: whether it is marked as the patient's outline.
        contours: items of its contour sequence; none when it was never drawn.
    """

    number: int
    name: str
    external: bool = False
    contours: tuple[Any, ...] = field(default=(), repr=False)


def read_structure_set(study: Study) -> list[Roi]:
    """The regions of a study's RTSTRUCT.

    Raises:
        InputError: the study's own problem, if it has one; when there is no RTSTRUCT, it is damaged or names no regions.
    """
    if study.problem:
        raise study.problem
    if study.structures is None:
        problem = f"no RTSTRUCT refers to its CT of {len(study.ct)} slices"
        raise InputError(study.label, problem, "Export the structure set, too, or leave the series out")
    where = study.names(study.structures)
    dataset = read_dataset(study.structures, where)
    drawn = {text(item, "ReferencedROINumber"): item for item in sequence(dataset, "ROIContourSequence")}
    external = {
        text(item, "ReferencedROINumber")
        for item in sequence(dataset, "RTROIObservationsSequence")
        if text(item, "RTROIInterpretedType") == "EXTERNAL"
    }
    rois = []
    for item in sequence(dataset, "StructureSetROISequence"):
        number = text(item, "ROINumber")
        if not number.isdecimal():
            raise InputError(
                where, f"ROINumber of '{text(item, 'ROIName')}': a number was expected, got {number!r}", EXPORT_AGAIN
            )
        contours = tuple(sequence(drawn[number], "ContourSequence")) if number in drawn else ()
        rois.append(Roi(int(number), text(item, "ROIName"), number in external, contours))
    if not rois:
        raise InputError(where, "StructureSetROISequence is missing or empty", EXPORT_AGAIN)
    return rois


def closed_contours(roi: Roi, where: str) -> tuple[list[np.ndarray], str]:
    """The closed contours of a region, each (points, 3) in patient coordinates (LPS, mm) and in one axial plane.

    Contours that enclose no area (points, open lines) are passed over; the text says so, or is empty.

    Raises:
        InputError: when coordinates are damaged, a contour is not in an axial plane, or none encloses an area.
    """
    contours = []
    open_kinds: Counter[str] = Counter()
    for item in roi.contours:
        kind = text(item, "ContourGeometricType")
        points = _points(item, f"{where}: '{roi.name}'")
        if kind not in _CLOSED or len(points) < 3:
            open_kinds[kind or "without ContourGeometricType"] += 1
            continue
        if np.ptp(points[:, 2]) > _FLAT_MM:
            problem = f"'{roi.name}': a contour from {points[:, 2].min():.1f} to {points[:, 2].max():.1f} mm is not axial"
            raise InputError(where, problem, "Export contours in the planes of the CT")
        contours.append(points)
    passed_over = ", ".join(f"{count} {kind}" for kind, count in sorted(open_kinds.items()))
    if not contours:
        problem = f"'{roi.name}' has no closed contour" + (f" ({passed_over})" if passed_over else "")
        raise InputError(where, problem, "Draw it, or map its name to null in the --mapping file")
    return contours, f"'{roi.name}': passed over {passed_over}" if passed_over else ""


def _points(item: Any, where: str) -> np.ndarray:
    """float64 (points, 3)."""
    try:
        raw = item.get_item("ContourData")
        if raw is None or raw.value is None:
            return np.zeros((0, 3))
        # As read the value is text; pydicom's own numbers, an object each, take ten times as long.
        values = raw.value.split(b"\\") if isinstance(raw.value, bytes) else raw.value
        points = np.asarray(values, np.float64).reshape(-1, 3)
    except (ValueError, TypeError) as error:
        raise InputError(where, "ContourData: numbers in threes were expected", EXPORT_AGAIN) from error
    if not np.isfinite(points).all():
        raise InputError(where, "ContourData: finite numbers were expected", EXPORT_AGAIN)
    return points
