"""What is measured in a case, which problems are found, and the page that shows them."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from monai_vmat.case import Case, lps_affine
from monai_vmat.errors import InputError
from monai_vmat.protocol import load_protocol
from monai_vmat.reports import verification
from monai_vmat.reports.verification import (
    CaseCheck,
    case_picture,
    case_table,
    check_case,
    structure_table,
    unreadable_case,
    verification_html,
)

PROTOCOL = load_protocol("prostate_sib")
SHAPE = (32, 24, 16)


def block(x: int, y: int, z: int, size: int = 5) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[x : x + size, y : y + size, z : z + size] = True
    return mask


def good_case(**changes) -> Case:
    """A patient without problems: tissue with some bone, 70 Gy in the target, femurs where they belong."""
    ct = np.full(SHAPE, -1000, np.int16)
    ct[3:29, 3:21, 1:15] = 40
    ct[24:27, 10:13, 4:9] = 800
    structures = {
        "PTV70": block(13, 9, 5),
        "PTV56": block(13, 9, 5, size=6),
        "Rectum": block(13, 15, 5),
        "Bladder": block(13, 4, 5),
        "Femur_L": block(22, 9, 5),
        "Femur_R": block(5, 9, 5),
    }
    prescription = {"PTV70": 70.0, "PTV56": 56.0}
    case = Case(
        case_id="good",
        protocol=PROTOCOL.name,
        ct_hu=ct,
        affine=lps_affine((2.0, 2.0, 3.0)),
        structures=structures,
        prescription_gy=prescription,
        constraints=PROTOCOL.encode_constraints(prescription),
        dose_gy=np.where(structures["PTV56"], 70.0, 0.0).astype(np.float32),
    )
    return replace(case, **changes)


def test_good_case_and_its_numbers():
    check = check_case(good_case(), PROTOCOL)
    assert check.problems == () and check.readable
    assert (check.shape, check.spacing_mm, check.dose_max_gy) == (SHAPE, (2.0, 2.0, 3.0), 70.0)
    assert check.d95_gy == {"PTV70": 70.0, "PTV56": 70.0}
    assert check.volumes_cc["PTV70"] == pytest.approx(125 * 0.012)
    assert check.volumes_cc["PTV56"] == pytest.approx(216 * 0.012)


def test_d95_is_the_fifth_percentile_of_the_target():
    dose = np.zeros(SHAPE, np.float32)
    dose[block(13, 9, 5)] = 60 + np.arange(125) * 0.1  # position 0.05 * 124 = 6.2 in the sorted row
    assert check_case(good_case(dose_gy=dose), PROTOCOL).d95_gy["PTV70"] == pytest.approx(60.62, abs=1e-4)


def without(name: str) -> dict:
    return {k: v for k, v in good_case().structures.items() if k != name}


def dose_with(region: np.ndarray, gy: float) -> np.ndarray:
    dose = good_case().dose_gy.copy()
    dose[region] = gy
    return dose


def ct_with(region, hu: int) -> np.ndarray:
    ct = good_case().ct_hu.copy()
    ct[region] = hu
    return ct


SOFT = np.where(good_case().ct_hu > 300, 40, good_case().ct_hu).astype(np.int16)
CORNER = np.s_[0:2, 0:2, 0:3]  # 12 voxels of air; the good case has 216 irradiated ones


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dose_gy": None}, "no dose"),
        ({"dose_gy": dose_with(block(14, 10, 6, 1), 91.1)}, "dose maximum 91.10 Gy, 56.0 to 91.0 Gy expected"),
        ({"structures": without("Bladder")}, "Bladder is missing"),
        ({"structures": {**without("Bladder"), "Bladder": block(13, 4, 5, 4)}}, "Bladder has 64 voxels"),
        ({"dose_gy": dose_with(block(13, 9, 5, 2), 62.0)}, "PTV70 D95 62.00 Gy, at least 63.0 Gy"),
        ({"dose_gy": dose_with(CORNER, 2.0)}, "5.3 % of the voxels above 1 Gy lie outside the body"),
        ({"ct_hu": SOFT}, "no bone, the greatest is 40 HU"),
        (
            {"structures": {**good_case().structures, "Femur_L": block(5, 9, 5), "Femur_R": block(22, 9, 5)}},
            "Femur_L does not lie to the patient's left of Femur_R",
        ),
    ],
)
def test_each_problem_is_found_alone(changes, problem):
    (found,) = check_case(good_case(**changes), PROTOCOL).problems
    assert problem in found


@pytest.mark.parametrize(
    "changes",
    [
        {"dose_gy": dose_with(block(14, 10, 6, 1), 90.9)},
        {"dose_gy": dose_with(block(13, 9, 5, 2), 63.1)},
        {"dose_gy": dose_with(CORNER, 0.9)},
        {"dose_gy": dose_with(np.s_[0:1, 0:1, 0:2], 2.0)},  # 2 of 218
        {"structures": without("PTV56"), "prescription_gy": {"PTV70": 70.0}},
        {"structures": without("Femur_L")},
    ],
)
def test_what_is_within_bounds_is_no_problem(changes):
    assert check_case(good_case(**changes), PROTOCOL).problems == ()


def test_cold_plan_and_odd_ct():
    problems = check_case(good_case(dose_gy=good_case().dose_gy * np.float32(0.7)), PROTOCOL).problems
    assert [p.split(" ")[0] for p in problems] == ["dose", "PTV70", "PTV56"]
    shifted = check_case(good_case(ct_hu=np.full(SHAPE, -1000, np.int16)), PROTOCOL).problems
    assert any("0.00 % of the voxels are above -400 HU" in p for p in shifted)
    assert any("100.0 % of the voxels above 1 Gy lie outside" in p for p in shifted)


def test_the_plans_own_prescription_counts():
    halved = good_case(dose_gy=good_case().dose_gy / 2, prescription_gy={"PTV70": 35.0, "PTV56": 28.0})
    assert check_case(halved, PROTOCOL).problems == ()


def test_tables():
    checks = [
        CaseCheck("a", SHAPE, (1.0, 1.0, 2.0), 71.0, {"PTV70": 68.0}, {"PTV70": 10.0, "Couch": 1.0}),
        CaseCheck("b", SHAPE, (1.0, 1.0, 2.0), None, {}, {"PTV70": 40.0}, ("no dose",)),
        CaseCheck("c", SHAPE, (1.0, 1.0, 2.0), 72.0, {"PTV70": 69.0}, {"PTV70": 20.0}),
        unreadable_case("d", InputError("d.npz", "is cut short", "Copy it again")),
    ]
    header, rows = case_table(checks, PROTOCOL)
    assert header == ("case", "shape", "spacing mm", "Dmax Gy", "structures", "PTV70 D95 Gy", "PTV56 D95 Gy", "problems")
    assert rows[0] == ("a", "32 x 24 x 16", "1.00 x 1.00 x 2.00", 71.0, 1, 68.0, None, 0)
    assert rows[1] == ("b", "32 x 24 x 16", "1.00 x 1.00 x 2.00", None, 1, None, None, 1)
    assert rows[3] == ("d", None, None, None, None, None, None, 1)
    _, structures = structure_table(checks, PROTOCOL)
    assert structures[0] == ("PTV70", 3, 10.0, 20.0, 40.0)
    assert structures[1] == ("PTV56", 0, None, None, None)
    assert structures[-1] == ("Couch", 1, 1.0, 1.0, 1.0)
    assert not checks[3].readable and "is cut short" in checks[3].problems[0]


def test_picture_is_a_light_jpeg(monkeypatch):
    case = good_case()
    sharp = case_picture(case, PROTOCOL)
    assert len(sharp) * 4 / 3 < 60_000
    image = Image.open(io.BytesIO(sharp))
    assert image.format == "JPEG" and image.width > 300
    monkeypatch.setattr(verification, "_PICTURE_BYTES", len(sharp) - 1)
    assert len(case_picture(case, PROTOCOL)) < len(sharp)  # too heavy: a lower quality is taken


def test_case_without_dose_has_a_picture():
    assert case_picture(good_case(dose_gy=None), PROTOCOL).startswith(b"\xff\xd8")


def test_page_is_whole_and_harmless():
    bad = unreadable_case("<script>alert(1)</script>", InputError("x.npz", "a & b", "Mend <it>"))
    good = replace(check_case(good_case(), PROTOCOL), picture=b"\xff\xd8picture")
    page = verification_html([good, bad], PROTOCOL, "Cases of <here>")
    assert "<script" not in page and "&lt;script&gt;" in page and "a &amp; b. Mend &lt;it&gt;" in page
    assert re.findall(r'(?:src|href)="([^"]{0,22})', page) == ["data:image/jpeg;base64"]  # nothing is fetched from elsewhere
    assert "Cases of &lt;here&gt;" in page and "<td>good</td>" in page and "Research only" in page
    assert page.count("<img") == 1
    assert "None found" in verification_html([good], PROTOCOL, "t")
