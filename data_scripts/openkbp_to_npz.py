#!/usr/bin/env python3
"""Convert the OpenKBP data set (a folder of CSV files per patient) into case files."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from monai_vmat.case import write_case
from monai_vmat.console import run_command, say, table
from monai_vmat.datalist import natural_order
from monai_vmat.errors import InputError
from monai_vmat.openkbp import read_openkbp_patient
from monai_vmat.parallel import add_workers_option, map_in_processes
from monai_vmat.protocol import load_protocol

PROTOCOL = "openkbp_head_and_neck"
EXAMPLE = """example:
  git clone https://github.com/ababier/open-kbp
  python data_scripts/openkbp_to_npz.py open-kbp data/openkbp

A run that was stopped goes on where it was: patients that have their file already are skipped. Incomplete patients are
left out and named at the end. Exit status: 0 when OUT holds at least one case, 2 when not, 130/143 after Ctrl-C/SIGTERM."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", type=Path, help="OpenKBP checkout, or any folder that holds *-pats folders")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the case files, one pt_N.npz per patient")
    add_workers_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="convert patients again that have their file already")
    options = parser.parse_args()

    patients = find_patients(options.source)
    waiting = [p for p in patients if options.overwrite or not (options.out / f"{p.name}.npz").exists()]
    reasons = map_in_processes(partial(convert, out=options.out), waiting, options.workers, "patient")
    skipped = {p.name: reason for p, reason in zip(waiting, reasons, strict=True) if reason}

    there = len(patients) - len(waiting)
    converted = len(waiting) - len(skipped)
    say(table(("patients", "number"), [("converted", converted), ("already there", there), ("skipped", len(skipped))]))
    if skipped:
        say("\nskipped, and why:")
        for name, reason in skipped.items():
            say(f"  {name}: {reason}")
    if converted + there == 0:
        raise InputError(options.source, "none of its patients could be converted", "See the reasons above")
    say(f"\nnext: python data_scripts/make_splits.py {options.out} --openkbp")
    return 0


def find_patients(source: Path) -> list[Path]:
    """Folders of the patients, in natural order.

    Raises:
        InputError: when there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for pattern in ("pt_*", "*-pats/pt_*", "provided-data/*-pats/pt_*"):
        for folder in source.glob(pattern):
            if folder.is_dir() and found.setdefault(folder.name, folder) != folder:
                problem = f"patient {folder.name} is there twice: {found[folder.name]} and {folder}"
                raise InputError(source, problem, "Keep one of them")
    if not found:
        mend = "Clone https://github.com/ababier/open-kbp and give its folder"
        raise InputError(source, "no OpenKBP patients found (expected: [provided-data/]*-pats/pt_N/ct.csv)", mend)
    return sorted(found.values(), key=lambda folder: natural_order(folder.name))


def convert(patient: Path, out: Path) -> str:
    """Convert one patient; the reason if it cannot be read, else nothing."""
    try:
        case = read_openkbp_patient(patient, load_protocol(PROTOCOL))
    except InputError as error:
        return str(error)
    write_case(case, out / f"{case.case_id}.npz")
    return ""


if __name__ == "__main__":
    run_command(main)
