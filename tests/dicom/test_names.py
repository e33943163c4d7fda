"""Which ROI is which structure."""

from __future__ import annotations

import pytest

from monai_vmat.dicom.names import match_names, read_mapping
from monai_vmat.dicom.structure_set import Roi
from monai_vmat.errors import InputError
from monai_vmat.files import write_json


def rois(*names: str, undrawn: str = "", external: str = "") -> list[Roi]:
    return [Roi(n, name, name == external, () if name == undrawn else (object(),)) for n, name in enumerate(names, 1)]


def found(match) -> dict[str, str]:
    return {structure: roi.name for structure, roi in match.found.items()}


def test_names_and_aliases_match_as_a_whole_in_upper_and_lower_case(prostate):
    match = match_names(rois("ptv_7000", "RECTUM", "Rectum_wall", "femoral_head_l", "xBladder", "CTV70"), prostate)
    assert found(match) == {"PTV70": "ptv_7000", "Rectum": "RECTUM", "Femur_L": "femoral_head_l", "Prostate": "CTV70"}
    assert match.unmatched == ("Rectum_wall", "xBladder")


def test_two_names_for_a_structure_are_ambiguous(prostate):
    match = match_names(rois("PTV70", "PTV_high", "Rectum", "Bladder"), prostate)
    assert match.ambiguous == {"PTV70": ("PTV70", "PTV_high")} and "PTV70" not in match.found
    with pytest.raises(InputError, match="structure 'PTV70' is ambiguous: 'PTV70', 'PTV_high'. Say which with --mapping"):
        match.require_complete(prostate, "rs.dcm")


def test_the_mapping_decides_and_leaves_out(prostate):
    regions = rois("PTV70", "PTV_high", "Rektum", "Bladder", "PTV50.4", "Bowel")
    mapping = {"PTV_high": "PTV70", "Rektum": "Rectum", "PTV50.4": "PTV56", "Bowel": None, "not here": "Prostate"}
    match = match_names(regions, prostate, mapping)
    expected = {"PTV70": "PTV_high", "Rectum": "Rektum", "Bladder": "Bladder", "PTV56": "PTV50.4"}
    assert found(match) == expected
    assert match.unmatched == ("PTV70", "Bowel")
    match.require_complete(prostate, "rs.dcm")


def test_of_two_names_the_drawn_one_counts(prostate):
    match = match_names(rois("PTV70", "PTV_high", undrawn="PTV70"), prostate)
    assert found(match) == {"PTV70": "PTV_high"} and not match.ambiguous and not match.undrawn


def test_required_structures(prostate):
    match = match_names(rois("PTV70", "Bladder", "Rectum", "colon", undrawn="Rectum"), prostate)
    with pytest.raises(InputError, match="required structure 'Rectum': ROI 'Rectum' has no contours"):
        match.require_complete(prostate, "rs.dcm")
    match = match_names(rois("PTV70", "colon"), prostate)
    with pytest.raises(InputError, match="absent: Rectum, Bladder; names without a match: 'colon'"):
        match.require_complete(prostate, "rs.dcm")


def test_a_dose_region_is_required_where_the_protocol_has_one(head_and_neck):
    match = match_names(rois("ptv70"), head_and_neck)
    with pytest.raises(InputError, match="absent: possible_dose_mask"):
        match.require_complete(head_and_neck, "rs.dcm")
    match_names(rois("ptv70", "Possible_Dose_Mask"), head_and_neck).require_complete(head_and_neck, "rs.dcm")


def test_one_region_is_not_two_structures(prostate):
    mapping = {"PTV70": "PTV70"}
    match = match_names(rois("PTV70", "Prostate", external="Prostate"), prostate, mapping)
    assert match.ambiguous == {"Prostate or Body": ("Prostate",)}


def test_the_body_is_what_is_marked_as_external(prostate):
    assert found(match_names(rois("outline", "Body", external="outline"), prostate)) == {"Body": "outline"}


@pytest.mark.parametrize("content", ([], {"Rectum": "Colon"}, {"Rectum": 3}))
def test_unusable_mappings(tmp_path, prostate, content):
    write_json(tmp_path / "names.json", content)
    with pytest.raises(InputError, match="names.json"):
        read_mapping(tmp_path / "names.json", prostate)
