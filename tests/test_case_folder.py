"""The cases that command lines over many cases start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_vmat.case import write_case
from monai_vmat.case_folder import open_cases
from monai_vmat.errors import InputError
from monai_vmat.files import write_json


@pytest.fixture
def folder(tmp_path, make_case, prostate, write_v2) -> Path:
    """A v2.x file, which names no protocol, a native case, and what is no case."""
    write_v2(tmp_path / "c_2.npz")
    write_case(make_case(prostate, case_id="c_10"), tmp_path / "c_10.npz")
    (tmp_path / "c_10_pred.npz").write_bytes((tmp_path / "c_10.npz").read_bytes())
    (tmp_path / "c_1.npz").write_text("damaged")
    (tmp_path / "notes.txt").write_text("no case")
    return tmp_path


def names(items: list[dict]) -> list[str]:
    return [Path(item["case"]).name for item in items]


def test_a_folder_gives_its_cases_in_natural_order_and_their_protocol(folder):
    items, protocol = open_cases(folder)
    assert names(items) == ["c_1.npz", "c_2.npz", "c_10.npz"] and protocol.name == "prostate_sib"
    assert all(set(item) == {"case"} for item in items)


def test_the_protocol_asked_for_goes_before_that_of_the_cases(folder):
    assert open_cases(folder, "openkbp_head_and_neck")[1].name == "openkbp_head_and_neck"


def test_a_datalist_gives_its_sections_and_its_protocol(folder):
    entries = {name: [{"case": f"{name}.npz", "case_id": name, "patient": name}] for name in ("c_10", "c_2")}
    content = {"protocol": "openkbp_head_and_neck", "training": entries["c_10"], "validation": [], "test": entries["c_2"]}
    write_json(folder / "datalist.json", content)
    items, protocol = open_cases(folder / "datalist.json")
    assert names(items) == ["c_10.npz", "c_2.npz"] and protocol.name == "openkbp_head_and_neck"
    assert names(open_cases(folder, section="test")[0]) == ["c_2.npz"]
    assert names(open_cases(folder, "prostate_sib")[0]) == ["c_1.npz", "c_2.npz", "c_10.npz"]  # a folder is a folder


def test_nothing_to_start_with(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no cases"):
        open_cases(tmp_path / "empty")
    (folder / "c_10.npz").unlink()
    with pytest.raises(InputError, match="--protocol: no case in .* says which one it belongs to"):
        open_cases(folder)
