#!/usr/bin/env python3
"""Make a cohort of pelvic phantoms with optimised VMAT plans: the data set that comes with monai_vmat, or one of your own."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.datalist import FILE_NAME, build_datalist
from monai_vmat.errors import InputError
from monai_vmat.files import write_json
from monai_vmat.parallel import add_workers_option, map_in_processes

EXAMPLE = """example:
  pip install 'monai_vmat[planning]'
  python data_scripts/make_phantom_cohort.py --cases 24 --seed 2026 --out data/cohort

An anatomy takes some minutes of one core. A run that was stopped goes on where it was; the same seed makes the same cohort.
Every anatomy gets a plan that spares the rectum first and one that spares the bladder first, every third one also a balanced
plan with 50.4 Gy to PTV56. Plans that miss a gate (target coverage, hot spots, organ doses) are made again, anatomies that
cannot be planned are drawn again. OUT gets the cases, datalist.json (split by anatomy) and README.md with its statistics.

A copy of a cohort grows by more --cases with the seed it was made with. All anatomies are then split anew; to keep the test and
validation cases of before, name them to data_scripts/make_splits.py (--fractions 1 0 0 --validation-ids ... --test-ids ...).

The cases are synthetic and not validated for clinical use."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=24, metavar="N", help="anatomies (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2026, help="another seed, another cohort (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cases")
    add_workers_option(parser)
    options = parser.parse_args()
    if options.cases < 1:
        parser.error(f"--cases: a number from 1 was expected, got {options.cases}")
    if options.seed < 0:
        parser.error(f"--seed: a number from 0 was expected, got {options.seed}")
    try:
        from monai_vmat.planning import card, cohort
    except ImportError as error:
        raise InputError(
            "planning", f"needs a package that is not installed ({error.name})", "pip install '.[planning]'"
        ) from error

    waiting = [i for i in range(options.cases) if not cohort.finished(i, options.seed, options.out)]
    if len(waiting) < options.cases:
        say(f"{options.cases - len(waiting)} of {options.cases} anatomies are there already")
    reasons = map_in_processes(partial(make, seed=options.seed, out=options.out), waiting, options.workers, "anatomy")
    if any(reasons):
        raise InputError(options.out, f"not finished: {'; '.join(filter(None, reasons))}", "Use another --seed")

    names = [(name, cohort.patient_id(i)) for i in range(options.cases) for name in cohort.case_ids(options.seed, i)]
    cases = [(f"{name}.npz", name, patient) for name, patient in names]
    write_json(options.out / FILE_NAME, build_datalist(cases, cohort.PROTOCOL, cohort.SPLIT, options.seed))
    header, rows = card.write_card(options.out, options.seed)
    say(table(header, rows))
    say(f"\nwritten: {options.out / card.FILE_NAME}")
    return 0


def make(index: int, seed: int, out: Path) -> str:
    """Make one anatomy's cases; the reason where that failed, else nothing."""
    from monai_vmat.planning.cohort import make_anatomy

    try:
        make_anatomy(index, seed, out)
    except InputError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    run_command(main)
