"""The command line hands on what it is told. What its commands write is in test_compare.py and test_evaluation_report.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from monai_vmat.errors import InputError
from monai_vmat.reports import __main__ as module
from monai_vmat.reports.__main__ import CASES_TO_LOOK_AT, main


@pytest.fixture
def run(monkeypatch):
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["reports", *map(str, words)])
        return main()

    return run


@pytest.fixture
def handed_on(monkeypatch) -> list:
    """What a report is asked for, in place of a report."""
    calls: list = []

    def write_report(folder: Path, out: Path, **options) -> list[Path]:
        calls.append((folder, out, options))
        return [Path(__file__)]

    monkeypatch.setattr("monai_vmat.reports.evaluation_report.write_report", write_report)
    return calls


def test_an_evaluation_is_reported_where_it_is_unless_said_otherwise(run, handed_on, tmp_path, monkeypatch, capsys):
    """Runs are beside the folder of the predictions, also where that is named from within."""
    folder = tmp_path / "project" / "predictions" / "mine_test"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert run("evaluation", ".") == 0
    ((source, out, options),) = handed_on
    assert (source, out) == (Path("."), Path(".")) and options["runs"] == tmp_path / "project" / "runs"
    assert (options["cases"], options["case"], options["dataset_dir"]) == (CASES_TO_LOOK_AT, None, None)
    assert f"{Path(__file__)} (" in capsys.readouterr().out


def test_what_is_said_of_an_evaluation_goes_on(run, handed_on, tmp_path):
    words = ["--runs", "r", "--dataset_dir", "d", "--cases", "3", "--case", "c7", "--out", "o"]
    assert run("evaluation", tmp_path, *words) == 0
    assert handed_on == [(tmp_path, Path("o"), {"runs": Path("r"), "dataset_dir": Path("d"), "cases": 3, "case": "c7"})]


def test_what_is_said_of_a_comparison_goes_on(run, monkeypatch, capsys):
    read, compared = [], []

    def compare(runs: list, baseline: str) -> list:
        compared.append((runs, baseline))
        return []

    monkeypatch.setattr(module.comparing, "read_run", lambda *arguments: read.append(arguments) or arguments[0].name)
    monkeypatch.setattr(module.comparing, "compare", compare)
    monkeypatch.setattr(module.comparing, "comparison_table", lambda comparisons, baseline: (("experiment",), [(baseline,)]))
    monkeypatch.setattr(module, "verdicts", lambda comparisons, baseline: [f"{baseline} it is."])
    assert run("compare", "runs/a", "runs/b", "--predictions", "p", "--split", "validation", "--baseline", "a") == 0
    assert read == [(Path("runs/a"), Path("p"), "validation"), (Path("runs/b"), Path("p"), "validation")]
    assert compared == [(["a", "b"], "a")]
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["experiment", "----------", "a"] and "* a it is." in shown and shown[-1] == module.NOTE


@pytest.mark.parametrize("words", [[], ["compare"], ["evaluation"], ["publish", "x"]])
def test_what_makes_no_command(run, capsys, words):
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2 and "usage: python -m monai_vmat.reports" in capsys.readouterr().err


def test_no_cases_to_look_at(run, handed_on, tmp_path):
    with pytest.raises(InputError, match=f"--cases: a number from 1 was expected, got 0. Leave it out for {CASES_TO_LOOK_AT}"):
        run("evaluation", tmp_path, "--cases", "0")
    assert not handed_on
