#!/usr/bin/env python3
"""How well the cohort's planner repeats itself: its plans made again, as predictions to be evaluated.

The plans are optimised anew for the same anatomies and objectives, with other voxels drawn for the optimisation or, with
--sectors, from other sliding windows, and scaled to the same PTV70 D95 as all plans are. It is a yardstick, no bound: a model
that predicts the mean of what the planner may do lies nearer to each plan than two plans may lie to each other."""

from __future__ import annotations

import argparse
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_vmat.case import read_case, write_dose
from monai_vmat.case_folder import open_cases
from monai_vmat.console import run_command, say
from monai_vmat.datalist import SECTIONS
from monai_vmat.errors import InputError
from monai_vmat.parallel import add_workers_option, map_in_processes
from monai_vmat.protocol import Protocol

EXAMPLE = """examples:
  pip install -e '.[planning]'
  python benchmarks/replanning.py data/cohort predictions/replanned
  python benchmarks/replanning.py data/cohort predictions/other-windows --sectors 15
  python data_scripts/evaluate_predictions.py predictions/replanned data/cohort --split test

An anatomy takes about a minute of one core."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a cohort of data_scripts/make_phantom_cohort.py")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the doses")
    parser.add_argument("--split", choices=SECTIONS, default="test", help="which of its plans (default: %(default)s)")
    parser.add_argument("--sectors", type=int, metavar="N", help="of the windows to start from (default: the plan's own)")
    add_workers_option(parser)
    options = parser.parse_args()
    try:
        from monai_vmat.planning.plan import CONTROL_POINTS
    except ImportError as error:
        problem = f"needs a package that is not installed ({error.name})"
        raise InputError("planning", problem, "pip install '.[planning]'") from error
    if options.sectors is not None and (options.sectors < 1 or CONTROL_POINTS % options.sectors):
        parser.error(f"--sectors: a divisor of {CONTROL_POINTS} was expected, got {options.sectors}")
    items, protocol = open_cases(options.folder, section=options.split)
    by_patient = [list(plans) for _, plans in groupby(items, lambda item: item["patient"])]
    work = partial(replan, out=options.out, protocol=protocol, sectors=options.sectors)
    problems = [problem for problem in map_in_processes(work, by_patient, options.workers, "anatomy") if problem]
    if problems:
        raise InputError(options.folder, "; ".join(problems), "Use a cohort that data_scripts/make_phantom_cohort.py has made")
    say(f"written: {options.out}, {len(items)} plans")
    return 0


def replan(plans: list[dict[str, Any]], out: Path, protocol: Protocol, sectors: int | None) -> str:
    """Make all plans of one anatomy again; why not, where that failed."""
    from monai_vmat.planning.objectives import Objectives
    from monai_vmat.planning.phantom import make_phantom
    from monai_vmat.planning.plan import Planner

    torch.set_num_threads(1)
    cases = [read_case(item["case"], protocol) for item in plans]
    if not all("phantom_seed" in case.metadata.get("plan", {}) for case in cases):
        return f"{cases[0].patient}: no phantom_seed in its metadata"
    seed = cases[0].metadata["plan"]["phantom_seed"]
    phantom = make_phantom(seed)
    if any(not np.array_equal(phantom.structures[name], mask) for name, mask in cases[0].structures.items()):
        return f"{cases[0].patient}: this version draws another anatomy from seed {seed}"
    planner = Planner(phantom, seed if sectors else seed + 1)  # the seed draws the voxels that take part
    for case in cases:
        facts = case.metadata["plan"]
        objectives = Objectives(facts["objectives"], facts["lean"], float(case.prescription_gy["PTV56"]))
        plan = planner.plan(objectives, sectors or facts["sectors"])
        note = {"case_id": case.case_id, "note": "a plan made again, research only, not for clinical use"}
        write_dose(out / f"{case.case_id}_pred.npz", plan.dose_gy, case.affine, note)
    return ""


if __name__ == "__main__":
    run_command(main)
