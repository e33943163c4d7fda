"""The regions of an RTSTRUCT and their contours. Sets that are refused are in test_bad_files.py."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from monai_vmat.dicom.structure_set import Roi, closed_contours, read_structure_set
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import InputError

SQUARE = [0, 0, 5, 10, 0, 5, 10, 10, 5, 0, 10, 5]


def contour(points, kind="CLOSED_PLANAR") -> Dataset:
    item = Dataset()
    item.ContourData = [str(v) for v in points]
    if kind:
        item.ContourGeometricType = kind
    return item


def region(*contours) -> Roi:
    return Roi(1, "PTV70", contours=contours)


def read(folder) -> dict[str, Roi]:
    return {roi.name: roi for roi in read_structure_set(find_studies(folder)[0])}


def test_regions_have_number_name_and_contours(pelvis_files, pelvis):
    rois = read(pelvis_files)
    assert list(rois) == list(pelvis.structures) and [roi.number for roi in rois.values()] == list(range(1, 9))
    assert not any(roi.external for roi in rois.values())
    slices = pelvis.structures["PTV70"].any((0, 1)).sum()
    assert len(rois["PTV70"].contours) == slices


def test_contours_belong_by_number_not_by_order(export, edit):
    def turn(dataset):
        dataset.ROIContourSequence = dataset.ROIContourSequence[::-1]
        dataset.RTROIObservationsSequence[2].RTROIInterpretedType = "EXTERNAL"
        dataset.RTROIObservationsSequence[3].RTROIInterpretedType = "ORGAN"
        dataset.RTROIObservationsSequence = dataset.RTROIObservationsSequence[::-1]

    before = {name: len(roi.contours) for name, roi in read(export).items()}
    edit(export / "rs.dcm", turn)
    rois = read(export)
    assert {name: len(roi.contours) for name, roi in rois.items()} == before
    assert [name for name, roi in rois.items() if roi.external] == ["Prostate"]


def test_a_region_that_was_never_drawn_has_no_contours(export, edit):
    edit(export / "rs.dcm", lambda d: d.ROIContourSequence.pop(4))
    rois = read(export)
    assert [name for name, roi in rois.items() if not roi.contours] == [list(rois)[4]]


def test_a_region_needs_a_number(export, edit):
    def damage(dataset):
        del dataset.StructureSetROISequence[1].ROINumber

    edit(export / "rs.dcm", damage)
    with pytest.raises(InputError, match="rs.dcm: ROINumber of 'PTV56': a number was expected, got ''"):
        read(export)


def test_points_of_closed_contours():
    contours, passed_over = closed_contours(region(contour(SQUARE), contour(SQUARE, "CLOSEDPLANAR_XOR")), "rs")
    assert passed_over == "" and len(contours) == 2
    assert contours[1].tolist() == [[0, 0, 5], [10, 0, 5], [10, 10, 5], [0, 10, 5]] and contours[0].dtype == np.float64


def test_what_encloses_no_area_is_passed_over_with_a_word():
    items = [contour(SQUARE), contour([1, 2, 3], "POINT"), contour(SQUARE, "OPEN_PLANAR"), contour(SQUARE, "")]
    items += [contour([1, 2, 3], "POINT"), contour([1, 2, 3, 4, 5, 3]), Dataset()]
    contours, passed_over = closed_contours(region(*items), "rs")
    assert len(contours) == 1
    assert passed_over == "'PTV70': passed over 1 CLOSED_PLANAR, 1 OPEN_PLANAR, 2 POINT, 2 without ContourGeometricType"
    with pytest.raises(InputError, match=r"rs: 'PTV70' has no closed contour \(1 POINT\)"):
        closed_contours(region(items[1]), "rs")


@pytest.mark.parametrize(("tilt", "flat"), [(0.1, True), (0.11, False)])
def test_a_contour_is_flat_to_a_tenth_of_a_millimetre(tilt, flat):
    points = [*SQUARE[:-1], 5 + tilt - 1e-9]
    if flat:
        assert len(closed_contours(region(contour(points)), "rs")[0]) == 1
    else:
        with pytest.raises(InputError, match="'PTV70': a contour from 5.0 to 5.1 mm is not axial"):
            closed_contours(region(contour(points)), "rs")
