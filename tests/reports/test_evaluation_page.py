"""The page's text: complete, escaped, without a trace of the machine or the patient. Its behaviour: test_page_in_browser.py."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from monai_vmat.files import read_json, write_json
from monai_vmat.reports.evaluation import find_cases, read_evaluation, read_volumes
from monai_vmat.reports.evaluation_page import WARNING, embed_case, evaluation_html, html_table

HOSTILE = '"><img src=x onerror=alert(1)>&amp;</script><script>alert(2)</script>'


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data if self.found and self.found[-1][0] not in ("script", "style") else ""


def test_the_page_carries_what_it_shows(evaluated, page_of):
    html = page_of(evaluated)
    data = data_of(html)
    assert [case["case_id"] for case in data["cases"]] == ["worst", "medium", "mild"]
    assert ["scan" in case for case in data["cases"]] == [True, False, True]
    curves = data["cases"][0]["dvh"]["curves"]
    assert curves["PTV70"]["reference"][0] == 100.0 and curves["PTV70"]["reference"][-1] == 0.0
    text = Elements(html).text
    assert text.count(WARNING) == 2 and "medium (numbers only)" in text
    for said in ("ours, test split", "3 cases", "0123abc", "4567def", "best.pt", "SHA-256", "3 of 3", "96 x 96 x 64", "0.001"):
        assert said in text, said
    assert "numpy linear percentile 5" in text and "radiologists" in text  # conventions: of the results, of the page
    assert "loss weight of dvh" in text and "@network_def" not in text


def test_nothing_of_the_machine_or_the_patient_and_no_address(evaluated, page_of):
    html = page_of(evaluated)
    assert str(evaluated) not in html and "/tmp" not in re.sub(r'"data":"[^"]*"', "", html)
    assert "Jane_Doe" not in html
    for tag, attributes in Elements(html).found:
        assert tag not in ("link", "iframe", "base", "object")
        assert not any(a in attributes and not attributes[a].startswith("data:") for a in ("src", "href", "srcset")), attributes
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|@import|url\(|import\(", html)
    assert "default-src 'none'" in html  # and the browser is told to ask for nothing


def test_settings_show_the_last_name_of_paths_only(evaluated, project, page_of):
    path = project / "runs" / "ours" / "training_config.json"
    config = read_json(path)
    config["config"] |= {"vgg_weights": r"C:\Users\jane\vgg.pth", "note": "lr/2", "empty": [], "resume": False}
    write_json(path, config)
    text = Elements(page_of(project)).text
    assert "jane" not in text and "vgg.pth" in text and "lr/2" in text and str(evaluated.parent) not in text


def test_hostile_names_stay_text(project):
    folder = project / "predictions" / "ours_test"
    results = read_json(folder / "evaluation_results.json")
    for case in results["per_case_results"]:
        if case["case_id"] != "worst":
            case["goals"][0]["structure"] = HOSTILE
            case["small_structures"] = [HOSTILE]
    results |= {"experiment": HOSTILE, "conventions": {HOSTILE: HOSTILE}, "checkpoint": HOSTILE, "git_commit": HOSTILE}
    write_json(folder / "evaluation_results.json", results)
    evaluation = read_evaluation(folder, project / "runs")
    items = find_cases(evaluation, project / "data")
    embedded = {HOSTILE: embed_case(read_volumes(evaluation, evaluation.cases[-1], items["mild"]), "PTV70")}
    # No datalist takes such case ids; the page does not rely on it.
    names = {"worst": "worst", "medium": f"2{HOSTILE}", "mild": HOSTILE}
    cases = [{**case, "case_id": names[case["case_id"]]} for case in evaluation.cases]
    html = evaluation_html(dataclasses.replace(evaluation, cases=cases), embedded, {}, None)
    found = Elements(html)
    assert not any(attributes.get("src") == "x" or "onerror" in attributes for _, attributes in found.found)
    assert sum(tag == "script" for tag, _ in found.found) == 2  # data and program
    assert [case["case_id"] for case in data_of(html)["cases"]] == list(names.values())
    assert found.text.count("<img src=x onerror=alert(1)>") >= 8


def test_without_its_run_the_page_says_so(project, page_of):
    shutil.rmtree(project / "runs" / "ours")
    text = Elements(page_of(project)).text
    assert "not found: no figures of the training" in text and "0123abc" in text and "seed" not in text


def test_what_is_null_is_a_dash_and_what_is_newer_is_shown(project, page_of):
    path = project / "predictions" / "ours_test" / "evaluation_results.json"
    results = read_json(path)
    for case in results["per_case_results"]:
        case["gamma"] |= {"gamma_pass_rate": None, "other_criteria": {"2 %/2 mm": 43.21}}
        case["prescription_gy"] = {"PTV70": 70.0, "PTV56": 55.5}
        case["isodose_dice"] = {"10": 0.987, "100": None}
        case["plan_quality"] = {"PTV70": {"conformity": {"predicted": 0.765, "reference": 0.9, "gap": -0.135}}}
        case["dose_metrics"] |= {"mae_above_90_percent_gy": 7.654, "mae_Bowel_gy": None}
    results["aggregate_metrics"]["gamma_pass_rate_mean"] = None
    results["seconds"] = {"inference": 12.25}
    write_json(path, results)
    text = Elements(page_of(project, embed=())).text
    for shown in (
        "43.21",
        "0.99",
        "0.77",
        "\N{MINUS SIGN}0.14",
        "7.65",
        "MAE where dose \N{GREATER-THAN OR EQUAL TO} 90 %",
        "PTV56 55.5 Gy",
        "pass or fail only",
        "\N{EN DASH}",
    ):
        assert shown in text, shown
    assert "None" not in text and "gamma pass rate 3\N{NO-BREAK SPACE}%" not in text  # no card for what is not known


def test_the_page_names_what_is_far_outside_the_training(project, page_of):
    path = project / "predictions" / "ours_test" / "evaluation_results.json"
    results = read_json(path)
    assert "far outside" not in Elements(page_of(project, embed=())).text
    for case, outside in zip(results["per_case_results"], ([], [HOSTILE, "voxel size Z, mm: 6 (training: 2 to 3.2)"], [])):
        case["outside_training_range"] = outside
    write_json(path, results)
    found = Elements(page_of(project, embed=()))
    assert "1 of them: \N{BALLOT X} far outside what the training's cases were like." in found.text
    assert found.text.count("far outside what") == 2 and "voxel size Z, mm: 6 (training: 2 to 3.2)" in found.text
    assert not any("onerror" in attributes for _, attributes in found.found)


def test_tables_mark_met_and_missed_in_words_and_sort_by_full_values():
    html = html_table((("case", "error", "met"), [("a", 1.23456, True), ("b", None, False)]), sorted_by=1)
    assert 'aria-sort="descending"><button type="button">error' in html and 'data-value="1.23456">1.23<' in html
    assert 'data-value="">\N{EN DASH}<' in html and "\N{CHECK MARK} yes" in html and "\N{BALLOT X} no" in html
    assert 'data-case="1">b</button>' in html
    assert html_table((("case",), [])) == "<p>None.</p>"


def test_dvh_is_exact_at_its_levels(evaluated):
    evaluation = read_evaluation(evaluated / "predictions" / "ours_test", evaluated / "runs")
    volumes = read_volumes(evaluation, evaluation.cases[0], find_cases(evaluation, None)["worst"])
    dvh = embed_case(volumes, "PTV70").dvh
    rectum = volumes.predicted_gy[volumes.masks["Rectum"]]
    for level in (0, 17, 60):
        expected = 100 * (rectum >= level * dvh["step"]).mean()
        assert dvh["curves"]["Rectum"]["predicted"][level] == pytest.approx(expected, abs=0.005)
