"""What an evaluation leaves: the predicted doses, every figure as JSON, and a table on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_vmat import provenance
from monai_vmat.case import write_dose
from monai_vmat.console import say, table
from monai_vmat.distributed import SPARE, gather, is_first
from monai_vmat.files import write_json
from monai_vmat.handlers.case_metrics import predicted_gy, predicted_sd_gy
from monai_vmat.metrics.case_metrics import aggregate
from monai_vmat.protocol import Protocol
from monai_vmat.training_range import ranges_of, warn_of_outside
from monai_vmat.weights import trainings_of, weight_files

RESEARCH_ONLY = "Predicted by monai_vmat. Research software, not a medical device: not for clinical use."
CONVENTIONS = {
    "dose": "Gy, on the case's own grid, full resolution, negative predictions set to zero",
    "mae_gy": "mean |predicted - reference| over the whole volume; mae_body_gy inside the body; mae_<structure>_gy in that; "
    "mae_above_<x>_percent_gy where the reference has at least x % of the plan's primary prescription",
    "rmse_gy": "root of the mean squared error over the whole volume; of the same regions by the same names",
    "mean_error_body_gy": "mean of predicted - reference inside the body",
    "D95": "numpy linear percentile 5 of the structure's voxels; D0.03cc the least dose in its hottest 0.03 cc, in whole "
    "voxels; Dmax its hottest voxel; gap = predicted - reference",
    "conformity": "Paddick's index (doi:10.3171/jns.2000.93.supplement_3.0219) of the isodose of 95 % of the target's "
    "prescription; for a lower target with the higher ones together",
    "homogeneity": "(D2 - D98) / D50 of the target",
    "isodose_dice": "overlap of the volumes with at least x % of the plan's primary prescription",
    "goals": "limits of targets in Gy follow the plan's own prescription; not_worse: as good as the reference or better",
    "gamma": "percent of voxels with gamma < 1: 3 %/3 mm (others by name), global (% of the reference's maximum), cutoff 10 % "
    "of it, in 3D, over the trilinear interpolant; regions are read from the full map; <target>+5mm includes 5 mm around it",
    "openkbp": "dose score and DVH score by the definitions of doi:10.1002/mp.14845",
    "outside_training_range": "which voxel sizes, prescriptions, volumes and constraints lie beyond those of the training's "
    "cases, by more than a quarter of their range's width and a twentieth of its greatest value; null where the weights do not "
    "say what they were trained on",
    "std": "population standard deviation over cases",
}


class EvaluationRecord:
    """Write ``<case_id>_pred.npz`` for each case and ``evaluation_results.json`` at the end, and show the result.

    Of a case far outside what the network was trained on the log warns, and both files say so (``outside_training_range``).
    Of several processes each writes the predictions of its own cases, the first the results of all.

    Args:
        folder: where the files go.
        protocol: the protocol.
        experiment, split, checkpoint: what was evaluated.
        project_root: where the git commit is looked up.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        protocol: Protocol,
        experiment: str,
        split: str,
        checkpoint: str | Path | Sequence[str | Path],
        project_root: str,
    ) -> None:
        self.folder = Path(folder)
        self.protocol = protocol
        self.trained_on = ranges_of(checkpoint)
        self.facts = {
            "experiment": experiment,
            "split": split,
            "checkpoint": ", ".join(path.name for path in weight_files(checkpoint)),
            "trainings": trainings_of(checkpoint),
            "protocol": protocol.name,
            "git_commit": provenance.git_commit(project_root),
            "versions": provenance.versions(),
            "note": RESEARCH_ONLY,
        }

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write_predictions)
        engine.add_event_handler(Events.COMPLETED, self._write_results)

    def _start(self, engine: Engine) -> None:
        self._outside: dict[str, list[str] | None] = {}

    def _write_predictions(self, engine: Engine) -> None:
        for item, out in zip(engine.state.batch, engine.state.output, strict=True):
            if SPARE in item:
                continue
            pred_gy = predicted_gy(out, self.protocol)
            outside = warn_of_outside(item, self.protocol, self.trained_on)
            self._outside[item["case_id"]] = outside if self.trained_on else None
            affine = item["structures"].affine.numpy()
            write_dose(
                self.folder / f"{item['case_id']}_pred.npz",
                pred_gy,
                affine,
                {"case_id": item["case_id"], "note": RESEARCH_ONLY, "outside_training_range": outside},
                predicted_sd_gy(out, self.protocol),
            )

    def _write_results(self, engine: Engine) -> None:
        outside = {case_id: told for part in gather(self._outside) for case_id, told in part.items()}
        if is_first():
            results = [{**r, "outside_training_range": outside[r["case_id"]]} for r in engine.state.case_results]
            write_results(self.folder, self.protocol, results, self.facts, engine.state.case_seconds)


def write_results(
    folder: str | Path,
    protocol: Protocol,
    results: Sequence[dict[str, Any]],
    facts: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    """Write ``evaluation_results.json`` and show the result.

    Args:
        folder: where the file goes.
        protocol: the protocol.
        results: of at least one case, as :func:`~monai_vmat.metrics.case_metrics.case_metrics` gives them, with ``case_id``.
        facts: what was evaluated: ``experiment``, ``split``, ``checkpoint`` (or ``predictions``) and whatever else is known.
        seconds: what took how long.
    """
    path = Path(folder) / "evaluation_results.json"
    summary = aggregate(results, protocol)
    write_json(
        path,
        {
            **facts,
            "conventions": CONVENTIONS,
            "n_cases": len(results),
            "seconds": dict(seconds),
            "aggregate_metrics": summary,
            "per_case_results": list(results),
        },
    )
    say()
    say(results_table(results, protocol))
    say()
    evaluated = facts.get("checkpoint") or facts["predictions"]
    say(f"{facts['experiment']}, {facts['split']} split, {len(results)} cases, {evaluated}")
    say(f"  MAE {summary['mae_gy_mean']:.2f} Gy (whole volume), {summary['mae_body_gy_mean']:.2f} Gy (body)")
    if summary["gamma_pass_rate_mean"] is not None:
        say(f"  gamma 3 %/3 mm {summary['gamma_pass_rate_mean']:.1f} % (reference's maximum, cutoff 10 %)")
    gaps = {t.name: summary[f"{t.name}_D95_abs_gap_gy_mean"] for t in protocol.targets}
    say("  |D95 gap| " + ", ".join(f"{name} {gap:.2f} Gy" for name, gap in gaps.items() if gap is not None))
    say(f"  goals: {goal_text(results)}")
    if summary.get("openkbp_dose_score_gy") is not None:
        dose_score, dvh_score = summary["openkbp_dose_score_gy"], summary["openkbp_dvh_score_gy"]
        say(f"  OpenKBP dose score {dose_score:.3f} Gy, DVH score {dvh_score:.3f} Gy")
    say("  " + ", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))
    say(f"  {path}")


def goal_text(results: Sequence[dict[str, Any]]) -> str:
    """How many clinical goals the predictions and the references meet."""
    goals = [goal for result in results for goal in result["goals"]]
    predicted, reference = (sum(goal[key] for goal in goals) for key in ("predicted_met", "reference_met"))
    return f"{predicted} of {len(goals)} met by the predictions, {reference} by the references"


def results_table(results: Sequence[dict[str, Any]], protocol: Protocol) -> str:
    """A row a case: MAE, each target's D95 predicted and reference, and OpenKBP's dose error where it applies; mean below."""
    targets = [t.name for t in protocol.targets]
    header = ["case", "MAE Gy", "body MAE", "gamma %"]
    header += [h for t in targets for h in (f"{t} D95", "ref")]
    scored = "openkbp" in protocol.scores
    if scored:
        header += ["dose error", "DVH error"]
    rows = []
    for r in results:
        row = [r["case_id"], r["dose_metrics"]["mae_gy"], r["dose_metrics"]["mae_body_gy"], r["gamma"]["gamma_pass_rate"]]
        for target in targets:
            d95 = r["dvh"].get(target, {}).get("D95")
            row += [d95["predicted"], d95["reference"]] if d95 else [None, None]
        if scored:
            errors = [abs(e) for e in r["openkbp"]["dvh_errors_gy"].values()]
            row += [r["openkbp"]["dose_error_gy"], sum(errors) / len(errors)]
        rows.append(row)
    means = [[v for v in column if v is not None] for column in zip(*(row[1:] for row in rows))]
    rows.append(["mean", *(sum(m) / len(m) if m else None for m in means)])
    return table(header, rows)
