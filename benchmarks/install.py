#!/usr/bin/env python3
"""What installing takes, in seconds and on disk: the plain package in a new virtual environment, then each extra on top of it.

What an extra brought is removed again before the next; --no-cache-dir, so that the packages are fetched. Seconds depend on how
near the package index is, and the plain package's size on PyTorch's build, which is told."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import records

from monai_vmat.console import run_command, say

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    options = records.command_line(__doc__, "python benchmarks/install.py").parse_args()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        before, at_first = size_mb(folder), packages(python)
        for extra in ("", *setup["options.extras_require"]):
            name = f"[{extra}]" if extra else ""
            say(f"pip install monai_vmat{name}")
            began = time.perf_counter()
            pip(python, "install", "--no-cache-dir", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}{name}")
            seconds = time.perf_counter() - began
            new = packages(python) - at_first
            rows.append([f"monai_vmat{name}", len(new), seconds, size_mb(folder) - before])
            if extra:
                pip(python, "uninstall", "--yes", *sorted(new))
            else:
                before, at_first = size_mb(folder), at_first | new
        build = [python, "-c", "import torch; print(torch.__version__)"]
        torch = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    records.leave(
        options,
        "install",
        "Installing the plain package, and each extra on top of it.",
        ["package", "packages", "seconds", "MB on disk"],
        rows,
        notes=[f"With PyTorch {torch}; builds for CUDA are several times as large."],
    )
    return 0


def pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True)


def packages(python: str) -> set[str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True)
    return {line.split("==")[0] for line in listed.stdout.split()}


def size_mb(folder: str) -> float:
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


if __name__ == "__main__":
    run_command(main)
