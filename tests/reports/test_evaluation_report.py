"""The command: what it writes, from what, and what it says when something is missing."""

from __future__ import annotations

import shutil
import sys

import pytest

from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.reports.__main__ import main
from monai_vmat.reports.evaluation import read_evaluation
from monai_vmat.reports.evaluation_report import evaluated_alike, overview_figures, worst_and_best


@pytest.mark.parametrize(("count", "chosen"), [(1, "a"), (2, "ae"), (3, "abe"), (4, "abce"), (5, "abcde"), (9, "abcde")])
def test_the_worst_and_the_best(count, chosen):
    assert worst_and_best(list("abcde"), count) == list(chosen)


def test_one_case_is_worst_and_best():
    assert worst_and_best(["a"], 1) == ["a"]


def test_the_command_writes_page_and_figures_and_lists_them(evaluated, tmp_path, monkeypatch, capsys):
    folder = evaluated / "predictions" / "ours_test"
    monkeypatch.setattr(sys, "argv", ["reports", "evaluation", str(folder), "--out", str(tmp_path), "--cases", "2"])
    assert main() == 0
    names = ["case_boxes", "training_curves", "loss_components", "model_comparison", "dose_slices", "gamma_map", "dvh"]
    names.append("dose_profile")
    expected = {"report.html", *(f"figures/{name}.{kind}" for name in names for kind in ("png", "pdf"))}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == expected
    told = capsys.readouterr().out
    assert all(str(tmp_path / name) in told for name in expected)
    page = (tmp_path / "report.html").read_text()
    assert page.count('"scan"') == 2 and "medium (numbers only)" in page
    assert page.count("data:image/svg+xml;base64,") == 4
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "told"), [(["--cases", "0"], "a number from 1"), (["--case", "x"], "'x' was not evaluated")]
)
def test_options_that_make_no_sense(evaluated, tmp_path, monkeypatch, options, told):
    folder = evaluated / "predictions" / "ours_test"
    monkeypatch.setattr(sys, "argv", ["reports", "evaluation", str(folder), "--out", str(tmp_path), *options])
    with pytest.raises(InputError, match=told):
        main()
    assert list(tmp_path.iterdir()) == []


def test_other_models_are_compared_on_the_same_cases_only(project):
    folder, runs = project / "predictions" / "ours_test", project / "runs"
    evaluation = read_evaluation(folder, runs)
    assert [run.name for run in evaluated_alike(evaluation, runs)] == ["other", "ours"]
    labels = [t.get_text() for t in overview_figures(evaluation, runs)["model_comparison"].axes[0].get_yticklabels()]
    assert labels == ["other", "ours"]  # from below: the better one is on top
    results = read_json(project / "predictions" / "other_test" / "evaluation_results.json")
    results["per_case_results"].pop()
    write_json(project / "predictions" / "other_test" / "evaluation_results.json", results)
    assert [run.name for run in evaluated_alike(evaluation, runs)] == ["ours"]
    (runs / "ours" / "training_summary.json").unlink()  # still training
    assert evaluated_alike(evaluation, runs) == []
    assert list(overview_figures(evaluation, runs)) == ["case_boxes", "training_curves", "loss_components"]
    shutil.rmtree(runs)
    assert list(overview_figures(read_evaluation(folder, runs), runs)) == ["case_boxes"]
