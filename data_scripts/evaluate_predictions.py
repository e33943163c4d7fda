#!/usr/bin/env python3
"""Evaluate predicted doses that are there as files: the same figures as a bundle's evaluation gives."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from monai_vmat import provenance
from monai_vmat.case import read_case
from monai_vmat.case_folder import open_cases
from monai_vmat.console import run_command, say
from monai_vmat.datalist import SECTIONS, natural_order
from monai_vmat.errors import InputError
from monai_vmat.handlers.evaluation_record import write_results
from monai_vmat.metrics.case_metrics import case_metrics
from monai_vmat.parallel import add_workers_option, map_in_processes
from monai_vmat.predictions import AXES, DOSE_UNITS, find_prediction, predicted_case, read_prediction
from monai_vmat.protocol import Protocol
from monai_vmat.transforms.load_case import case_masks

RESEARCH_ONLY = "Evaluated by monai_vmat. Research software, not a medical device: not for clinical use."
EXAMPLE = """examples:
  python data_scripts/evaluate_predictions.py predictions/mine data/cohort --split test
  python data_scripts/evaluate_predictions.py old/predictions old/cases --protocol prostate_sib --dose-unit fraction --axes yxz
  python data_scripts/evaluate_predictions.py results/submission data/openkbp

PRED_DIR has <case_id>_pred.npz (array 'dose') or OpenKBP's <case_id>.csv. Files of this program and CSVs say all about
themselves. Of another .npz with floating-point doses --dose-unit is asked; its axes are told by its shape where X and Y
differ, by --axes where they do not. What cannot be told is an error, and the result says how the files were read.

Exit status: 0 when every case was evaluated, 1 when some were not (each is named, with the reason), 2 when none was."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", metavar="PRED_DIR", type=Path, help="folder of predictions")
    parser.add_argument("cases", metavar="CASE_DIR", type=Path, help="folder of cases with their doses, or a datalist.json")
    parser.add_argument("--protocol", metavar="NAME", help="name or JSON file (default: what the datalist or the cases say)")
    parser.add_argument("--split", choices=SECTIONS, help="only these cases of the datalist (default: all)")
    parser.add_argument(
        "--dose-unit", choices=DOSE_UNITS, help="of .npz files that do not say it; fraction: of the prescription"
    )
    parser.add_argument("--axes", choices=AXES, help="order of axes of .npz files that do not say it")
    parser.add_argument(
        "--spacing", "--spacing-mm", nargs=3, type=float, metavar=("X", "Y", "Z"), help="voxel size in mm of v2.x cases (1 1 2)"
    )
    parser.add_argument("--experiment", metavar="NAME", help="what the result is called (default: PRED_DIR's name)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for evaluation_results.json (default: PRED_DIR)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    add_workers_option(parser)
    options = parser.parse_args()
    out = options.out or options.predictions
    if (out / "evaluation_results.json").exists() and not options.overwrite:
        raise InputError(out, "holds evaluation_results.json already", "Choose another --out, or add --overwrite")
    if not options.predictions.is_dir():
        raise InputError(options.predictions, "is not a folder", "Give the folder of the predictions")
    items, protocol = open_cases(options.cases, options.protocol, options.split)

    began = time.perf_counter()
    work = partial(
        evaluate,
        predictions=options.predictions,
        protocol=protocol,
        dose_unit=options.dose_unit,
        axes=options.axes,
        spacing_mm=options.spacing,
    )
    outcomes = map_in_processes(work, items, options.workers, "case")
    seconds = time.perf_counter() - began
    results = [outcome for outcome in outcomes if "not_evaluated" not in outcome]
    refused = {outcome["case_id"]: outcome["not_evaluated"] for outcome in outcomes if "not_evaluated" in outcome}
    read_as = Counter(result.pop("read_as") for result in results)
    if results:
        facts = {
            "experiment": options.experiment or options.predictions.resolve().name,
            "split": options.split or "all",
            "predictions": options.predictions.resolve().name,
            "predictions_read_as": dict(read_as),
            "not_evaluated": refused,
            "protocol": protocol.name,
            "git_commit": provenance.git_commit(Path(__file__).parent),
            "versions": provenance.versions(),
            "note": RESEARCH_ONLY,
        }
        write_results(out, protocol, results, facts, {"evaluation": seconds})
        say("\nread as: " + "; ".join(f"{words}: {count}" for words, count in read_as.items()))
    if refused:
        say("\nnot evaluated, and why:")
        for case_id, reason in refused.items():
            say(f"  {case_id}: {reason}")
    strangers = without_case(options.predictions, {outcome["case_id"] for outcome in outcomes})
    if strangers:
        say(f"\npredictions of no case in {options.cases}: {', '.join(strangers)}")
    if not results:
        raise InputError(options.predictions, "none of the cases could be evaluated", "See the reasons above")
    return 1 if refused else 0


def evaluate(
    item: dict[str, Any],
    predictions: Path,
    protocol: Protocol,
    dose_unit: str | None,
    axes: str | None,
    spacing_mm: list[float] | None,
) -> dict[str, Any]:
    """The metrics of one case with ``read_as``, or its ``not_evaluated``: why."""
    case_id = item.get("case_id", Path(item["case"]).stem)
    try:
        case = read_case(item["case"], protocol, item.get("spacing_mm", spacing_mm))
        case_id = item.get("case_id", case.case_id)
        if case.dose_gy is None:
            raise InputError(item["case"], "array 'dose' is missing", "A prediction can only be compared with a delivered dose")
        path = find_prediction(predictions, case_id)
        pred_gy, read_as = read_prediction(path, case, protocol.rx_gy, dose_unit=dose_unit, axes=axes)
        masks = {name: mask for name, mask in case_masks(case, protocol).items() if mask.any()}
    except InputError as error:
        return {"case_id": case_id, "not_evaluated": str(error)}
    metrics = case_metrics(pred_gy, case.dose_gy, masks, case.spacing_mm, protocol, case.prescription_gy)
    return {"case_id": case_id, "patient": item.get("patient", case.patient), **metrics, "read_as": read_as}


def without_case(predictions: Path, case_ids: set[str]) -> list[str]:
    """Names of prediction files that belong to none of the cases."""
    named = {path.name: predicted_case(path) for path in predictions.iterdir()}
    return sorted((name for name, case_id in named.items() if case_id and case_id not in case_ids), key=natural_order)


if __name__ == "__main__":
    run_command(main)
