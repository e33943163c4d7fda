#!/usr/bin/env python3
"""Does the constraint vector act? Predict every test anatomy twice, all else equal, and compare the organs' mean doses.

Each anatomy's CT and structures go in once with the objectives of its bladder-first plan and once with those of its
rectum-first plan. A model that has learned what they mean lowers the rectum's mean dose and raises the bladder's; a model
without conditioning cannot. What the two real plans differ by stands beside it."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_vmat.case import read_case, read_metadata
from monai_vmat.console import plain_errors, run_command, say, table
from monai_vmat.datalist import read_datalist
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.handlers.training_checkpoint import best_checkpoint
from monai_vmat.protocol import load_protocol
from monai_vmat.weights import load_weights

EXAMPLE = """example:
  python benchmarks/conditioning.py runs/demo --out predictions/demo_test/conditioning.json"""
FROM, TO = "bladder-first", "rectum-first"
PROTOCOL = "prostate_sib"
ORGANS = ("Rectum", "Bladder")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a training run on the embedded cohort")
    parser.add_argument("--split", default="test", help="test or validation (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    plain_errors()
    parser_of_run = ConfigParser(read_json(options.run / "training_config.json")["config"])
    parser_of_run["device"] = "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"  # whatever the run had
    parser_of_run.get_parsed_content("imports")
    shifts = compare(parser_of_run, options.run, options.split)
    rows = [(s["patient"], *(s[organ][who] for organ in ORGANS for who in ("predicted", "planned"))) for s in shifts]
    say(table(("anatomy", "rectum", "planned", "bladder", "planned"), rows))
    follows = sum(s["Rectum"]["predicted"] < 0 < s["Bladder"]["predicted"] for s in shifts)
    say(f"\nmean dose (Gy), {TO} minus {FROM}; both as they should on {follows} of {len(shifts)} anatomies")
    if options.out:
        write_json(options.out, {"run": options.run.name, "from": FROM, "to": TO, "follows": follows, "anatomies": shifts})
    return 0


def compare(config: ConfigParser, run: Path, split: str) -> list[dict[str, Any]]:
    """For each anatomy that has both plans: the change of the organs' mean doses, predicted and planned, in Gy."""
    plans: dict[str, dict[str, dict]] = defaultdict(dict)
    datalist = config.get_parsed_content("datalist")
    for item in read_datalist(datalist, split):
        plan = read_metadata(item["case"]).get("plan", {})
        plans[item["patient"]][plan.get("objectives", "")] = item | {"constraints": plan.get("stated", {})}
    both = {patient: p for patient, p in plans.items() if FROM in p and TO in p}
    if not both:
        raise InputError(datalist, f"no anatomy of the {split} split has plans '{FROM}' and '{TO}'", "Use the embedded cohort")
    # the same anatomy, whichever file it comes from; what differs is the vector
    items = [
        base | {"case_id": f"{patient}_{objectives}", "constraints": p[objectives]["constraints"]}
        for patient, p in both.items()
        for objectives, base in ((FROM, p[FROM]), (TO, p[FROM]))
    ]
    predicted = mean_doses(config, run, items)
    return [
        {
            "patient": patient,
            **{
                organ: {
                    "predicted": predicted[f"{patient}_{TO}"][organ] - predicted[f"{patient}_{FROM}"][organ],
                    "planned": planned(p[TO], organ) - planned(p[FROM], organ),
                }
                for organ in ORGANS
            },
        }
        for patient, p in both.items()
    ]


def mean_doses(config: ConfigParser, run: Path, items: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The organs' mean doses by case id, as the run's own validation pipeline predicts them with its best checkpoint."""
    config["validate#dataset#data"] = items
    config["validate#dataset#cache_rate"] = 0.0
    network = config.get_parsed_content("evaluated_network")
    load_weights(best_checkpoint(run / "checkpoints"), network, config.get_parsed_content("device"))
    evaluator = config.get_parsed_content("validate#evaluator")
    evaluator.run()
    return {
        r["case_id"]: {organ: r["dvh"][organ]["Dmean"]["predicted"] for organ in ORGANS} for r in evaluator.state.case_results
    }


def planned(item: dict[str, Any], organ: str) -> float:
    """The mean dose that the organ has in the plan, in Gy."""
    case = read_case(item["case"], load_protocol(PROTOCOL))
    return float(case.dose_gy[case.structures[organ]].mean())  # type: ignore[index]  # training cases have a dose


if __name__ == "__main__":
    run_command(main)
