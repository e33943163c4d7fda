"""The document of results: its figures are the evaluation's, its intervals the bootstrap's, and it needs no run."""

import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.metrics import openkbp
from monai_vmat.reports import results
from monai_vmat.reports.__main__ import main
from monai_vmat.reports.calibration import Spread, calibration
from monai_vmat.reports.compare import interval, read_run


def rows_of(text):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_document(project, monkeypatch, capsys):
    out = project / "docs" / "results.md"
    folders = [str(project / "predictions" / f"{name}_test") for name in ("ours", "other")]
    command = ["reports", "results", *folders, "--out", str(out), "--pictures", "1", "--command", "make demo", "--command", "b"]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 0
    text = out.read_text()
    ours, other = text.split("## ")[1:3]
    aggregate = read_json(project / "predictions" / "ours_test" / "evaluation_results.json")["aggregate_metrics"]
    rows = rows_of(ours)
    run = read_run(project / "runs" / "ours", project / "predictions", "test")
    for row, metric, same in (("MAE body, Gy", "mae_body_gy", "body_mae_gy"), ("MAE whole volume, Gy", "mae_gy", "mae_gy")):
        mean, low, high = interval([run], [], same)
        assert rows[row] == [f"{aggregate[f'{metric}_mean']:.2f}", f"{low:.2f} to {high:.2f}", "3"] and low < mean < high
    assert rows["PTV70 |D95 gap|, Gy" if "PTV70 |D95 gap|, Gy" in rows else "PTV70 \\"]  # the bar is escaped
    assert float(rows["goal agreement, %"][0]) == pytest.approx(aggregate["goal_agreement_percent"], abs=0.005)
    assert float(rows["gamma pass rate PTV70+5mm, %"][0]) == pytest.approx(
        aggregate["gamma_pass_rate_PTV70+5mm_mean"], abs=0.005
    )
    assert rows["Rectum"][0] == "3" and rows["Rectum"][1].startswith(f"{aggregate['mae_Rectum_gy_mean']:.2f} (")
    assert "3 cases of 3 patients" in ours and "0123abc" not in ours.split("commit")[0]
    assert "minutes on" in ours and "Jane" not in text and str(project) not in text
    assert "## To repeat\n\n    make demo\n    b\n" in text
    assert float(rows_of(other)["MAE body, Gy"][0]) == pytest.approx(2 * float(rows["MAE body, Gy"][0]), abs=0.011)
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", text)
    assert pictures == ["results/ours_test_worst.png", "results/other_test_worst.png"]
    assert all((out.parent / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_the_card_has_the_same_results(project, monkeypatch):
    card, out = project / "bundle" / "docs" / "README.md", project / "docs" / "results.md"
    card.parent.mkdir(parents=True)
    folders = [project / "predictions" / f"{name}_test" for name in ("ours", "other")]
    told = {"runs": project / "runs", "pictures": 1, "pictures_of": ["other"], "card": card, "commands": ["make demo"]}
    for text in ("# Card\n", f"# Card\n{results.CARD_END}\n{results.CARD_BEGIN}\n"):
        card.write_text(text)
        with pytest.raises(InputError, match="the lines .* were expected"):
            results.write_results(folders, out, **told)
        assert card.read_text() == text and not out.exists()
    card.write_text(f"# Card\n\n{results.CARD_BEGIN}\nold\n{results.CARD_END}\n\n## Licence\n")
    for _ in range(2):  # its own results are replaced
        picture = results.write_results(folders, out, **told)[-1]
        text, document = card.read_text(), out.read_text()
        assert (
            text.startswith("# Card\n\n<!--") and text.endswith(f"\n{results.CARD_END}\n\n## Licence\n") and "old" not in text
        )
        assert rows_of(text) == rows_of(document) and text.count("\n### ") == document.count("\n## ") == 3
        assert re.findall(r"!\[.*?\]\((.+?)\)", text) == ["results/other_test_worst.png"]
        assert re.findall(r"!\[.*?\]\((.+?)\)", document) == ["../bundle/docs/results/other_test_worst.png"]
        assert picture == card.parent / "results" / "other_test_worst.png" and picture.read_bytes().startswith(b"\x89PNG")
    worst = read_json(folders[0] / "evaluation_results.json")["per_case_results"]
    errors = sorted((case["dose_metrics"]["mae_body_gy"] for case in worst), reverse=True)
    assert f"worst by MAE inside the body, Gy: worst {errors[0]:.2f}, " in text


def test_without_its_run_the_weights_say_what_made_them(project):
    folder = project / "predictions" / "ours_test"
    shutil.rmtree(project / "runs")
    spread = Spread("a", np.arange(100, dtype=np.float32), np.arange(100, dtype=np.float32))
    write_json(folder / "calibration.json", calibration([spread]) | {"rank_correlation": 0.5})
    out = project / "results.md"
    picture = results.write_results([folder], out, runs=project / "runs")[-1]
    assert picture == project / "results" / "ours_test_calibration.png" and picture.read_bytes().startswith(b"\x89PNG")
    assert "](results/ours_test_calibration.png)" in out.read_text()
    assert "* training: not recorded" in out.read_text() and "rank correlation with |error| 0.50" in out.read_text()
    facts = read_json(folder / "evaluation_results.json")
    write_json(folder / "evaluation_results.json", facts | {"trainings": [{"run": "mine", "training_cases": 35, "minutes": 9}]})
    results.write_results([folder], out, runs=project / "runs")
    assert "* run mine, training cases 35, minutes 9" in out.read_text()
    with pytest.raises(InputError, match="is given twice"):
        results.write_results([folder, folder], out, runs=project / "runs")


def test_openkbps_scores_are_the_challenges(head_and_neck):
    """The DVH score is pooled over patients, structures and metrics: a patient with more of them counts more."""
    errors = {"a": {"x": 1.0, "y": -2.0, "z": 3.0}, "b": {"x": 4.0}}
    cases = [
        {"case_id": case, "dose_metrics": {}, "openkbp": {"dose_error_gy": 2.0, "dvh_errors_gy": found}}
        for case, found in errors.items()
    ]
    run = results._as_run(SimpleNamespace(cases=cases, protocol=head_and_neck, title="t"))
    mean, low, high = interval([run], [], "openkbp_dvh_score_gy")
    assert mean == pytest.approx(openkbp.dvh_score(errors.values())) == 2.5
    assert (low, high) == (2.0, 4.0)  # all resamples of patient a, all of b
