"""The datalist: reading is strict, splitting is by patient and reproducible."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vmat.datalist import SECTIONS, build_datalist, find_cases, load_datalist, natural_order, read_datalist
from monai_vmat.errors import InputError


def item(name: str, patient: str | None = None, **more) -> dict:
    return {"case": f"{name}.npz", "case_id": name, "patient": patient or name, **more}


def write(folder, **content):
    content = {"protocol": "prostate_sib", "training": [item("a"), item("b")], "validation": [item("c")], "test": [], **content}
    for section in SECTIONS:
        for entry in content[section] if isinstance(content[section], list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("case"), str) and "/" not in entry["case"]:
                (folder / entry["case"]).touch()
    path = folder / "datalist.json"
    path.write_text(json.dumps(content))
    return path


def test_items_come_with_absolute_paths(tmp_path, monkeypatch):
    extra = {"spacing_mm": [1, 1, 2.5], "constraints": {"Rectum_V70Gy": 0.1}}
    write(tmp_path, training=[item("a", **extra), item("b")])
    monkeypatch.chdir(tmp_path)
    items = read_datalist("datalist.json", "training")
    assert items == [{**item("a", **extra), "case": str(tmp_path / "a.npz")}, {**item("b"), "case": str(tmp_path / "b.npz")}]
    assert read_datalist(tmp_path, "training") == items  # the folder stands for its list


def test_missing_list_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError) as caught:
        read_datalist(tmp_path / "data" / "datalist.json", "training")
    message = str(caught.value)
    for part in (str(tmp_path / "data"), "data_scripts/openkbp_to_npz.py", "data_scripts/make_splits.py", "--dataset_dir"):
        assert part in message


def test_empty_section_says_what_there_is(tmp_path):
    with pytest.raises(InputError, match=r"'test' is empty \(cases: training 2, validation 1, test 0\).*--test-ids"):
        read_datalist(write(tmp_path), "test")


def test_a_section_may_be_left_out(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"protocol": "prostate_sib", "training": [item("a")]}))
    assert load_datalist(path)["test"] == []


def test_unknown_section(tmp_path):
    with pytest.raises(InputError, match="'train' is unknown.*training, validation, test"):
        read_datalist(write(tmp_path), "train")


def test_missing_case_file(tmp_path):
    path = write(tmp_path)
    (tmp_path / "b.npz").unlink()
    with pytest.raises(InputError, match=r"'training': .*b\.npz not found"):
        read_datalist(path, "training")
    assert len(read_datalist(path, "validation")) == 1  # the other sections can be used


@pytest.mark.parametrize("case", ["/etc/passwd", "../a.npz", "x/../../a.npz", "C:\\a.npz", "..\\a.npz", "\\\\host\\a.npz"])
def test_paths_never_leave_the_folder(tmp_path, case):
    with pytest.raises(InputError, match=r"training\[0\]\.case"):
        read_datalist(write(tmp_path, training=[{**item("a"), "case": case}]), "training")


@pytest.mark.parametrize("case_id", ["../../a", "/a", "a/b", "..\\a", "..", ".a", "a b", "a\n", "$1 + 1", "a" * 129])
def test_case_ids_are_fit_for_file_names(tmp_path, case_id):
    with pytest.raises(InputError, match=r"training\[0\]\.case_id: up to 128 letters"):
        read_datalist(write(tmp_path, training=[{**item("a"), "case_id": case_id}]), "training")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"validation": [item("c", patient="a")]}, "patient 'a' is in two sections, 'training' and 'validation'"),
        ({"validation": [item("a")]}, "case id 'a' occurs twice"),
        ({"training": [item("a"), item("a")]}, "case id 'a' occurs twice"),
        ({"trianing": []}, "unknown keys ['trianing']"),
        ({"protocol": 3}, "'protocol'"),
        ({"protocol": None}, "'protocol'"),
        ({"training": {}}, "'training': a list was expected"),
        ({"training": ["a.npz"]}, "training[0]: an object was expected"),
        ({"training": [item("a", doze=1)]}, "unknown ['doze']"),
        ({"training": [{"case": "a.npz", "case_id": "a"}]}, "missing ['patient']"),
        ({"training": [{**item("a"), "case_id": 1}]}, "training[0].case_id: text was expected, got 1"),
        ({"training": [{**item("a"), "patient": " "}]}, "training[0].patient"),
        ({"training": [item("a", spacing_mm=[1, 1])]}, "spacing_mm"),
        ({"training": [item("a", spacing_mm=[1, 1, 0])]}, "spacing_mm"),
        ({"training": [item("a", spacing_mm=[1, 1, True])]}, "spacing_mm"),
        ({"training": [item("a", spacing_mm=[1, 1, 10**400])]}, "spacing_mm"),
        ({"training": [item("a", constraints=[0.5])]}, "constraints"),
        ({"training": [item("a", constraints={"x": "0.5"})]}, "constraints"),
        ({"training": [item("a", constraints={"x": -1})]}, "constraints"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, problem):
    with pytest.raises(InputError) as caught:
        read_datalist(write(tmp_path, **content), "training")
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_not_a_json_object(tmp_path, text):
    path = tmp_path / "datalist.json"
    path.write_text(text)
    with pytest.raises(InputError, match="JSON"):
        load_datalist(path)


CASES = [(f"p{p}_{k}.npz", f"p{p}_{k}", f"p{p}") for p in range(20) for k in range(1 + p % 3)]


def ids(content: dict, section: str) -> set[str]:
    return {entry["case_id"] for entry in content[section]}


def patients(content: dict, section: str) -> set[str]:
    return {entry["patient"] for entry in content[section]}


@pytest.mark.parametrize("seed", range(10))
def test_each_patient_is_in_one_section(seed):
    content = build_datalist(CASES, "prostate_sib", seed=seed)
    assert sum(len(content[s]) for s in SECTIONS) == len(CASES)
    assert [len(patients(content, s)) for s in SECTIONS] == [14, 3, 3]
    assert len(set.union(*(patients(content, s) for s in SECTIONS))) == 20


def test_order_of_listing_does_not_matter_and_seed_does():
    shuffled = random.Random(1).sample(CASES, len(CASES))
    assert build_datalist(shuffled, "prostate_sib") == build_datalist(CASES, "prostate_sib")
    assert build_datalist(CASES, "prostate_sib", seed=1) != build_datalist(CASES, "prostate_sib", seed=2)


def test_what_is_built_can_be_read(tmp_path):
    content = build_datalist(CASES, "prostate_sib")
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert ids(load_datalist(tmp_path), "test") == ids(content, "test")


@pytest.mark.parametrize(
    ("count", "fractions", "expected"),
    [
        (10, (0.7, 0.15, 0.15), [7, 2, 1]),  # 1.5 and 1.5: the earlier gets the rest
        (3, (0.9, 0.05, 0.05), [1, 1, 1]),  # nobody goes without while another has two
        (2, (0.8, 0.1, 0.1), [1, 1, 0]),
        (100, (0.29, 0.7, 0.01), [29, 70, 1]),
        (5, (1.0, 0.0, 0.0), [5, 0, 0]),
    ],
)
def test_shares(count, fractions, expected):
    cases = [(f"{k}.npz", str(k), str(k)) for k in range(count)]
    content = build_datalist(cases, "prostate_sib", fractions)
    assert [len(content[s]) for s in SECTIONS] == expected


def test_explicit_id_takes_the_whole_patient_and_nothing_else_joins():
    content = build_datalist(CASES, "prostate_sib", explicit_ids={"test": ["p2_1"]})
    assert ids(content, "test") == {"p2_0", "p2_1", "p2_2"}
    assert [len(patients(content, s)) for s in SECTIONS] == [16, 3, 1]  # 19 by 0.7 to 0.15


def test_all_sections_explicit_leave_the_others_out():
    content = build_datalist(CASES, "prostate_sib", explicit_ids={"training": ["p0_0"], "validation": ["p1_0"], "test": []})
    assert [sorted(ids(content, s)) for s in SECTIONS] == [["p0_0"], ["p1_0", "p1_1"], []]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"explicit_ids": {"test": ["p2_0"], "training": ["p2_1"]}}, "patient 'p2'"),
        ({"explicit_ids": {"test": ["nobody"]}}, "test id 'nobody'"),
        ({"explicit_ids": {"tests": ["p2_0"]}}, "section 'tests'"),
        ({"explicit_ids": {"training": ["p2_0"]}, "fractions": (1, 0, 0)}, "leave no place"),
        ({"fractions": (0.5, 0.5)}, "fractions"),
        ({"fractions": (0.7, 0.2, 0.2)}, "fractions"),
        ({"fractions": (1.2, -0.1, -0.1)}, "fractions"),
        ({"fractions": (float("nan"), 0, 1)}, "fractions"),
        ({"cases": []}, "no cases"),
        ({"cases": [CASES[0], CASES[0]]}, "occurs twice"),
    ],
)
def test_contradictions(arguments, problem):
    with pytest.raises(InputError, match=problem):
        build_datalist(**{"cases": CASES, "protocol_name": "prostate_sib", **arguments})


def test_natural_order():
    assert sorted(["pt_10", "pt_2", "a", "pt_1"], key=natural_order) == ["a", "pt_1", "pt_2", "pt_10"]


def test_cases_for_inference(tmp_path):
    for name in ("b.npz", "a.npz", "a_pred.npz", "notes.txt"):
        (tmp_path / name).touch()
    found = find_cases(tmp_path, {"Rectum_V50Gy": 0.3})
    assert [f["case"] for f in found] == [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert found[0]["constraints"] == {"Rectum_V50Gy": 0.3}
    assert find_cases(tmp_path / "b.npz") == [{"case": str(tmp_path / "b.npz"), "constraints": {}, "spacing_mm": None}]
    assert find_cases(tmp_path / "b.npz", spacing_mm=[1, 1, 3])[0]["spacing_mm"] == [1, 1, 3]
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere.npz"):
        with pytest.raises(InputError, match="--input"):
            find_cases(nothing)


def test_a_name_that_no_file_system_has_is_not_found(tmp_path):
    path = write(tmp_path, test=[item("d") | {"case": "x/" + "y" * 300}])
    with pytest.raises(InputError, match="section 'test': .*yyy not found"):
        read_datalist(path, "test")


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 2**31), st.integers(1, 98), st.integers(1, 98))
def test_any_split_keeps_patients_whole_and_is_read_again(tmp_path_factory, plans, seed, first, second):
    fractions = (first / 200, second / 200, 1 - first / 200 - second / 200)
    cases = [(f"p{p}_{k}.npz", f"p{p}_{k}", f"p{p}") for p, count in enumerate(plans) for k in range(count)]
    content = build_datalist(cases, "prostate_sib", fractions, seed)
    groups = [patients(content, section) for section in SECTIONS]
    assert sum(map(len, groups)) == len(set.union(*groups)) == len(plans)
    assert sorted(i for section in SECTIONS for i in ids(content, section)) == sorted(case_id for _, case_id, _ in cases)
    folder = tmp_path_factory.mktemp("any")
    (folder / "datalist.json").write_text(json.dumps(content))
    found = load_datalist(folder)
    for section in SECTIONS:
        assert [i | {"case": str(folder / i["case"])} for i in content[section]] == found[section]
