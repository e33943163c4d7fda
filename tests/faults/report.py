#!/usr/bin/env python3
"""Write docs/reliability.md from what was recorded of bad input (fuzz.py), of crashes and disks (crash.py), and of changes that
the tests should notice (tests/mutations.py)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_vmat.console import run_command, say
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_text

EXAMPLE = """example:
  python -m tests.faults.report docs/reliability/*.json --out docs/reliability.md"""

FINDINGS = Path(__file__).parent / "findings.json"
_MIB = 1024**2


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.report", description=__doc__, epilog=EXAMPLE, formatter_class=raw
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="JSON records of the campaigns")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page (Markdown)")
    options = parser.parse_args()
    records = {}
    for path in options.records:
        record = read_json(path)
        kind = record.get("kind") if isinstance(record, dict) else None
        if kind not in _SECTIONS or kind in records:
            raise InputError(path, f"'kind': one each of {', '.join(_SECTIONS)} was expected, got {kind!r}", "Name the records")
        records[kind] = record
    write_text(options.out, page(records, read_json(FINDINGS)))
    say(f"written: {options.out}")
    return 0


def page(records: Mapping[str, Any], findings: Mapping[str, Any]) -> str:
    """The page of some campaigns' records, and of what they found."""
    parts = [
        "# Reliability under faults and bad input",
        "Written by `python -m tests.faults.report`; every figure is a campaign's.",
    ]
    parts += [_SECTIONS[kind](records[kind], findings.get(kind, [])) for kind in _SECTIONS if kind in records]
    return "\n\n".join(parts) + "\n"


def _fuzz(record: Mapping[str, Any], findings: Sequence[Mapping[str, str]]) -> str:
    readers, limits = record["readers"], record["limits"]
    total = {key: sum(r[key] for r in readers) for key in ("files", "read", "refused")}
    failures = [failure | {"reader": r["reader"]} for r in readers for failure in r["failures"]]
    rows = [
        (
            r["reader"],
            r["files"],
            len(r["damages"]),
            r["read"],
            r["refused"],
            len(r["failures"]),
            f"{r['content_bytes'] / _MIB:.1f}",
            f"{r['intact_bytes'] / r['content_bytes']:.1f}",
            f"{r['most_bytes'] / r['content_bytes']:.1f}",
            f"{r['slowest_s']:.1f}",
        )
        for r in readers
    ]
    header = (
        *("reader", "files", "kinds of damage", "read right", "refused", "failed"),
        *("largest valid, MiB", "memory for it, x", "most memory, x", "slowest, s"),
    )
    commits = {str(r["commit"]): [other["reader"] for other in readers if other["commit"] == r["commit"]] for r in readers}
    of_commits = [f"{commit} ({', '.join(names)})" if len(commits) > 1 else commit for commit, names in commits.items()]
    machine, versions = record["hardware"], record["versions"]
    text = [
        "## Bad input",
        f"{total['files']} damaged files: {total['read']} were read right, {total['refused']} refused with one line that names "
        f"file, field and mend, {len(failures)} failed.",
        _table(header, rows),
        "A file is *read right* when its result passes the checks that everything relies on (finite, shapes, ranges). It "
        "*fails* when anything else than that or the project's own error comes of it: a library's traceback, a wrong result, "
        f"a message that is no short line, more than {limits['seconds']:g} s, or more memory than "
        f"{limits['memory_factor']:g} times the largest valid file. Memory is how far the process's resident set grows at its "
        "highest, as the kernel counts it; the largest valid file is what its arrays take uncompressed or the bytes of the "
        f"files that are read together, whichever is more, at least {limits['least_content_bytes'] / _MIB:g} MiB. For settings "
        "it is what running the valid ones takes. Time in which the reader had work and other programs the processor is not "
        "counted.",
        "The last four columns: what the largest valid file holds; how many times that the memory is that reading the valid "
        "files takes, and the most that reading a damaged one took; the longest that one took.",
        "Damage is of two kinds: to any bytes (flipped, cut, inserted, swapped, repeated, a hole of 4 GiB at the end), and to "
        "what each format has that can lie: npy headers, zip directories and names, archive bombs of 2 GiB, JSON values and "
        "keys, DICOM elements, sizes, contours and transfer syntaxes, NIfTI headers, CSV rows, pickles and tensors of "
        "checkpoints, settings of the command line. What MONAI finds before it runs a configuration (no such file, `%` "
        "macros, nested names that are not there) it tells in its own words.",
        "The same damage again, and one file of it with what comes of it (numbers count from 0):",
        _code(
            "".join(
                f'python -m tests.faults.fuzz --seed {record["seed"]} --files {r["files"]} --readers "{r["reader"]}" '
                "--out docs/reliability/fuzz.json\n"
                for r in readers
            )
            + f'python -m tests.faults.fuzz --repeat "READER:NUMBER" --seed {record["seed"]} --out damaged'
        ),
        f"{record['seconds'] / 60:.0f} minutes; commit {', '.join(of_commits)}; {machine['cpu']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    ]
    if failures:
        shown = [(f["reader"], f["number"], f["file"], f["damage"], f["outcome"]) for f in failures]
        text += ["### Failures of this campaign", _table(("reader", "number", "file", "damage", "what failed"), shown)]
    return "\n\n".join([*text, *_found(findings)])


def _crash(record: Mapping[str, Any], findings: Sequence[Mapping[str, str]]) -> str:
    text = ["## Crashes"]
    programs = record.get("programs", [])
    if programs:
        text.append(
            f"{sum(p['kills'] for p in programs)} times a program was killed (SIGKILL) at a random moment and run again."
        )
        header = ("program", "kills", "rerun finished", "work repeated", "partial files", "result identical")
        keys = ("program", "kills", "rerun_finished", "work_repeated", "partial_files", "identical")
        text.append(_table(header, [[p.get(key, "-") for key in keys] for p in programs]))
    if record.get("disk"):
        text += [
            "## Disks",
            _table(("fault", "program", "result"), [[d[k] for k in ("fault", "program", "result")] for d in record["disk"]]),
        ]
    return "\n\n".join([*text, *_found([*findings, *record.get("failures_found", [])])])


def _mutations(record: Mapping[str, Any], findings: Sequence[Mapping[str, str]]) -> str:
    changes = record["changes"]
    survived = sum(change["caught_by"] is None for change in changes)
    rows = [
        (
            f"{c['file']}.py",
            f"`{c['old']}`",
            f"`{c['new']}`",
            c["caught_by"].split("::")[-1] if c["caught_by"] else "**nobody**",
        )
        for c in changes
    ]
    text = [
        "## Do the tests bite?",
        f"{len(changes)} single changes to metrics and losses: {len(changes) - survived} made a test of the same file fail, "
        f"{survived} did not.",
        _table(("file", "was", "became", "first test that failed"), rows),
        _code("python -m tests.mutations --out docs/reliability/mutations.json"),
        f"{record['seconds'] / 60:.0f} minutes; commit {record['commit']}",
    ]
    if coverage := record["coverage"]:
        taken, of = coverage["covered_branches"], coverage["num_branches"]
        lines, all_lines = coverage["covered_lines"], coverage["num_statements"]
        text.insert(
            2,
            f"The suite takes {taken} of {of} branches of `monai_vmat` ({100 * taken / of:.1f} %) and {lines} of {all_lines} "
            f"statements ({100 * lines / all_lines:.1f} %), what numba compiles apart (`make coverage`).",
        )
    return "\n\n".join([*text, *_found(findings)])


_SECTIONS = {"fuzz": _fuzz, "crash": _crash, "mutations": _mutations}


def _found(findings: Sequence[Mapping[str, str]]) -> list[str]:
    """What was found, a line each; the same finding once."""
    several = list(dict.fromkeys((f["what"], f["mended_in"]) for f in findings))
    if not several:
        return []
    lines = [f"* {what}. Mended in {where}." for what, where in several]
    return [f"### Found and mended: {len(several)}", "\n".join(lines)]


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def _code(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


if __name__ == "__main__":
    run_command(main)
