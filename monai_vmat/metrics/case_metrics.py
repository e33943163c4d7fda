"""Everything that is measured on one predicted dose, and how cases are summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_vmat.masks import BODY, DOSE_REGION
from monai_vmat.metrics import openkbp
from monai_vmat.metrics.dvh import dvh_metric
from monai_vmat.protocol import Protocol

# Below this many voxels a structure's metrics hang on single voxels; they are given, and flagged.
SMALL_STRUCTURE_VOXELS = 100
TARGET_METRICS = ("D99", "D95", "D50", "D2", "D1", "Dmean")
ORGAN_METRICS = ("Dmean", "D2", "D0.1cc", "Dmax")


def case_metrics(
    pred_gy: np.ndarray,
    dose_gy: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    protocol: Protocol,
) -> dict[str, Any]:
    """Compare a predicted with a reference dose.

    Args:
        pred_gy, dose_gy: (X, Y, Z) in Gy.
        masks: bool (X, Y, Z) by name, with ``Body`` and ``DoseRegion``; absent structures left out.
        spacing_mm: voxel size.
        protocol: says which structures are targets and organs and which goals hold.

    Returns:
        a JSON-ready dict: ``dose_metrics`` (``mae_gy`` of the whole volume, ``rmse_gy``, ``mae_body_gy`` and
        ``mae_<structure>_gy``), ``gamma`` (``gamma_pass_rate``: not yet computed, null), ``dvh`` (per structure and metric
        ``predicted``, ``reference``, ``gap`` = predicted - reference, Gy), ``goals`` (limit, both values, met or not),
        ``small_structures``, and ``openkbp`` where the protocol asks for those scores.
    """
    voxel_cc = float(np.prod(spacing_mm)) / 1000.0
    error = pred_gy.astype(np.float32) - dose_gy.astype(np.float32)
    absolute = np.abs(error)

    def mean(mask: np.ndarray | None = None) -> float | None:
        values = absolute if mask is None else absolute[mask]
        return float(values.mean(dtype=np.float64)) if values.size else None

    dose_metrics = {
        "mae_gy": mean(),
        "rmse_gy": float(np.sqrt(np.mean(np.square(error), dtype=np.float64))),
        "mae_body_gy": mean(masks.get(BODY, np.zeros(absolute.shape, bool))),
    }
    dvh: dict[str, dict[str, dict[str, float]]] = {}
    small = []
    inside: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for structure in protocol.structures:
        mask = masks.get(structure.name)
        if mask is None:
            continue
        dose_metrics[f"mae_{structure.name}_gy"] = mean(mask)
        inside[structure.name] = pred, ref = pred_gy[mask], dose_gy[mask]
        if pred.size < SMALL_STRUCTURE_VOXELS:
            small.append(structure.name)
        dvh[structure.name] = {}
        for metric in TARGET_METRICS if structure.role == "target" else ORGAN_METRICS:
            p, r = (dvh_metric(d, metric, "Gy", voxel_cc) for d in (pred, ref))
            dvh[structure.name][metric] = {"predicted": p, "reference": r, "gap": p - r}

    goals = []
    for goal in protocol.goals:
        if goal.structure not in inside:
            continue
        p, r = (dvh_metric(d, goal.metric, goal.unit, voxel_cc) for d in inside[goal.structure])
        met = {"predicted_met": _met(p, goal.op, goal.limit), "reference_met": _met(r, goal.op, goal.limit)}
        goals.append({**vars(goal), "predicted": p, "reference": r, **met})

    result: dict[str, Any] = {
        "dose_metrics": dose_metrics,
        "gamma": {"gamma_pass_rate": None},
        "dvh": dvh,
        "goals": goals,
        "small_structures": small,
    }
    if "openkbp" in protocol.scores:
        predicted, reference = (openkbp.dvh_metrics(d, masks, voxel_cc, protocol) for d in (pred_gy, dose_gy))
        result["openkbp"] = {
            "dose_error_gy": openkbp.dose_error(pred_gy, dose_gy, masks[DOSE_REGION]),
            "dvh_errors_gy": {name: predicted[name] - reference[name] for name in reference},
        }
    return result


def _met(value: float, op: str, limit: float) -> bool:
    return value >= limit if op == ">=" else value <= limit


def aggregate(results: Sequence[Mapping[str, Any]], protocol: Protocol) -> dict[str, float | None]:
    """Sum up the results of several cases.

    Returns:
        ``<metric>_mean`` and ``<metric>_std`` (population) of every dose metric over the cases that have it, of the targets'
        D95 gaps and of gamma (null until computed), the share of goals met, and OpenKBP's scores where they apply.
    """
    out: dict[str, float | None] = {}

    def add(name: str, values: Sequence[float | None]) -> None:
        known = [v for v in values if v is not None]
        out[f"{name}_mean"] = float(np.mean(known)) if known else None
        out[f"{name}_std"] = float(np.std(known)) if known else None

    for name in dict.fromkeys(n for r in results for n in r["dose_metrics"]):
        add(name, [r["dose_metrics"].get(name) for r in results])
    add("gamma_pass_rate", [r["gamma"]["gamma_pass_rate"] for r in results])
    for target in protocol.targets:
        gaps = [r["dvh"][target.name]["D95"]["gap"] for r in results if target.name in r["dvh"]]
        add(f"{target.name}_D95_gap_gy", gaps)
        add(f"{target.name}_D95_abs_gap_gy", [abs(g) for g in gaps])
    goals = [g for r in results for g in r["goals"]]
    out["goal_agreement_percent"] = (
        100.0 * sum(g["predicted_met"] == g["reference_met"] for g in goals) / len(goals) if goals else None
    )
    if "openkbp" in protocol.scores:
        out["openkbp_dose_score_gy"] = openkbp.dose_score(r["openkbp"]["dose_error_gy"] for r in results)
        out["openkbp_dvh_score_gy"] = openkbp.dvh_score(r["openkbp"]["dvh_errors_gy"] for r in results)
    return out
