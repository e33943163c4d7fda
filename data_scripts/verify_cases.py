#!/usr/bin/env python3
"""Read every case, measure it and say what deserves a look before training on it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from monai_vmat.case import read_case
from monai_vmat.case_folder import open_cases
from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole
from monai_vmat.parallel import add_workers_option, map_in_processes
from monai_vmat.protocol import Protocol
from monai_vmat.reports.verification import (
    CaseCheck,
    case_picture,
    case_table,
    check_case,
    structure_table,
    unreadable_case,
    verification_html,
)

EXAMPLE = """example:
  python data_scripts/verify_cases.py data/openkbp --html verification.html

Exit status: 0, also with problems that only deserve a look; 1 when a case cannot be read."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FOLDER_OR_DATALIST", type=Path, help="folder of *.npz cases, or a datalist.json")
    parser.add_argument("--protocol", metavar="NAME", help="name or JSON file (default: what the datalist or the cases say)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write one page with tables and pictures")
    add_workers_option(parser)
    options = parser.parse_args()

    items, protocol = open_cases(options.source, options.protocol)
    work = partial(verify, protocol=protocol, picture=options.html is not None)
    checks = map_in_processes(work, items, options.workers, "case")
    say(table(*case_table(checks, protocol)))
    say()
    say(table(*structure_table(checks, protocol)))
    problems = [f"  {check.case_id}: {problem}" for check in checks for problem in check.problems]
    say("\n" + "\n".join(["problems:", *problems] if problems else ["no problems found"]))
    if options.html:
        with write_whole(options.html) as temporary:
            temporary.write_text(verification_html(checks, protocol, f"Cases of {options.source}"), encoding="utf-8")
        say(f"\nwritten: {options.html}")
    return 0 if all(check.readable for check in checks) else 1


def verify(item: dict[str, Any], protocol: Protocol, picture: bool) -> CaseCheck:
    """Check one case."""
    path = Path(item["case"])
    try:
        case = read_case(path, protocol, item.get("spacing_mm"))
    except InputError as error:
        return unreadable_case(item.get("case_id", path.stem), error)
    check = check_case(case, protocol)
    return replace(check, picture=case_picture(case, protocol)) if picture else check


if __name__ == "__main__":
    run_command(main)
