import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vmat.case import Case, encode_dose, lps_affine, read_case, read_dose, read_metadata, write_case, write_dose
from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive

METADATA = {"format_version": 1, "case_id": "case_1", "patient": "p", "protocol": "prostate_sib"}


@pytest.fixture
def write_native(tmp_path, make_case, prostate):
    """Write ``bad.npz``: a native case with some arrays replaced (None: left out)."""

    def write(**arrays):
        write_case(make_case(prostate), tmp_path / "bad.npz")
        with np.load(tmp_path / "bad.npz") as archive:
            content = dict(archive) | arrays
        np.savez(tmp_path / "bad.npz", **{k: v for k, v in content.items() if v is not None})
        return tmp_path / "bad.npz"

    return write


def refuse(path, protocol, problem, **options):
    """Reading ``path`` fails with its name and the problem, and changes nothing on disk."""
    before = sorted(os.listdir(path.parent))
    with pytest.raises(InputError, match=rf"{path.name}: .*{problem}") as raised:
        read_case(path, protocol, **options)
    assert sorted(os.listdir(path.parent)) == before
    assert raised.value.mend


# Geometry


def test_affine_of_a_grid():
    """Voxel (1, 1, 1) lies one spacing to the left, to the back and to the head: RAS has right and front positive."""
    affine = lps_affine((1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    np.testing.assert_array_equal(affine @ (0, 0, 0, 1), (-10, -20, 30, 1))
    np.testing.assert_array_equal(affine @ (1, 1, 1, 1), (-11, -22, 33, 1))


def test_voxel_size(make_case, prostate):
    case = make_case(prostate, spacing=(1.0, 2.5, 4.0))
    assert case.spacing_mm == (1.0, 2.5, 4.0)
    assert case.voxel_cc == pytest.approx(0.01)


def test_the_patients_left_is_at_high_x(make_case, prostate, head_and_neck):
    for protocol, left, right in ((prostate, "Femur_L", "Femur_R"), (head_and_neck, "LeftParotid", "RightParotid")):
        case = make_case(protocol)
        ras = {name: case.affine @ (*np.argwhere(case.structures[name]).mean(0), 1) for name in (left, right)}
        assert ras[left][0] < ras[right][0]  # RAS: x grows to the right


# Native files


@pytest.mark.parametrize("site", ["prostate", "head_and_neck"])
@pytest.mark.parametrize("with_dose", [True, False])
def test_native_round_trip(tmp_path, request, make_case, site, with_dose):
    protocol = request.getfixturevalue(site)
    case = make_case(protocol, shape=(13, 11, 7), spacing=(3.1, 2.9, 2.5), with_dose=with_dose, patient="p-1")
    absent = protocol.structure_names[2]
    case = dataclasses.replace(
        case,
        structures={k: v for k, v in case.structures.items() if k != absent},
        prescription_gy={k: v - 0.1 for k, v in case.prescription_gy.items() if k != absent},
        affine=lps_affine((3.1, 2.9, 2.5), (1 / 3, -5.7, 1e3)),
        metadata={"dataset": "synthetic", "note": [1, None]},
    )
    write_case(case, tmp_path / "a.npz")
    found = read_case(tmp_path / "a.npz", protocol)
    for field in ("case_id", "patient", "protocol", "prescription_gy", "metadata"):
        assert getattr(found, field) == getattr(case, field), field
    for field in ("ct_hu", "affine", "constraints"):
        np.testing.assert_array_equal(getattr(found, field), getattr(case, field), strict=True)
    assert list(found.structures) == list(case.structures)
    for name, mask in case.structures.items():
        np.testing.assert_array_equal(found.structures[name], mask, strict=True)
    assert found.source == str(tmp_path / "a.npz")
    if with_dose:
        assert found.dose_gy.dtype == np.float32
        assert np.abs(found.dose_gy.astype(float) - case.dose_gy).max() <= 0.005 + 1e-5  # and a float32 step at 70 Gy
    else:
        assert found.dose_gy is None


def test_native_files_are_compact_and_plain(tmp_path, make_case, prostate):
    case = make_case(prostate)
    write_case(case, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert {k: (v.dtype.kind + str(v.dtype.itemsize), v.shape) for k, v in archive.items() if v.dtype.kind != "U"} == {
            "ct": ("i2", (24, 20, 16)),
            "dose": ("u2", (24, 20, 16)),
            "dose_scale_gy": ("f8", ()),
            "structures": ("u1", (8, 24 * 20 * 16 // 8)),
            "affine": ("f8", (4, 4)),
            "prescription_gy": ("f8", (8,)),
            "constraints": ("f4", (13,)),
        }
        assert json.loads(str(archive["metadata"])) == METADATA | {"patient": "case_1"}
    assert read_metadata(tmp_path / "a.npz") == {"case_id": "case_1", "patient": "case_1", "protocol": "prostate_sib"}


def test_dose_is_stored_in_hundredths():
    stored = encode_dose(np.asarray([0.0, -0.04, 0.0149, 70.004, 70.006, 655.35], np.float32))
    assert stored["dose"].tolist() == [0, 0, 1, 7000, 7001, 65535]
    assert (stored["dose"].dtype, float(stored["dose_scale_gy"])) == (np.uint16, 0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, 655.4])
def test_a_dose_that_does_not_fit_is_not_stored(tmp_path, value):
    with pytest.raises(InputError, match="array 'dose': expected finite Gy"):
        write_dose(tmp_path / "a.npz", np.full((1, 1, 1), value, np.float32), np.eye(4), {})
    assert os.listdir(tmp_path) == []


def test_a_dose_alone(tmp_path, make_case, prostate):
    case = make_case(prostate)
    write_dose(tmp_path / "a.npz", case.dose_gy, case.affine, {"case_id": "x"})
    with NpzArchive(tmp_path / "a.npz") as archive:
        np.testing.assert_allclose(archive.read("dose") * archive.read("dose_scale_gy"), case.dose_gy, atol=0.00501)
        np.testing.assert_array_equal(archive.read("affine"), case.affine)
        assert json.loads(str(archive.read("metadata"))) == {"case_id": "x"}
    dose, affine = read_dose(tmp_path / "a.npz")
    assert dose.dtype == np.float32 and np.abs(dose - case.dose_gy).max() <= 0.00501
    np.testing.assert_array_equal(affine, case.affine)
    np.savez(tmp_path / "b.npz", dose=np.zeros((2, 2, 2), np.float32))
    with pytest.raises(InputError, match="b.npz: array 'dose_scale_gy' is missing"):
        read_dose(tmp_path / "b.npz")


def test_metadata_without_json_is_not_written(tmp_path, make_case, prostate):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_case(dataclasses.replace(make_case(prostate), metadata={"x": float("nan")}), tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []


# v2.x files


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("absent_value", [0.0, 1.0])
def test_v2_files(tmp_path, make_case, write_v2, prostate, with_masks, absent_value):
    options = {} if with_masks else {"masks": None}
    case = make_case(prostate, spacing=(1, 1, 2), absent=("Bowel", "PTV56"))
    write_v2(tmp_path / "pt_7.npz", case, absent_value=absent_value, **options)
    found = read_case(tmp_path / "pt_7.npz", prostate)
    assert (found.case_id, found.patient, found.protocol, found.metadata) == ("pt_7", "pt_7", "prostate_sib", {"dialect": "v2"})
    np.testing.assert_array_equal(found.ct_hu, np.clip(case.ct_hu, -1000, 3000), strict=True)
    np.testing.assert_allclose(found.dose_gy, case.dose_gy, rtol=1e-6)
    assert found.dose_gy.dtype == np.float32
    assert list(found.structures) == ["PTV70", "Prostate", "Rectum", "Bladder", "Femur_L", "Femur_R"]
    assert list(found.signed_distances) == list(found.structures)
    for name, mask in found.structures.items():
        np.testing.assert_array_equal(mask, case.structures[name], strict=True)
        np.testing.assert_array_equal(found.signed_distances[name] < 0, mask)
    np.testing.assert_array_equal(found.constraints, case.constraints)
    assert found.prescription_gy == {"PTV70": 70.0}
    assert found.spacing_mm == (1, 1, 2)
    assert read_metadata(tmp_path / "pt_7.npz") == {}


def test_v2_axes_and_scales_by_a_marker(tmp_path, write_v2, prostate):
    """What lies at (Y, X, Z) = (1, 2, 3) in the file lies at (X, Y, Z) = (2, 1, 3) in the case."""
    shape = (4, 5, 6)
    ct, dose, masks = np.full(shape, 0.25, np.float32), np.zeros(shape, np.float32), np.zeros((8, *shape), np.uint8)
    sdf = np.ones((8, *shape), np.float32)
    ct[1, 2, 3], dose[1, 2, 3], masks[:, 1, 2, 3], sdf[:, 1, 2, 3] = 0.51, 0.5, 1, -0.02
    write_v2(tmp_path / "a.npz", ct=ct, dose=dose, masks=masks, masks_sdf=sdf)
    case = read_case(tmp_path / "a.npz", prostate, spacing_mm=(1.5, 2.5, 3.5))
    assert case.spacing_mm == (1.5, 2.5, 3.5)
    assert case.ct_hu.shape == (5, 4, 6)
    for volume in (case.ct_hu > -1000, case.dose_gy > 0, case.structures["Rectum"], case.signed_distances["Rectum"] < 0):
        assert np.argwhere(volume).tolist() == [[2, 1, 3]]
    assert (case.ct_hu[2, 1, 3], case.dose_gy[2, 1, 3], case.signed_distances["Rectum"][2, 1, 3]) == (40, 35, np.float32(-0.02))


def test_v2_prescriptions_come_from_the_constraints(tmp_path, make_case, write_v2, prostate):
    constraints = make_case(prostate).constraints.copy()
    constraints[1] = 50.4 / 70
    write_v2(tmp_path / "a.npz", constraints=constraints)
    assert read_case(tmp_path / "a.npz", prostate).prescription_gy == {"PTV70": 70.0, "PTV56": 50.4}


def test_v2_without_dose_and_in_other_precision(tmp_path, write_v2, prostate):
    case = write_v2(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        swapped = {k: archive[k].astype(">f8") for k in ("ct", "masks_sdf", "constraints")}
    write_v2(tmp_path / "b.npz", case, dose=None, **swapped)
    a, b = (read_case(tmp_path / name, prostate) for name in ("a.npz", "b.npz"))
    assert b.dose_gy is None
    np.testing.assert_array_equal(a.ct_hu, b.ct_hu, strict=True)
    np.testing.assert_array_equal(a.signed_distances["PTV70"], b.signed_distances["PTV70"], strict=True)


def test_v2_becomes_native(tmp_path, write_v2, prostate):
    write_v2(tmp_path / "a.npz")
    case = read_case(tmp_path / "a.npz", prostate)
    write_case(case, tmp_path / "native" / "a.npz")
    found = read_case(tmp_path / "native" / "a.npz", prostate)
    np.testing.assert_array_equal(found.ct_hu, case.ct_hu)
    assert (found.prescription_gy, found.spacing_mm, found.signed_distances) == (case.prescription_gy, (1, 1, 2), None)


# What is refused

GRID = (24, 20, 16)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"ct": None}, "array 'ct' is missing"),
        ({"ct": np.asarray([None])}, "array 'ct' is of type 'object'"),
        ({"ct": np.zeros(GRID, np.float32)}, "array 'ct': expected 3-dimensional numbers, got float32"),
        ({"ct": np.zeros(GRID, np.int32)}, "array 'ct': expected int16 HU, got int32"),
        ({"ct": np.zeros(GRID, ">i2")}, "array 'ct': expected int16 HU"),
        ({"ct": np.zeros(GRID[:2], np.int16)}, "array 'ct': expected 3-dimensional"),
        ({"ct": np.zeros((24, 20, 15), np.int16)}, r"array 'structures': expected 8 .* on the CT's grid \(24, 20, 15\)"),
        ({"ct": np.zeros((0, 2, 2), np.int16), "structures": np.zeros((8, 0), np.uint8)}, "array 'ct': expected three dim"),
        ({"structures": None}, "array 'structures' is missing"),
        ({"structures": np.zeros((8, 960), np.uint8)}, "structure 'PTV70' is empty"),
        ({"structures": np.full((8, 960), 255, np.uint16)}, "array 'structures'"),
        ({"structures": np.asarray([b"x"], object)}, "array 'structures' is of type 'object'"),
        ({"structure_names": np.asarray(["PTV70"] * 8)}, "expected 8 distinct structures"),
        ({"structure_names": np.arange(8)}, "array 'structure_names': expected 1-dimensional text"),
        ({"structure_names": np.asarray(list("ABCDEFGH"))}, "required structures are absent: PTV70, Rectum, Bladder"),
        ({"dose": np.full(GRID, np.nan, np.float32)}, "array 'dose' holds NaN"),
        ({"dose": np.zeros((24, 20, 15), np.uint16)}, r"array 'dose': expected the CT's grid .*16\), got \(24, 20, 15\)"),
        ({"dose": np.full(GRID, 7000, "u2"), "dose_scale_gy": np.asarray(1.0)}, r"got a maximum of 7000.0 \(cGy\?\)"),
        ({"dose": np.full(GRID, -10.0, np.float32)}, "array 'dose': expected Gy >= 0, got -0.1"),
        ({"dose_scale_gy": None}, "array 'dose_scale_gy' is missing"),
        ({"dose_scale_gy": np.asarray(0.0)}, "array 'dose_scale_gy': expected a step in Gy"),
        ({"dose_scale_gy": np.asarray(np.nan)}, "array 'dose_scale_gy': expected a step in Gy"),
        ({"affine": np.diag([-3.0, -3, 3, np.nan])}, "array 'affine': expected 4 x 4 finite"),
        ({"affine": np.eye(3)}, "array 'affine': expected 4 x 4 finite"),
        ({"affine": np.diag([-3.0, -3, 0, 1])}, r"voxel spacing \[3.0, 3.0, 0.0\] mm: expected three numbers above 0"),
        ({"affine": np.diag([-3.0, -3, -3, 1])}, "array 'affine': expected axes towards the patient's left, posterior"),
        ({"affine": np.diag([3.0, -3, 3, 1])}, "array 'affine': expected axes"),
        ({"affine": np.diag([-3.0, -3, 300, 1])}, "voxel spacing .*at most 50"),
        ({"constraints": np.zeros(12, np.float32)}, r"array 'constraints': expected 13 numbers, got \(12,\)"),
        ({"constraints": np.full(13, np.nan)}, "array 'constraints': expected finite"),
        ({"prescription_gy": np.full(8, -70.0)}, "prescription of 'PTV70': expected Gy above 0"),
        ({"prescription_gy": np.full(8, np.nan)}, "prescription of 'PTV70': expected Gy above 0"),
        ({"prescription_gy": np.full(8, 7000.0)}, "prescription of 'PTV70': .*at most 200"),
        ({"prescription_gy": np.full(7, 70.0)}, "array 'prescription_gy': expected 8 numbers"),
        ({"metadata": np.asarray({"a": 1}, object)}, "array 'metadata' is of type 'object'"),
        ({"metadata": np.asarray("{")}, "array 'metadata': expected JSON text of an object"),
        ({"metadata": np.asarray("[1]")}, "array 'metadata': expected JSON text of an object"),
        ({"metadata": np.asarray("1" * 5000)}, "array 'metadata': expected JSON text of an object"),
        ({"metadata": np.asarray(["{}"])}, "array 'metadata': expected JSON text of an object"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"format_version": 2}))}, "format version 2, this program reads 1"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"case_id": 7}))}, "metadata 'case_id': expected text, got 7"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"case_id": "../x"}))}, r"case id '\.\./x': expected up to 128 letters"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"case_id": "..", "patient": ""}))}, r"case id '\.\.'"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"patient": "a/b"}))}, "patient 'a/b'"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"case_id": "x" * 129}))}, "case id"),
        ({"metadata": np.asarray(json.dumps(METADATA | {"protocol": "lung"}))}, "belongs to protocol 'lung'.* was expected"),
    ],
)  # fmt: skip
def test_bad_native_files(write_native, prostate, arrays, problem):
    refuse(write_native(**arrays), prostate, problem)


V2_GRID = (20, 24, 16)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"ct": None}, "array 'ct' is missing"),
        ({"ct": np.full(V2_GRID, np.nan, np.float32)}, "array 'ct': expected .*got nan"),
        ({"ct": np.full(V2_GRID, 40.0, np.float32)}, r"array 'ct': expected clip\(HU, .*\) / 4000 \+ 0.5, .*got 40..40"),
        ({"ct": np.zeros(V2_GRID, np.int16)}, "array 'ct': expected 3-dimensional numbers, got int16"),
        ({"ct": np.zeros((20, 24, 15), np.float32)}, "array 'masks_sdf': expected 8 channels on the CT's grid"),
        ({"ct": np.zeros((0, 2, 2), "f4"), "masks_sdf": np.zeros((8, 0, 2, 2), "f4"), "masks": None}, "array 'ct'"),
        ({"dose": np.full(V2_GRID, np.nan, np.float32)}, "array 'dose' holds NaN"),
        ({"dose": np.full(V2_GRID, 100.0, np.float32)}, r"array 'dose': expected Gy, got a maximum of 7000.0 \(cGy\?\)"),
        ({"dose": np.zeros((24, 20, 16), np.float32)}, "array 'dose': expected the CT's grid"),
        ({"dose": np.asarray([1.0], object)}, "array 'dose' is of type 'object'"),
        ({"masks_sdf": np.full((8, *V2_GRID), -50.0, np.float32)}, "array 'masks_sdf': expected .* / 50 mm, in -1..1"),
        ({"masks_sdf": np.full((8, *V2_GRID), np.nan, np.float32)}, "array 'masks_sdf': expected signed distances"),
        ({"masks_sdf": np.ones((7, *V2_GRID), np.float32)}, "array 'masks_sdf': expected 8 channels"),
        ({"masks": np.ones((7, *V2_GRID), np.uint8)}, "array 'masks': expected"),
        ({"masks": np.zeros((8, *V2_GRID), np.uint8)}, "required structures are absent: PTV70, Rectum, Bladder"),
        ({"masks": None, "masks_sdf": np.ones((8, *V2_GRID), np.float32)}, "required structures are absent: PTV70"),
        ({"constraints": np.zeros(10, np.float32)}, "array 'constraints': expected 13 numbers"),
        ({"constraints": np.full(13, np.nan, np.float32)}, "array 'constraints': expected finite"),
        ({"constraints": None}, "array 'constraints' is missing"),
    ],
)  # fmt: skip
def test_bad_v2_files(tmp_path, write_v2, prostate, arrays, problem):
    write_v2(tmp_path / "bad.npz", **arrays)
    refuse(tmp_path / "bad.npz", prostate, problem)


BAD_SPACINGS = [(1, 1, 0), (1, -1, 2), (1, 1), (1, 1, np.nan), (1, 1, 51), 3.0, "1,1,2", (1, 1, None), ((1, 2), 1, 1)]


@pytest.mark.parametrize("spacing", BAD_SPACINGS)
def test_bad_spacing_of_v2_files(tmp_path, write_v2, prostate, spacing):
    write_v2(tmp_path / "bad.npz")
    refuse(tmp_path / "bad.npz", prostate, "voxel spacing.*expected three numbers above 0", spacing_mm=spacing)


def test_bad_names_of_v2_files(tmp_path, write_v2, prostate):
    write_v2(tmp_path / "pt 1.npz")
    refuse(tmp_path / "pt 1.npz", prostate, "case id 'pt 1': .*Rename the case")


def test_v2_files_of_another_protocol(tmp_path, write_v2, head_and_neck):
    write_v2(tmp_path / "bad.npz")
    refuse(tmp_path / "bad.npz", head_and_neck, "array 'masks_sdf': expected 10 channels .*Use the matching --protocol_name")


@pytest.mark.parametrize("dialect", ["native", "v2"])
def test_truncated_files(tmp_path, make_case, write_v2, prostate, dialect):
    case = make_case(prostate)
    write_case(case, tmp_path / "bad.npz") if dialect == "native" else write_v2(tmp_path / "bad.npz", case)
    whole = (tmp_path / "bad.npz").read_bytes()
    for part in (0.01, 0.5, 0.9, 0.999):
        (tmp_path / "bad.npz").write_bytes(whole[: int(part * len(whole))])
        refuse(tmp_path / "bad.npz", prostate, "is not a whole .npz archive")


def test_files_of_other_programs(tmp_path, prostate):
    np.savez(tmp_path / "bad.npz", image=np.zeros(3))
    refuse(tmp_path / "bad.npz", prostate, "neither a native case .* nor a v2.x one .*found: image")
    np.savez(tmp_path / "bad.npz")
    refuse(tmp_path / "bad.npz", prostate, "found: no arrays")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"structures": {"PTV70": np.ones((2, 2, 2), np.uint8)}}, "structure 'PTV70': expected bool on the CT's grid"),
        ({"structures": {"PTV70": np.ones((2, 2, 3), bool)}}, "structure 'PTV70': expected bool on the CT's grid"),
        ({"structures": {"PTV70": np.zeros((2, 2, 2), bool)}}, "structure 'PTV70' is empty"),
        ({"prescription_gy": {"PTV56": 56.0}}, "prescription of 'PTV56': the case has no such structure"),
        ({"signed_distances": {"PTV70": np.zeros((2, 2, 3))}}, "signed distance of 'PTV70': expected the CT's grid"),
        ({"signed_distances": {"PTV70": np.full((2, 2, 2), np.inf)}}, "signed distance of 'PTV70' holds NaN or infinity"),
        ({"constraints": np.zeros((1, 13), np.float32)}, "array 'constraints': expected finite numbers in one row"),
        ({"case_id": "-x"}, "case id '-x'"),
        ({"case_id": "a\n"}, "case id"),
    ],
)
def test_bad_cases_are_not_made(fields, problem):
    good = {
        "case_id": "case_1",
        "protocol": "prostate_sib",
        "ct_hu": np.zeros((2, 2, 2), np.int16),
        "affine": lps_affine((1, 1, 1)),
        "structures": {"PTV70": np.ones((2, 2, 2), bool)},
        "prescription_gy": {"PTV70": 70.0},
        "constraints": np.zeros(13, np.float32),
    }
    assert Case(**good).patient == "case_1"
    with pytest.raises(InputError, match=f"^case .*: {problem}"):
        Case(**(good | fields))


ORIGINS = st.tuples(*(st.floats(-1e4, 1e4),) * 3)
SPACINGS = st.tuples(*(st.floats(0.1, 50),) * 3)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", fullmatch=True)


@settings(max_examples=40)
@given(NAMES, NAMES, SPACINGS, ORIGINS, st.dictionaries(NAMES, PLAIN, max_size=3), st.integers(0, 2**32 - 1))
def test_any_case_comes_back(tmp_path_factory, prostate, make_case, case_id, patient, spacing, origin, facts, seed):
    draw = np.random.default_rng(seed)
    case = make_case(prostate, shape=tuple(draw.integers(4, 9, 3).tolist()), seed=seed % 1000, case_id=case_id, patient=patient)
    facts = {f"x{name}": value for name, value in facts.items()}  # none of the program's own names
    hu = draw.integers(-32768, 32768, case.ct_hu.shape, np.int16)
    dose = draw.uniform(0, 200, hu.shape).astype(np.float32)
    case = dataclasses.replace(case, ct_hu=hu, dose_gy=dose, affine=lps_affine(spacing, origin), metadata=facts)
    path = tmp_path_factory.mktemp("any") / "a.npz"
    write_case(case, path)
    found = read_case(path, prostate)
    assert (found.case_id, found.patient, found.metadata) == (case_id, patient, facts)
    np.testing.assert_array_equal(found.ct_hu, hu, strict=True)
    np.testing.assert_array_equal(found.affine, case.affine, strict=True)
    np.testing.assert_allclose(found.dose_gy, dose, rtol=0, atol=0.005 + 2e-5)  # and a float32 step at 200 Gy
    assert all((found.structures[name] == mask).all() for name, mask in case.structures.items())
