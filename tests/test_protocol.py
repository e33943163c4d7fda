import copy
import json
import pickle
from importlib.resources import files

import numpy as np
import pytest

from monai_vmat.errors import InputError
from monai_vmat.protocol import MAX_STRUCTURES, available_protocols, load_protocol

PRESCRIBED = {"PTV70": 70.0, "PTV56": 56.0}


@pytest.fixture
def raw() -> dict:
    return json.loads((files("monai_vmat") / "protocols" / "prostate_sib.json").read_text())


@pytest.fixture
def parse(tmp_path):
    def parse(content):
        (tmp_path / "site.json").write_text(json.dumps(content))
        return load_protocol(tmp_path / "site.json")

    return parse


def test_prostate(prostate):
    assert prostate.channel_names == (
        "CT", "PTV70", "PTV56", "Prostate", "Rectum", "Bladder", "Femur_L", "Femur_R", "Bowel"
    )  # fmt: skip
    assert (prostate.in_channels, prostate.constraint_dim, prostate.fractions, prostate.rx_gy) == (9, 13, 28, 70.0)
    assert {s.name: s.prescription_gy for s in prostate.targets} == PRESCRIBED
    assert [s.name for s in prostate.organs] == ["Rectum", "Bladder", "Femur_L", "Femur_R", "Bowel"]
    assert [s.name for s in prostate.structures if s.required] == ["PTV70", "Rectum", "Bladder"]
    assert prostate.pairs == (("Femur_L", "Femur_R"),)
    assert prostate.absent_signed_distance == 0.0
    assert prostate.dose_region is None
    assert prostate.structure("Rectum").role == "organ"


def test_prostate_goals(prostate):
    assert [f"{g.structure} {g.metric} {g.op} {g.limit:g} {g.unit}" for g in prostate.goals] == [
        "PTV70 D95 >= 66.5 Gy",
        "PTV56 D95 >= 53.2 Gy",
        "Rectum V70Gy <= 15 %",
        "Rectum V60Gy <= 25 %",
        "Rectum V50Gy <= 50 %",
        "Bladder V70Gy <= 25 %",
        "Bladder V60Gy <= 35 %",
        "Bladder V50Gy <= 50 %",
        "Femur_L V50Gy <= 5 %",
        "Femur_L Dmax <= 50 Gy",
        "Femur_R V50Gy <= 5 %",
        "Femur_R Dmax <= 50 Gy",
        "Bowel V45Gy <= 195 cc",
    ]


def test_head_and_neck(head_and_neck):
    assert head_and_neck.channel_names == (
        "CT", "PTV70", "PTV63", "PTV56", "Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx",
        "Mandible", "prescribed_dose", "dose_region", "open_beams", "best_fluence",
    )  # fmt: skip
    assert (head_and_neck.fractions, head_and_neck.rx_gy, head_and_neck.constraint_dim) == (35, 70.0, 10)
    assert {s.name: s.prescription_gy for s in head_and_neck.targets} == {"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0}
    assert [s.name for s in head_and_neck.structures if s.required] == ["PTV70"]
    assert head_and_neck.pairs == (("LeftParotid", "RightParotid"),)
    assert (head_and_neck.dose_region, head_and_neck.scores) == ("possible_dose_mask", ("openkbp",))


def test_default_constraints_of_the_prostate(prostate):
    """PTV70, PTV56, PTV50.4; rectum V50, V60, V70, Dmax; bladder V65, V70, V75; femur V50; bowel V45; cord Dmax."""
    expected = [1, 0.8, 0, 0.5, 0.35, 0.2, 75 / 70, 0.5, 0.35, 0.25, 0.1, 195 / 500, 45 / 70]
    vector = prostate.encode_constraints(PRESCRIBED)
    assert np.array_equal(prostate.default_constraint_vector, vector)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, expected, rtol=1e-6)


def test_default_constraints_of_the_head_and_neck(head_and_neck):
    expected = np.array([70, 0, 56, 50, 45, 26, 26, 45, 45, 73.5]) / 70  # PTV63 is absent
    np.testing.assert_allclose(head_and_neck.encode_constraints(PRESCRIBED), expected, rtol=1e-6)


def test_stated_constraints_replace_the_defaults(prostate):
    stated = {"Bowel_V45Gy": 100, "Rectum_V70Gy": np.float32(0.0), "PTV50.4_prescription": 50.4}
    difference = prostate.encode_constraints(PRESCRIBED, stated) - prostate.encode_constraints(PRESCRIBED)
    expected = np.zeros(13)
    expected[[2, 5, 11]] = 0.72, -0.2, -95 / 500
    np.testing.assert_allclose(difference, expected, atol=1e-7)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "0.5", None, True, 10**400, 1e308])
def test_bad_constraints_are_refused(prostate, value):
    with pytest.raises(InputError, match="constraint 'Rectum_V50Gy': a number >= 0 was expected"):
        prostate.encode_constraints(PRESCRIBED, {"Rectum_V50Gy": value})


def test_unknown_constraints_are_refused(prostate):
    with pytest.raises(InputError, match="constraint 'Rectum_V51Gy': unknown to protocol prostate_sib.*Rectum_V50Gy"):
        prostate.encode_constraints(PRESCRIBED, {"Rectum_V51Gy": 0.5})


def test_protocols_are_found_by_name_and_by_path(tmp_path, raw, parse, prostate):
    assert available_protocols() == ("openkbp_head_and_neck", "prostate_sib")
    assert parse(raw) == prostate == pickle.loads(pickle.dumps(prostate))
    assert hash(prostate) == hash(load_protocol("prostate_sib"))
    with pytest.raises(InputError, match="protocol 'prostate': unknown. Use one of openkbp_head_and_neck, prostate_sib"):
        load_protocol("prostate")
    with pytest.raises(InputError, match=r"missing\.json: cannot be read"):
        load_protocol(tmp_path / "missing.json")


# Where in the valid protocol, what is put there, and what the message must say.
MUTATIONS = [
    (["name"], 5, "name must be text"),
    (["constraints", 3, "default"], 1e308, "default must be null for a prescription, a number >= 0"),
    (["constraints", 3, "scale"], 1e-300, "scale must be > 0"),
    (["description"], None, "description must be text"),
    (["fractions"], 0, "fractions must be a whole number > 0, got 0"),
    (["fractions"], 28.0, "fractions must be a whole number"),
    (["fractions"], True, "fractions must be a whole number"),
    (["primary"], "Rectum", "primary must be one of the targets .*'PTV70', 'PTV56'.*got 'Rectum'"),
    (["primary"], ["PTV70"], "primary must be one of the targets"),
    (["structures"], {}, "structures must be a list"),
    (["structures"], [], "at least one"),
    (["structures", 3], "Rectum", r"structures\[3\] must be an object"),
    (["structures", 3, "dose"], 1, r"structures\[3\].*'dose'.*Correct the field names"),
    (["structures", 3, "name"], "PTV70", "structure names must be unique"),
    (["structures", 3, "name"], 7, "structure names must be text"),
    (["structures", 3, "name"], "", "structure names must be text"),
    (["structures", 3, "name"], {}, "structure names must be text"),
    (["structures", 3, "role"], "oar", "structure Rectum: role must be one of .*got 'oar'"),
    (["structures", 3, "color"], 0, "structure Rectum: color must be text"),
    (["structures", 3, "required"], "no", "structure Rectum: required must be true or false"),
    (["structures", 3, "aliases"], "rectum", "structure Rectum: aliases must be a list, got 'rectum'"),
    (["structures", 3, "aliases"], ["rect("], "structure Rectum: aliases must be regular expressions"),
    (["structures", 3, "aliases"], [1], "structure Rectum: aliases must be regular expressions"),
    (["structures", 3, "prescription_gy"], 70.0, "structure Rectum: prescription_gy in Gy .* for targets only"),
    (["structures", 0, "prescription_gy"], None, "structure PTV70: prescription_gy"),
    (["structures", 0, "prescription_gy"], 7000, "structure PTV70: prescription_gy .*got 7000"),
    (["structures", 0, "prescription_gy"], 0, "structure PTV70: prescription_gy"),
    (["structures", 0, "prescription_gy"], True, "structure PTV70: prescription_gy"),
    (["structures", 0, "prescription_gy"], "70", "structure PTV70: prescription_gy"),
    (["pairs", 0], ["Femur_L", "Femur"], "pair .* must be two structures"),
    (["pairs", 0], ["Femur_L", "Femur_L"], "pair .* must be two structures"),
    (["pairs", 0], ["Femur_L"], "pair .* must be two structures"),
    (["pairs", 0], [["Femur_L"], ["Femur_R"]], "pair .* must be two structures"),
    (["pairs", 0], "LR", "pair LR must be two structures"),
    (["pairs"], [["Femur_L", "Femur_R"], ["Femur_R", "Bowel"]], "one pair only"),
    (["inputs"], "ct", "inputs must be a list"),
    (["inputs"], ["signed_distances", "ct"], "inputs must start with ct"),
    (["inputs"], ["ct", "pet"], "inputs must start with ct and be among"),
    (["inputs"], ["ct", ["pet"]], "inputs must start with ct and be among"),
    (["inputs"], ["ct", "ct"], "inputs must differ"),
    (["inputs"], ["ct", "dose_region"], "dose_region must be a name, got None"),
    (["dose_region"], 1, "dose_region must be a name, got 1"),
    (["absent_signed_distance"], 0.5, "absent_signed_distance must be 0.0 or 1.0"),
    (["absent_signed_distance"], False, "absent_signed_distance must be 0.0 or 1.0"),
    (["absent_signed_distance"], [1.0], "absent_signed_distance must be 0.0 or 1.0"),
    (["constraints", 3, "scale"], 0, "constraint Rectum_V50Gy: scale must be > 0"),
    (["constraints", 3, "scale"], "1", "constraint Rectum_V50Gy: scale must be > 0"),
    (["constraints", 3, "scale"], 10**400, "constraint Rectum_V50Gy: scale must be > 0"),
    (["constraints", 3, "default"], None, "constraint Rectum_V50Gy: default must be"),
    (["constraints", 3, "default"], "0.5", "constraint Rectum_V50Gy: default must be"),
    (["constraints", 3, "default"], -0.5, "constraint Rectum_V50Gy: default must be"),
    (["constraints", 0, "default"], 70.0, "constraint PTV70_prescription: default must be null for a prescription"),
    (["constraints", 3, "name"], "Rectum_V60Gy", "constraint names must be unique"),
    (["constraints", 3, "unit"], 1, r"constraints\[3\]: name, structure, metric and unit must be text"),
    (["constraints", 3, "limit"], 1, r"constraints\[3\].*'limit'"),
    (["goals", 0, "structure"], "PTV", "goal PTV D95: unknown structure"),
    (["goals", 0, "op"], ">", "goal PTV70 D95: op must be '<=' or '>='"),
    (["goals", 0, "limit"], "66.5", "goal PTV70 D95: limit must be a number"),
    (["goals", 0, "metric"], "95%", "goal PTV70 95%: metric '95%' in 'Gy' is unknown. Use D95"),
    (["goals", 0, "metric"], 95, "goal PTV70 95: metric must be text"),
    (["goals", 0, "unit"], "%", "goal PTV70 D95: metric 'D95' in '%' is unknown"),
    (["goals", 0, "weight"], 1, r"goals\[0\].*'weight'"),
    (["scores"], "openkbp", "scores must be a list"),
    (["gantry_angles_deg"], 40, "gantry_angles_deg must be a list"),
    (["gantry_angles_deg"], ["0"], "gantry_angles_deg must be numbers"),
    (["gantry_angles_deg"], [0, 40], "gantry_angles_deg must be given with the input beam_doses, and only then"),
    (["inputs"], ["ct", "beam_doses"], "gantry_angles_deg must be given with the input beam_doses, and only then"),
    (["modality"], "VMAT", r"fields missing \[\], unknown \['modality'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "problem"), MUTATIONS)
def test_every_rule_is_checked(tmp_path, raw, parse, place, value, problem):
    parse(copy.deepcopy(raw))
    *parents, last = place
    entry = raw
    for key in parents:
        entry = entry[key]
    entry[last] = value
    with pytest.raises(InputError, match=rf"site\.json: .*{problem}"):
        parse(raw)


def test_missing_fields_are_named(raw, parse):
    del raw["goals"], raw["structures"][0]["role"]
    with pytest.raises(InputError, match=r"fields missing \['goals'\]"):
        parse(raw)
    raw["goals"] = []
    with pytest.raises(InputError, match=r"structures\[0\].*'role'"):
        parse(raw)
    with pytest.raises(InputError, match="a JSON object was expected"):
        parse([])


def test_there_are_bits_for_so_many_structures(raw, parse):
    organ = raw["structures"][3]
    raw["structures"] += [{**organ, "name": f"Organ{i}"} for i in range(MAX_STRUCTURES - len(raw["structures"]))]
    assert len(parse(raw).structures) == MAX_STRUCTURES
    raw["structures"].append({**organ, "name": "One_more"})
    with pytest.raises(InputError, match="at most 22 structures are possible, got 23"):
        parse(raw)
