"""A headless Chromium, driven by WebDriver (https://www.w3.org/TR/webdriver2/) with the standard library alone."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    browsers: list[Browser] = []
    try:
        assert process.stdout is not None
        started = next(match for line in process.stdout if (match := re.search(r"successfully on port (\d+)", line)))

        def open_one() -> Browser:
            browsers.append(Browser(f"http://127.0.0.1:{started[1]}", chromium, tmp_path_factory.mktemp("profile")))
            return browsers[-1]

        yield open_one
        for browser in browsers:
            browser.close()
    finally:
        process.terminate()
        process.wait()
