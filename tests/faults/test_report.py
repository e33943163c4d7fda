import json
import subprocess
import sys
from pathlib import Path

import pytest

from .report import FINDINGS, page

ROOT = Path(__file__).resolve().parents[2]
READER = {
    "reader": "native case",
    "commit": "abc",
    "content_bytes": 8 * 1024**2,
    "intact_bytes": 16 * 1024**2,
    "files": 700,
    "read": 100,
    "refused": 598,
    "most_bytes": 28 * 1024**2,
    "most_by": "",
    "slowest_s": 1.25,
    "slowest_by": "",
    "damages": {"truncate": 400, "npz_bomb": 300},
    "failures": [
        {"number": 17, "file": "a.npz", "damage": "truncate", "outcome": f"traceback: {kind}"} for kind in ("A|B", "C")
    ],
}
FUZZ = {
    "kind": "fuzz",
    "seed": 3,
    "limits": {"seconds": 10.0, "memory_factor": 4.0, "least_content_bytes": 4 * 1024**2},
    "versions": {"python": "3.11", "numpy": None},
    "hardware": {"cpu": "a processor", "cores": 2},
    "seconds": 120.0,
    "readers": [READER, READER | {"reader": "datalist", "files": 300, "read": 20, "refused": 280, "failures": []}],
}
CRASH = {
    "kind": "crash",
    "programs": [
        {"program": p, "kills": n, "rerun_finished": n, "work_repeated": 0, "partial_files": 0, "identical": True}
        for p, n in (("training", 30), ("conversion", 25))
    ],
    "disk": [{"fault": "full", "program": "training", "result": "one line"}],
    "failures_found": [{"what": "A part was taken for a whole", "mended_in": "a.py"}],
}


def test_figures_are_the_records():
    text = page({"fuzz": FUZZ, "crash": CRASH}, {"fuzz": [{"what": "A bomb was inflated", "mended_in": "npz.py"}]})
    assert "1000 damaged files: 120 were read right, 878 refused" in text and "2 failed" in text
    assert "| native case | 700 | 2 | 100 | 598 | 2 | 8.0 | 2.0 | 3.5 | 1.2 |" in text
    assert (
        '--seed 3 --files 700 --readers "native case"' in text
        and "2 minutes; commit abc; a processor, 2 cores; python 3.11\n" in text
    )
    assert "| native case | 17 | a.npz | truncate | traceback: A\\|B |" in text
    assert "* A bomb was inflated. Mended in npz.py." in text and "* A part was taken for a whole. Mended in a.py." in text
    assert "55 times a program was killed" in text and "| full | training | one line |" in text


def test_changes_that_no_test_caught_are_shown():
    change = {"file": "losses/dvh", "old": "a | b", "new": "a", "caught_by": "tests/losses/test_dvh.py::test_by_hand[1]"}
    coverage = {"num_statements": 400, "covered_lines": 390, "num_branches": 200, "covered_branches": 185}
    record = {"kind": "mutations", "commit": "abc", "seconds": 240.0, "coverage": coverage}
    text = page({"mutations": record | {"changes": [change, change | {"caught_by": None}, change]}}, {})
    assert "3 single changes to metrics and losses: 2 made a test of the same file fail, 1 did not" in text
    assert "| losses/dvh.py | `a \\| b` | `a` | test_by_hand[1] |" in text and "| `a` | **nobody** |" in text
    assert "185 of 200 branches of `monai_vmat` (92.5 %)" in text and "(97.5 %)" in text and "4 minutes; commit abc" in text
    assert "branches" not in page({"mutations": record | {"changes": [change], "coverage": None}}, {})


def test_what_did_not_fail_and_was_not_run_is_not_there():
    text = page({"fuzz": FUZZ | {"readers": FUZZ["readers"][1:]}}, {})
    assert "0 failed" in text and "Failures of this campaign" not in text and "Crashes" not in text and "Found" not in text


@pytest.mark.parametrize(
    ("records", "problem"), [([{"kind": "x"}], "got 'x'"), ([FUZZ, FUZZ], "got 'fuzz'"), ([[]], "got None")]
)
def test_other_files_are_no_records(tmp_path, records, problem):
    paths = [tmp_path / f"{k}.json" for k in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        path.write_text(json.dumps(record))
    call = [sys.executable, "-m", "tests.faults.report", *map(str, paths), "--out", str(tmp_path / "page.md")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and problem in done.stderr and not (tmp_path / "page.md").exists()


def test_the_committed_findings_are_whole():
    for findings in json.loads(FINDINGS.read_text()).values():
        assert all(set(f) == {"what", "mended_in"} and all(f.values()) for f in findings)
