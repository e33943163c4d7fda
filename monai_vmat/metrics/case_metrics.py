"""Everything that is measured on one predicted dose, and how cases are summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import edt
import numpy as np

from monai_vmat.masks import BODY, DOSE_REGION
from monai_vmat.metrics import openkbp
from monai_vmat.metrics.conformity import homogeneity, paddick_conformity
from monai_vmat.metrics.dvh import dvh_metric
from monai_vmat.metrics.gamma import gamma_analysis
from monai_vmat.metrics.isodose_dice import isodose_dice
from monai_vmat.protocol import Goal, Protocol

# Below this many voxels a structure's metrics hang on single voxels; they are given, and flagged.
SMALL_STRUCTURE_VOXELS = 100
TARGET_METRICS = ("D99", "D98", "D95", "D50", "D2", "D1", "D0.03cc", "Dmax", "Dmean")
ORGAN_METRICS = ("Dmean", "D2", "D0.1cc", "D0.03cc", "Dmax")
HIGH_DOSE_PERCENT = (10, 50, 90)  # of the prescription: where errors are looked at on their own
CONFORMITY_PERCENT = 95.0  # of a target's prescription: the isodose that is meant to cover it
GAMMA_CRITERIA = ((3.0, 3.0), (3.0, 2.0), (2.0, 2.0))  # percent, mm; the first is the one that regions are read by
TARGET_RIM_MM = 5.0  # gamma of a target is taken with its penumbra


def case_metrics(
    pred_gy: np.ndarray,
    dose_gy: np.ndarray,
    masks: Mapping[str, np.ndarray],
    spacing_mm: Sequence[float],
    protocol: Protocol,
    prescription_gy: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Compare a predicted with a reference dose.

    Args:
        pred_gy, dose_gy: (X, Y, Z) in Gy.
        masks: bool (X, Y, Z) by name, with ``Body`` and ``DoseRegion``; absent structures left out.
        spacing_mm: voxel size.
        protocol: says which structures are targets and organs and which goals hold.
        prescription_gy: the plan's own, by target; the protocol's hold for targets that are not named.

    Returns:
        a JSON-ready dict:

        * ``prescription_gy`` of the targets;
        * ``dose_metrics``: ``mae_gy`` and ``rmse_gy`` of the whole volume, ``mae_<region>_gy`` and ``rmse_<region>_gy`` of
          regions: ``body``, each structure, and ``above_<x>_percent``, where the reference has that part of the primary
          prescription; ``mean_error_body_gy`` (predicted - reference);
        * ``gamma``: see :func:`gamma_metrics`;
        * ``dvh``: per structure and metric ``predicted``, ``reference``, ``gap`` = predicted - reference, Gy;
        * ``plan_quality``: per target ``conformity`` (Paddick's index of the 95 % isodose) and ``homogeneity``, likewise; the
          isodose of a lower target is meant to cover the higher ones as well, so its index is that of their union;
        * ``isodose_dice``: overlap of the volumes with 10, 20, ... 100 % of the primary prescription;
        * ``goals``: limit, both values, whether each meets it, whether the prediction is as good as the reference or better;
        * ``small_structures``; ``openkbp`` where the protocol asks for those scores.
    """
    voxel_cc = float(np.prod(spacing_mm)) / 1000.0
    prescriptions = {t.name: _prescription(t.name, protocol, prescription_gy) for t in protocol.targets if t.name in masks}
    inside = {s: (pred_gy[masks[s]], dose_gy[masks[s]]) for s in protocol.structure_names if s in masks}
    dvh = {
        name: {
            metric: _compared(*(dvh_metric(d, metric, "Gy", voxel_cc) for d in doses))
            for metric in (TARGET_METRICS if name in prescriptions else ORGAN_METRICS)
        }
        for name, doses in inside.items()
    }
    result: dict[str, Any] = {
        "prescription_gy": prescriptions,
        "dose_metrics": dose_metrics(
            pred_gy, dose_gy, masks, protocol, _prescription(protocol.primary, protocol, prescriptions)
        ),
        "gamma": gamma_metrics(pred_gy, dose_gy, masks, spacing_mm, protocol),
        "dvh": dvh,
        "plan_quality": plan_quality(pred_gy, dose_gy, masks, prescriptions),
        "isodose_dice": {
            f"{level:g}": dice
            for level, dice in isodose_dice(pred_gy, dose_gy, _prescription(protocol.primary, protocol, prescriptions)).items()
        },
        "goals": [
            goal_result(goal, *inside[goal.structure], voxel_cc, _plan_limit(goal, protocol, prescriptions))
            for goal in protocol.goals
            if goal.structure in inside
        ],
        "small_structures": [name for name, (pred, _) in inside.items() if pred.size < SMALL_STRUCTURE_VOXELS],
    }
    if "openkbp" in protocol.scores:
        predicted, reference = (openkbp.dvh_metrics(d, masks, voxel_cc, protocol) for d in (pred_gy, dose_gy))
        result["openkbp"] = {
            "dose_error_gy": openkbp.dose_error(pred_gy, dose_gy, masks[DOSE_REGION]),
            "dvh_errors_gy": {name: predicted[name] - reference[name] for name in reference},
        }
    return result


def dose_metrics(
    pred_gy: np.ndarray, dose_gy: np.ndarray, masks: Mapping[str, np.ndarray], protocol: Protocol, prescription_gy: float
) -> dict[str, float | None]:
    """Errors voxel by voxel, see :func:`case_metrics`; None where there is no voxel."""
    error = pred_gy.astype(np.float32) - dose_gy.astype(np.float32)
    regions = {"": error, "_body": error[masks[BODY]] if BODY in masks else error[:0]}
    regions |= {
        f"_above_{percent}_percent": error[dose_gy >= percent / 100.0 * prescription_gy] for percent in HIGH_DOSE_PERCENT
    }
    regions |= {f"_{name}": error[masks[name]] for name in protocol.structure_names if name in masks}
    found = {}
    for region, values in regions.items():
        found[f"mae{region}_gy"] = _mean(np.abs(values))
        found[f"rmse{region}_gy"] = _mean(np.square(values)) ** 0.5
    found["mean_error_body_gy"] = _mean(regions["_body"])
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def plan_quality(
    pred_gy: np.ndarray, dose_gy: np.ndarray, masks: Mapping[str, np.ndarray], prescription_gy: Mapping[str, float]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Conformity and homogeneity of every target, see :func:`case_metrics`; None where they are not defined."""
    found = {}
    for name, prescribed in prescription_gy.items():
        covered = np.logical_or.reduce([masks[other] for other, dose in prescription_gy.items() if dose >= prescribed])
        isodose = CONFORMITY_PERCENT / 100.0 * prescribed
        found[name] = {
            "conformity": _compared(*(paddick_conformity(d, covered, isodose) for d in (pred_gy, dose_gy))),
            "homogeneity": _compared(*(homogeneity(d[masks[name]]) for d in (pred_gy, dose_gy))),
        }
    return found


def goal_result(goal: Goal, pred_gy: np.ndarray, dose_gy: np.ndarray, voxel_cc: float, limit: float) -> dict[str, Any]:
    """A goal's row in the table: doses are those of the structure's voxels, ``limit`` the plan's."""
    predicted, reference = (dvh_metric(d, goal.metric, goal.unit, voxel_cc) for d in (pred_gy, dose_gy))
    return {
        **vars(goal),
        "limit": limit,
        **_compared(predicted, reference),
        "predicted_met": _met(predicted, goal.op, limit),
        "reference_met": _met(reference, goal.op, limit),
        "not_worse": _met(predicted, goal.op, reference),
    }


def _plan_limit(goal: Goal, protocol: Protocol, prescription_gy: Mapping[str, float]) -> float:
    """The protocol's limit; of a target's dose in proportion to what this plan prescribes."""
    if goal.structure not in prescription_gy or goal.unit != "Gy":
        return goal.limit
    stated = protocol.structure(goal.structure).prescription_gy
    assert stated is not None  # checked when the protocol was read
    return goal.limit * prescription_gy[goal.structure] / stated


def _prescription(target: str, protocol: Protocol, prescription_gy: Mapping[str, float] | None) -> float:
    own = (prescription_gy or {}).get(target) or protocol.structure(target).prescription_gy
    assert own is not None  # checked when the protocol was read
    return float(own)


def _compared(predicted: float | None, reference: float | None) -> dict[str, float | None]:
    gap = None if predicted is None or reference is None else predicted - reference
    return {"predicted": predicted, "reference": reference, "gap": gap}


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")


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
        (``PTV70+5mm``), in the body and in each organ, None where no voxel is above the cutoff; ``convention``;
        ``other_criteria``: the rate by ``3 %/2 mm`` and ``2 %/2 mm``. All rates are None where the reference has no dose.
    """
    regions = {f"{t.name}+{TARGET_RIM_MM:g}mm": within_mm(masks[t.name], TARGET_RIM_MM, spacing_mm)
               for t in protocol.targets if t.name in masks}  # fmt: skip
    regions |= {name: masks[name] for name in (BODY, *(o.name for o in protocol.organs)) if name in masks}
    others = [f"{percent:g} %/{mm:g} mm" for percent, mm in GAMMA_CRITERIA[1:]]
    if not dose_gy.max() > 0:
        rates = {"gamma_pass_rate": None, "regions": dict.fromkeys(regions), "other_criteria": dict.fromkeys(others)}
        return {**rates, "convention": "no reference dose"}
    found, *further = gamma_analysis(dose_gy, pred_gy, spacing_mm, criteria=GAMMA_CRITERIA, regions=regions, mode="pass_rate")
    return {
        "gamma_pass_rate": found.pass_rate_percent,
        "regions": dict(found.region_pass_rates_percent),
        "other_criteria": {name: other.pass_rate_percent for name, other in zip(others, further, strict=True)},
        "convention": found.convention,
    }


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
        D95, conformity and homogeneity gaps, of the gamma pass rates and isodose overlaps, the share of goals on which
        prediction and reference agree, and OpenKBP's scores where they apply.
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
    for criteria in dict.fromkeys(n for r in results for n in r["gamma"]["other_criteria"]):
        add(f"gamma_pass_rate_{criteria}", [r["gamma"]["other_criteria"][criteria] for r in results])
    for level in dict.fromkeys(n for r in results for n in r["isodose_dice"]):
        add(f"isodose_dice_{level}_percent", [r["isodose_dice"][level] for r in results])
    for target in protocol.targets:
        gaps = [r["dvh"][target.name]["D95"]["gap"] for r in results if target.name in r["dvh"]]
        add(f"{target.name}_D95_gap_gy", gaps)
        add(f"{target.name}_D95_abs_gap_gy", [abs(g) for g in gaps])
        for index in ("conformity", "homogeneity"):
            found = [r["plan_quality"][target.name][index]["gap"] for r in results if target.name in r["plan_quality"]]
            add(f"{target.name}_{index}_gap", found)
    goals = [g for r in results for g in r["goals"]]
    out["goal_agreement_percent"] = (
        100.0 * sum(g["predicted_met"] == g["reference_met"] for g in goals) / len(goals) if goals else None
    )
    if "openkbp" in protocol.scores:
        out["openkbp_dose_score_gy"] = openkbp.dose_score(r["openkbp"]["dose_error_gy"] for r in results)
        out["openkbp_dvh_score_gy"] = openkbp.dvh_score(r["openkbp"]["dvh_errors_gy"] for r in results)
    return out
