"""The splitter as users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import Case, lps_affine, write_case
from monai_vmat.datalist import SECTIONS, read_datalist
from monai_vmat.protocol import load_protocol

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "make_splits.py"
PROSTATE = load_protocol("prostate_sib")


def write_native(folder: Path, case_id: str, patient: str = "", protocol: str = "prostate_sib") -> None:
    site = load_protocol(protocol)
    cube = np.ones((2, 2, 2), bool)
    case = Case(
        case_id=case_id,
        patient=patient,
        protocol=protocol,
        ct_hu=np.zeros(cube.shape, np.int16),
        affine=lps_affine((1, 1, 2)),
        structures={"PTV70": cube},
        prescription_gy={"PTV70": 70.0},
        constraints=site.encode_constraints({"PTV70": 70.0}),
    )
    write_case(case, folder / f"{case_id}.npz")


def write_v2(folder: Path, stem: str) -> None:
    np.savez(folder / f"{stem}.npz", ct=np.zeros((2, 2, 2), np.float32), masks_sdf=np.ones((8, 2, 2, 2), np.float32))


def split(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def ids(path: Path) -> list[list[str]]:
    content = json.loads(path.read_text())
    return [[item["case_id"] for item in content[section]] for section in SECTIONS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve plans of six patients."""
    folder = tmp_path / "cases"
    for number in range(12):
        write_native(folder, f"plan_{number}", f"patient_{number // 2}")
    return folder


def test_patients_stay_together_and_the_table_counts(folder):
    done = split(folder)
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "datalist.json").read_text())
    assert content["protocol"] == "prostate_sib"
    patients = [{item["patient"] for item in content[section]} for section in SECTIONS]
    assert [len(p) for p in patients] == [4, 1, 1] and len(set.union(*patients)) == 6
    assert [len(content[section]) for section in SECTIONS] == [8, 2, 2]
    assert [line.split() for line in done.stdout.splitlines()[2:5]] == [
        ["training", "8", "4"],
        ["validation", "2", "1"],
        ["test", "2", "1"],
    ]
    assert Path(read_datalist(folder, "test")[0]["case"]).is_file()


def test_same_again_is_fine_other_content_needs_overwrite(folder):
    split(folder)
    first = (folder / "datalist.json").read_bytes()
    assert split(folder).returncode == 0
    assert (folder / "datalist.json").read_bytes() == first
    refused = split(folder, "--seed", 5)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert (folder / "datalist.json").read_bytes() == first
    assert split(folder, "--seed", 5, "--overwrite").returncode == 0
    assert (folder / "datalist.json").read_bytes() != first


def test_explicit_ids_and_ids_from_a_file(folder, tmp_path):
    (tmp_path / "ids.txt").write_text("plan_0\nplan_2\n")
    assert split(folder, "--test-ids", f"@{tmp_path / 'ids.txt'}", "plan_10", "--validation-ids", "plan_4").returncode == 0
    assert ids(folder / "datalist.json") == [
        ["plan_6", "plan_7", "plan_8", "plan_9"],
        ["plan_4", "plan_5"],
        ["plan_0", "plan_1", "plan_2", "plan_3", "plan_10", "plan_11"],
    ]


def test_left_out_cases_are_counted(folder):
    done = split(folder, "--train-ids", "plan_0", "--validation-ids", "plan_2", "--test-ids", "plan_4")
    assert done.stdout.splitlines()[5].split() == ["left", "out", "6", "3"]


def test_list_above_the_cases(folder, tmp_path):
    assert split(folder, "--out", tmp_path / "datalist.json").returncode == 0
    assert json.loads((tmp_path / "datalist.json").read_text())["test"][0]["case"].startswith("cases/plan_")


def test_publishers_split(tmp_path):
    for number in (1, 200, 201, 240, 241):
        write_native(tmp_path, f"pt_{number}", protocol="openkbp_head_and_neck")
    assert split(tmp_path, "--openkbp").returncode == 0
    assert ids(tmp_path / "datalist.json") == [["pt_1", "pt_200"], ["pt_201", "pt_240"], ["pt_241"]]


def test_v2_files(tmp_path):
    for stem in ("a_1", "a_2", "b_1", "c_1"):
        write_v2(tmp_path, stem)
    arguments = ("--protocol", "prostate_sib", "--patient-pattern", "^([a-z])_", "--spacing-mm", 1, 1, 2.5)
    assert split(tmp_path, *arguments, "--test-ids", "a_1").returncode == 0
    items = read_datalist(tmp_path, "test")
    assert [(i["case_id"], i["patient"]) for i in items] == [("a_1", "a"), ("a_2", "a")]
    assert all(i["spacing_mm"] == [1, 1, 2.5] for i in items)


def test_v2_files_without_pattern_are_patients_of_their_own(tmp_path):
    for stem in ("a_1", "a_2"):
        write_v2(tmp_path, stem)
    assert split(tmp_path, "--protocol", "prostate_sib").returncode == 0
    item = read_datalist(tmp_path, "training")[0]
    assert item["patient"] == item["case_id"] and "spacing_mm" not in item


@pytest.mark.parametrize(
    ("files", "arguments", "problem"),
    [
        ([], [], "holds no *.npz cases"),
        (["v2"], [], "--protocol"),
        (["v2"], ["--protocol", "prostate_sib", "--patient-pattern", "(nobody)"], "does not match"),
        (["v2"], ["--protocol", "prostate_sib", "--patient-pattern", "v"], "one group"),
        (["v2"], ["--protocol", "prostate_sib", "--patient-pattern", "(v"], "no regular expression"),
        (["pt_1", "pt_2"], ["--openkbp", "--test-ids", "pt_1"], "--openkbp"),
        (["pt_1", "pt_2"], ["--protocol", "prostate_sib"], "one protocol"),
        (["pt_1", "broken"], [], "broken.npz"),
        (["pt_1"], ["--test-ids", "pt_9"], "pt_9"),
        (["pt_1"], ["--test-ids", "@nowhere.txt"], "@nowhere.txt"),
        (["pt_1"], ["--out", "/elsewhere/datalist.json"], "--out"),
    ],
)
def test_bad_input_is_one_line(tmp_path, files, arguments, problem):
    for name in files:
        if name == "v2":
            write_v2(tmp_path, name)
        elif name == "broken":
            (tmp_path / "broken.npz").write_bytes(b"PK half")
        else:
            write_native(tmp_path, name, protocol="openkbp_head_and_neck")
    done = split(tmp_path, *arguments)
    assert done.returncode == 2
    assert problem in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "datalist.json").exists()
