"""Which ROI is which structure."""

from __future__ import annotations

from dataclasses import replace

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


CLINICAL_NAMES = {
    "PTV70": "PTV70, PTV 70, PTV_70, PTV-70, ptv 7000, PTV_7000, PTV7000, PTV7000cGy, PTV_7000 cGy, PTV70Gy, PTV 70 Gy, "
    "PTV_70.0Gy, PTV_70.00, PTV_High, PTV High",
    "PTV56": "PTV56, PTV 56, PTV_5600, PTV5600, PTV56Gy, PTV_56.0 Gy, PTV-56, PTV_Low, ptv low, PTV 5600cGy",
    "Prostate": "Prostate, PROSTATE, CTV70, CTV_7000, CTV 70 Gy, CTV_Prostate, CTV prostate",
    "Rectum": "Rectum, rectum, RECTUM",
    "Bladder": "Bladder, BLADDER",
    "Femur_L": "Femur_L, Femur L, Femur-L, FemurL, Femur_Left, Femur Lt, Femoral Head Left, FemoralHead_L, Femoral_Head_L, "
    "Fem_Head_L, FemHeadL, Femur_Head_L, Left Femur, L Femur, Lt Femoral Head, Left_Femoral_Head, LEFT FEM HEAD, fem  head - L",
    "Femur_R": "Femur_R, Femur R, FemurR, Femur Right, Femoral Head Right, FemoralHead_R, Fem_Head_R, Right Femur, RT_FEMUR",
    "Bowel": "Bowel, Bowel bag, Bowel_Bag, BowelBag, Bag_Bowel, Bowel_Small, Small Bowel, SmallBowel, Bowel Space, Spc_Bowel",
}
OTHER_NAMES = (
    "PTV70_ring, z_PTV70_opt, zPTV70, _PTV70, PTV70_, PTV70 opt, PTV70-PTV56, PTV_70_56, PTV5670, PTV700, PTV_56.5, "
    "PTV_70.4 Gy, PTV560, PTV63, PTV, GTV70, CTV56, PTV70eval, PTV 70 - Rectum, Rectum_PRV, Rectal balloon, Rectum wall, "
    "Rectum-PTV, Rectosigmoid, _Rectum, ~Rectum, Bladder_Wall, Bladder-PTV, Prostate bed, CTV_Prostate_SV, Femur, "
    "Femoral Heads, Femurs, Femur_L_PRV, Femur_LR, Femoral_Neck_L, Femoral Artery L, Large Bowel, Bowel_Large, Bowel_PRV, "
    "Left, Head L, -"
)


@pytest.mark.parametrize(("structure", "name"), [(s, n) for s, names in CLINICAL_NAMES.items() for n in names.split(", ")])
def test_names_that_clinics_use(prostate, structure, name):
    assert found(match_names(rois(name), prostate)) == {structure: name}


@pytest.mark.parametrize("name", OTHER_NAMES.split(", "))
def test_names_of_something_else(prostate, name):
    match = match_names(rois(name), prostate)
    assert not match.found and not match.ambiguous and match.unmatched == (name,)


def test_several_ways_to_write_a_name_are_ambiguous_all(prostate):
    match = match_names(rois("Femur L", "Femur_L", "Fem_Head_L", "Femur R", "Bowel_Small", "Bowel Bag"), prostate)
    assert match.ambiguous == {"Femur_L": ("Femur L", "Femur_L", "Fem_Head_L"), "Bowel": ("Bowel_Small", "Bowel Bag")}
    assert found(match) == {"Femur_R": "Femur R"}


def test_an_alias_may_have_separators_of_its_own(prostate):
    own = replace(prostate.structure("Rectum"), aliases=(r"R_\d+ x",))
    protocol = replace(prostate, structures=(own,))
    assert found(match_names(rois("R_12 x"), protocol)) == {"Rectum": "R_12 x"}
    assert not found(match_names(rois("R12x"), protocol))


def test_separators_of_the_structures_own_name_do_not_matter(head_and_neck):
    names = rois("possible dose mask", "Spinal Cord", "spinal-cord")
    match = match_names(names, head_and_neck)
    assert found(match) == {"possible_dose_mask": "possible dose mask"}
    assert match.ambiguous == {"SpinalCord": ("Spinal Cord", "spinal-cord")}


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
