"""An evaluated experiment on disk, and a headless Chromium, which the standard library drives by WebDriver
(https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_vmat.case import write_case, write_dose
from monai_vmat.files import write_json
from monai_vmat.handlers.evaluation_record import CONVENTIONS
from monai_vmat.metrics.case_metrics import aggregate, case_metrics
from monai_vmat.provenance import checksums
from monai_vmat.reports.evaluation import find_cases, read_evaluation, read_volumes, unchanged_files
from monai_vmat.reports.evaluation_page import embed_case, evaluation_html
from monai_vmat.reports.evaluation_report import overview_figures
from monai_vmat.transforms.load_case import case_masks

SHIFTS_GY = {"mild": 1.0, "worst": 4.0, "medium": 2.0}  # how much higher the predicted dose of each case is inside the body
METRICS = """epoch,val/loss,val/mae_gy,train/loss,train/mse_weighted,train/dvh_weighted,lr,seconds
1,,,0.5,0.4,0.1,0.001,2.0
2,0.3,2.5,0.25,0.2,0.05,0.0005,2.0
"""

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which WebDriver hands out elements
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the driver is on this machine, whatever the proxy


class Browser:
    """One session of a chromedriver.

    Args:
        address: where the driver listens.
        chromium: the browser's program.
        profile: a fresh folder for its data.
    """

    def __init__(self, address: str, chromium: str, profile: Path) -> None:
        self._session = address
        options = {"binary": chromium, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        opened = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"{address}/session/{opened['sessionId']}"

    def _call(self, method: str, path: str, content: dict | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._session + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def open(self, path: Path) -> None:
        self._call("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + 20
        while not self.run(f"return {script}"):
            assert time.monotonic() < end, f"not within 20 s: {script}"
            time.sleep(0.05)

    def _element(self, selector: str) -> str:
        return self._call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/click", {})

    def press(self, selector: str, keys: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/value", {"text": keys})

    def point(self, selector: str, wheel: int = 0) -> None:
        """Move the pointer to an element's middle; there, turn the wheel."""
        origin = {_ELEMENT: self._element(selector)}
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center', behavior: 'instant'})", selector)
        move = {"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0}
        actions = [{"type": "pointer", "id": "mouse", "actions": [move]}]
        if wheel:
            turn = {"type": "scroll", "duration": 0, "origin": origin, "x": 0, "y": 0, "deltaX": 0, "deltaY": wheel}
            actions.append({"type": "wheel", "id": "wheel", "actions": [{"type": "pause"}, turn]})
        self._call("POST", "/actions", {"actions": actions})

    def resize(self, width: int, height: int) -> None:
        self._call("POST", "/window/rect", {"width": width, "height": height})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What came in since the last call: ``browser`` (console) or ``performance`` (requests)."""
        return self._call("POST", "/se/log", {"type": kind})

    def requests(self, page: Path) -> list[str]:
        """Addresses of everything that a page asked for since the last call, itself first."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [s["request"]["url"] for s in sent if s["documentURL"] == page.as_uri()]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("POST", "/print", {"background": True})))

    def close(self) -> None:
        self._call("DELETE", "")


@pytest.fixture(scope="session")
def open_browser(tmp_path_factory) -> Iterator[Callable[[], Browser]]:
    """``open_browser()``: a fresh session; all are closed at the end."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with chromedriver on this machine")
    browsers: list[Browser] = []
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = next(found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line)))

            def open_one() -> Browser:
                browsers.append(Browser(f"http://127.0.0.1:{port}", chromium, tmp_path_factory.mktemp("profile")))
                return browsers[-1]

            yield open_one
            for browser in browsers:
                browser.close()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, prostate, make_case) -> Path:
    """A project's folder with cases (``data``), runs ``ours`` and ``other``, and their predictions; only to be read."""
    root = tmp_path_factory.mktemp("project")
    cases = {n: make_case(prostate, case_id=n, seed=i, patient=f"Jane_Doe_{i}") for i, n in enumerate(SHIFTS_GY)}
    for name, case in cases.items():
        write_case(case, root / "data" / f"{name}.npz")
    items = [{"case": f"{n}.npz", "case_id": n, "patient": case.patient} for n, case in cases.items()]
    write_json(root / "data" / "datalist.json", {"protocol": prostate.name, "training": [], "validation": [], "test": items})
    for experiment, factor in (("ours", 1.0), ("other", 2.0)):
        predictions, results = root / "predictions" / f"{experiment}_test", []
        for name, case in cases.items():
            masks = case_masks(case, prostate)
            predicted = (case.dose_gy + np.float32(factor * SHIFTS_GY[name]) * masks["Body"]).astype(np.float32)
            measured = case_metrics(predicted, case.dose_gy, masks, case.spacing_mm, prostate)
            results.append({"case_id": name, "patient": case.patient, **measured})
            write_dose(predictions / f"{name}_pred.npz", predicted, case.affine, {})
        facts = {
            "experiment": experiment,
            "split": "test",
            "checkpoint": "best.pt",
            "protocol": prostate.name,
            "git_commit": "0123abc",
            "versions": {"monai": "1.6.1"},
            "conventions": CONVENTIONS,
            "n_cases": len(results),
            "aggregate_metrics": aggregate(results, prostate),
            "per_case_results": results,
        }
        write_json(predictions / "evaluation_results.json", facts)
        run = root / "runs" / experiment
        config = {
            "protocol_name": prostate.name,
            "dataset_dir": str(root / "data"),
            "output_dir": str(run),
            "learning_rate": 0.001,
            "patch_size": [96, 96, 64],
            "network": "$@network_def.to(@device)",
            "loss": {"weights": {"mse": 1.0, "dvh": 0.5}},
        }
        record = {
            "config": config,
            "git_commit": "4567def",
            "seed": 42,
            "hardware": {"cpu": "a processor", "gpu": None},
            "parameters": 1234,
            "cases": {"training": ["t"], "test": list(cases)},
            "data_sha256": checksums({n: root / "data" / f"{n}.npz" for n in cases}),
        }
        write_json(run / "training_config.json", record)
        final = {"epoch": 2, "train/loss": 0.25}
        summary = {"epochs": 2, "best_epoch": 2, "best_val_mae_gy": 2.5, "seconds": 4.0, "final": final}
        write_json(run / "training_summary.json", summary)
        (run / "metrics.csv").write_text(METRICS)
    return root


@pytest.fixture
def project(evaluated, tmp_path) -> Path:
    """A copy of ``evaluated`` to be changed; its run still names the original's data."""
    return Path(shutil.copytree(evaluated, tmp_path / "project"))


@pytest.fixture(scope="session")
def page_of() -> Callable[..., str]:
    """``page_of(project, embed, figures)``: the page about the run ``ours``, with images of the cases ``embed``."""

    def html(root: Path, embed: Sequence[str] = ("worst", "mild"), figures: bool = False) -> str:
        evaluation = read_evaluation(root / "predictions" / "ours_test", root / "runs")
        items = find_cases(evaluation, root / "data")
        results = {case["case_id"]: case for case in evaluation.cases}
        embedded = {c: embed_case(read_volumes(evaluation, results[c], items[c]), "PTV70") for c in embed}
        pictures = overview_figures(evaluation, root / "runs") if figures else {}
        return evaluation_html(evaluation, embedded, pictures, unchanged_files(evaluation, items))

    return html
