#!/usr/bin/env python3
"""Make benchmarks/README.md of the records that the benchmarks left in benchmarks/results.

Every benchmark that times something measures what it compares in turns, in one run, so that whatever else the machine does
weighs on both, and writes a record: figures, ratios with their targets, machine, versions and the command."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, text_around, write_json, write_text
from monai_vmat.provenance import git_commit, hardware, versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BEGIN, END = "<!-- by benchmarks/records.py from benchmarks/install.py -->", "<!-- end -->"
INTRODUCTION = """# Benchmarks

Written by `python benchmarks/records.py` from the records in `results/`, which the benchmarks themselves write; nothing here is
typed. What is compared is measured in turns within one run; a ratio is that of the medians, the range that of the turns.
"""


def command_line(description: str, example: str, repeats: int | None = None) -> argparse.ArgumentParser:
    """The options of a benchmark that leaves a record, ``repeats`` being how many turns it takes unless told otherwise."""
    parser = argparse.ArgumentParser(
        description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="record to write (default: one in benchmarks/results)")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="turns (default: %(default)s)")
    return parser


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Where PyTorch works."""
    parser.add_argument("--threads", type=int, help="of PyTorch (default: its own choice)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def add_step_options(parser: argparse.ArgumentParser, patch: int) -> None:
    """What a training step works on, and where."""
    parser.add_argument("--width", type=int, default=48, help="base channels (default: %(default)s)")
    parser.add_argument("--patch", type=int, default=patch, help="voxels along each side (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="patches a step (default: %(default)s)")
    add_network_options(parser)


def interleaved(work: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each piece of work, ``repeats`` times, in turns, after ``warm_up`` turns that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warm_up + repeats):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def elsewhere(make: Callable[..., Callable[[], Any]], *arguments: Any) -> Callable[[], Any]:
    """The work ``make(*arguments)`` in a process of its own, for what holds for a whole process (threads, kept memory)."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, make, arguments), daemon=True).start()
    there.close()
    here.recv()

    def run() -> Any:
        here.send(None)
        return here.recv()

    return run


def _serve(requests: Connection, make: Callable[..., Callable[[], Any]], arguments: Sequence[Any]) -> None:
    work = make(*arguments)
    requests.send(None)
    while True:
        try:
            requests.recv()
        except EOFError:  # the benchmark has ended
            return
        requests.send(work())


def ratio(what: str, slower: Sequence[float], faster: Sequence[float], target: float | None = None) -> dict[str, Any]:
    """How many times as long ``slower`` takes: of the medians, and the least and most of the turns."""
    turns = [a / b for a, b in zip(slower, faster, strict=True)]
    value = statistics.median(slower) / statistics.median(faster)
    return {"what": what, "ratio": value, "least": min(turns), "most": max(turns), "target": target}


def leave(
    options: argparse.Namespace,
    name: str,
    question: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    ratios: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> None:
    """Say what was found and write it as the record ``name``, or where --json of ``options`` wants it."""
    say(question)
    say(table(header, rows))
    for found in ratios:
        say(describe(found))
    for note in notes:
        say(note)
    command = f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()
    machine = {**hardware(), "cores": os.cpu_count(), "load_before_and_after": list(os.getloadavg())[:1]}
    record = {
        "question": question,
        "command": command,
        "header": list(header),
        "rows": [list(row) for row in rows],
        "ratios": list(ratios),
        "notes": list(notes),
        "machine": machine,
        "versions": versions(),
        "commit": git_commit(HERE),
    }
    write_json(options.json or RESULTS / f"{name}.json", record)


def describe(found: Mapping[str, Any]) -> str:
    target = "" if found["target"] is None else f", target {found['target']:g}: {'met' if met(found) else 'MISSED'}"
    return f"{found['what']}: {found['ratio']:.2f} ({found['least']:.2f} to {found['most']:.2f}){target}"


def met(found: Mapping[str, Any]) -> bool:
    return found["ratio"] >= found["target"]


def page(records: Mapping[str, dict[str, Any]]) -> str:
    """The page as Markdown: all ratios first, then each benchmark."""
    rows = [
        [r["what"], number(r["ratio"]), f"{number(r['least'])} to {number(r['most'])}", *judged(r), f"[{name}](#{name})"]
        for name, record in records.items()
        for r in record["ratios"]
    ]
    parts = [INTRODUCTION, markdown(["what", "ratio", "range", "target", "", "benchmark"], rows)]
    for name, record in records.items():
        machine = record["machine"]
        where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} threads of PyTorch"
        used = ", ".join(f"{k} {v}" for k, v in record["versions"].items() if v and k in ("python", "torch", "monai", "numpy"))
        parts += [
            f"## {name}\n\n{record['question']}\n",
            record_table(record),
            *(f"{note}\n" for note in record["notes"]),
            f"`{record['command']}` on {where}; {used}; commit {(record['commit'] or 'unknown')[:12]}\n",
        ]
    return "\n".join(parts)


def record_table(record: Mapping[str, Any]) -> str:
    return markdown(record["header"], [[number(cell) for cell in row] for row in record["rows"]])


def judged(found: Mapping[str, Any]) -> list[str]:
    return ["", ""] if found["target"] is None else [f">= {found['target']:g}", "met" if met(found) else "**missed**"]


def number(value: Any) -> str:
    """Three figures; whole numbers and text as they are."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the records (default: benchmarks/results)")
    parser.add_argument("--out", type=Path, default=HERE / "README.md", help="page to write (default: benchmarks/README.md)")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md", help="page that lists the extras' sizes")
    options = parser.parse_args()
    records = {path.stem: read_json(path) for path in sorted(options.results.glob("*.json"))}
    if not records:
        raise InputError(options.results, "holds no records", "Run some benchmarks first")
    write_text(options.out, page(records))
    if install := records.get("install"):
        before, after = text_around(options.readme, BEGIN, END)
        write_text(options.readme, f"{before}{BEGIN}\n{record_table(install)}\n{' '.join(install['notes'])}\n{END}{after}")
    say(f"{len(records)} records in {options.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
