"""Everything that is measured on one predicted dose, and how cases are summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import edt
import numpy as np

from monai_vmat.masks import BODY, DOSE_REGION
from monai_vmat.metrics import openkbp
from monai_vmat.metrics.dvh import dvh_metric
from monai_vmat.metrics.gamma import gamma_analysis
from monai_vmat.protocol import Protocol

# Below this many voxels a structure's metrics hang on single voxels; they are given, and flagged.
SMALL_STRUCTURE_VOXELS = 100
TARGET_METRICS = ("D99", "D95", "D50", "D2", "D1", "Dmean")
ORGAN_METRICS = ("Dmean", "D2", "D0.1cc", "Dmax")
TARGET_RIM_MM = 5.0  # gamma of a target is taken with its penumbra


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
        ``mae_<structure>_gy``), ``gamma`` (see :func:`gamma_metrics`), ``dvh`` (per structure and metric ``predicted``,
        ``reference``, ``gap`` = predicted - reference, Gy), ``goals`` (limit, both values, met or not),
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
        "gamma": gamma_metrics(pred_gy, dose_gy, masks, spacing_mm, protocol),
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


def gamma_metrics(
    pred_gy: np.ndarray,
    dose_gy: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    protocol: Protocol,
) -> dict[str, Any]:
    """Gamma pass rates in percent, 3 %/3 mm, by the conventions of :mod:`monai_vmat.metrics.gamma`.

    Returns:
        ``gamma_pass_rate`` of all voxels above the cutoff; ``regions``: the same map's rate in each target with 5 mm around it
        (``PTV70+5mm``), in the body and in each organ, None where no voxel is above the cutoff; ``convention``. All rates are
        None where the reference has no dose.
    """
    regions = {f"{t.name}+{TARGET_RIM_MM:g}mm": within_mm(masks[t.name], TARGET_RIM_MM, spacing_mm)
               for t in protocol.targets if t.name in masks}  # fmt: skip
    regions |= {name: masks[name] for name in (BODY, *(o.name for o in protocol.organs)) if name in masks}
    if not dose_gy.max() > 0:
        return {"gamma_pass_rate": None, "regions": dict.fromkeys(regions), "convention": "no reference dose"}
    (found,) = gamma_analysis(dose_gy, pred_gy, spacing_mm, regions=regions, mode="pass_rate")
    rates = dict(found.region_pass_rates_percent)
    return {"gamma_pass_rate": found.pass_rate_percent, "regions": rates, "convention": found.convention}


def within_mm(mask: np.ndarray, margin_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """``mask`` and the voxels whose centres lie within the margin of one of its own; bool (X, Y, Z)."""
    grown = np.zeros(mask.shape, bool)
    box = []
    for axis, spacing in enumerate(spacing_mm):
        found = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        if not found.size:
            return grown
        reach = int(margin_mm / spacing)
        box.append(slice(max(0, int(found[0]) - reach), int(found[-1]) + reach + 1))
    inside = np.ascontiguousarray(mask[tuple(box)])
    grown[tuple(box)] = edt.edt(~inside, anisotropy=tuple(spacing_mm)) <= margin_mm + 1e-3
    return grown


def _met(value: float, op: str, limit: float) -> bool:
    return value >= limit if op == ">=" else value <= limit


def aggregate(results: Sequence[Mapping[str, Any]], protocol: Protocol) -> dict[str, float | None]:
    """Sum up the results of several cases.

    Returns:
        ``<metric>_mean`` and ``<metric>_std`` (population) of every dose metric over the cases that have it, of the targets'
        D95 gaps and of the gamma pass rates, the share of goals met, and OpenKBP's scores where they apply.
    """
    out: dict[str, float | None] = {}

    def add(name: str, values: Sequence[float | None]) -> None:
        known = [v for v in values if v is not None]
        out[f"{name}_mean"] = float(np.mean(known)) if known else None
        out[f"{name}_std"] = float(np.std(known)) if known else None

    for name in dict.fromkeys(n for r in results for n in r["dose_metrics"]):
        add(name, [r["dose_metrics"].get(name) for r in results])
    add("gamma_pass_rate", [r["gamma"]["gamma_pass_rate"] for r in results])
    for region in dict.fromkeys(n for r in results for n in r["gamma"]["regions"]):
        add(f"gamma_pass_rate_{region}", [r["gamma"]["regions"].get(region) for r in results])
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
