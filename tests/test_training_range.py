"""Cases unlike those of the training are told, those like them are not."""

from pathlib import Path

import pytest
import torch
from monai.transforms import Compose

from monai_vmat.case import write_case
from monai_vmat.datalist import read_datalist
from monai_vmat.errors import InputError
from monai_vmat.training_range import case_features, far_outside, ranges, ranges_of
from monai_vmat.transforms.encode_constraints import EncodeConstraintsd
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.weights import describe

ROOT = Path(__file__).resolve().parents[1]


def load(item, protocol):
    return Compose([LoadCased(protocol=protocol), EncodeConstraintsd(protocol=protocol)])(item)


def features(case, protocol, folder, **stated):
    write_case(case, folder / "a.npz")
    return case_features(load({"case": str(folder / "a.npz"), "constraints": stated}, protocol), protocol)


def test_what_a_case_is_judged_by(tmp_path, head_and_neck, make_case):
    case = make_case(head_and_neck, spacing=(2.0, 3.0, 4.0), absent=("PTV56",))
    found = features(case, head_and_neck, tmp_path, SpinalCord_Dmax=30.0)
    assert [found[f"voxel size {axis}, mm"] for axis in "XYZ"] == [2.0, 3.0, 4.0]
    assert found["PTV70 volume, cc"] == pytest.approx(case.structures["PTV70"].sum() * 0.024)
    assert (found["PTV56 volume, cc"], found["PTV56 prescription, Gy"], found["PTV63 prescription, Gy"]) == (0.0, 0.0, 63.0)
    assert found["SpinalCord_Dmax, Gy"] == pytest.approx(30.0) and "PTV70_prescription, Gy" not in found
    assert found["Body volume, cc"] > found["PTV70 volume, cc"]


def test_the_margin():
    """A quarter of the width and a twentieth of the greatest value, on both sides."""
    trained = ranges([{"a": 10.0, "b": 3.0}, {"a": 20.0, "b": 3.0}])
    assert trained == {"a": [10.0, 20.0], "b": [3.0, 3.0]}
    for value in (6.6, 15.0, 23.4):
        assert far_outside({"a": value}, trained) == []
    assert far_outside({"a": 6.4, "unknown": 1e9}, trained) == ["a: 6.4 (training: 10 to 20)"]
    assert far_outside({"a": 23.6, "b": 2.5}, trained) == ["a: 23.6 (training: 10 to 20)", "b: 2.5 (training: 3 to 3)"]
    assert far_outside({"b": 3.1}, trained) == []
    assert far_outside({"b": float("nan")}, trained) != []


def test_of_several_files_what_all_have_seen(tmp_path):
    for name, pair in (("a.pt", [1.0, 3.0]), ("b.pt", [2.0, 5.0])):
        torch.save(describe(torch.nn.Linear(1, 1).state_dict(), {"ranges": {"x": pair, name: pair}}), tmp_path / name)
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "old.pt")
    files = [tmp_path / name for name in ("a.pt", "b.pt", "old.pt", "none.pt")]
    assert ranges_of(files) == {"x": [2.0, 3.0], "a.pt": [1.0, 3.0], "b.pt": [2.0, 5.0]}
    for damaged in (["x"], {"x": [1.0]}, {"x": "ab"}):
        torch.save(describe(torch.nn.Linear(1, 1).state_dict(), {"ranges": damaged}), tmp_path / "bad.pt")
        with pytest.raises(InputError, match="bad.pt: 'ranges': two numbers"):
            ranges_of(tmp_path / "bad.pt")


def test_the_shipped_model_knows_its_own_and_strangers(prostate):
    """Negative control: no plan of the test split is far outside. Others are by just what was changed."""
    trained = ranges_of(ROOT / "bundles" / "dose" / "models" / "model.pt")
    items = read_datalist(ROOT / "data" / "cohort", "test")[::4]
    told = [far_outside(case_features(load(item, prostate), prostate), trained) for item in items]
    assert told == [[]] * len(items) and len(items) >= 3
    item = load(items[0] | {"constraints": {"Rectum_V50Gy": 0.95}}, prostate)
    item["prescription_gy"] = torch.tensor([36.25, 56.0])
    item["spacing_mm"] = 2 * item["spacing_mm"]
    strange = " ".join(far_outside(case_features(item, prostate), trained))
    for name in (
        "voxel size X",
        "voxel size Z",
        "PTV70 prescription, Gy: 36.25",
        "Body volume",
        "Rectum_V50Gy, fraction: 0.95",
    ):
        assert name in strange
    assert "PTV56 prescription" not in strange
