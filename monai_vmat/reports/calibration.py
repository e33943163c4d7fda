"""Does the error grow with the predicted standard deviation? Voxels of all cases, binned by what was predicted for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from monai_vmat.case import read_case, read_dose, read_dose_sd
from monai_vmat.errors import InputError
from monai_vmat.masks import DOSE_REGION
from monai_vmat.reports.evaluation import Evaluation
from monai_vmat.reports.publication import COLORS, figure_of_panels
from monai_vmat.transforms.load_case import case_masks

FILE = "calibration.json"
BINS = 10
CONVENTION = (
    "voxels of all cases inside the body (or the protocol's dose region), in bins of equal numbers by predicted standard "
    "deviation; error = predicted - reference; rank correlation is Spearman's of |error| and standard deviation; errors spread "
    "normally by the predicted standard deviation would give 68.3 % within one and 95.4 % within two; rmse_per_sd is what the "
    "standard deviations would have to be multiplied by to be as large as the errors"
)


@dataclass(frozen=True)
class Spread:
    """A case's voxels in which dose may be: predicted standard deviation and error, float32 (N,) each, in Gy."""

    case_id: str
    sd_gy: np.ndarray
    error_gy: np.ndarray


def read_spreads(evaluation: Evaluation, items: Mapping[str, Mapping[str, Any]]) -> list[Spread]:
    """The spreads of an evaluation's cases; none where it predicted no standard deviation.

    Args:
        evaluation: whose predictions are read.
        items: the datalist's item of each case, by case id.

    Raises:
        InputError: when files are unusable, or only some predictions have a standard deviation.
    """
    found: list[Spread] = []
    for case_id, item in items.items():
        path = evaluation.folder / f"{case_id}_pred.npz"
        sd_gy = read_dose_sd(path)
        if sd_gy is None:
            if found:
                raise InputError(path, "has no standard deviation, others have", "Evaluate all cases with one setting")
            return []
        case = read_case(item["case"], evaluation.protocol, item.get("spacing_mm"))
        region = case_masks(case, evaluation.protocol)[DOSE_REGION]
        predicted = read_dose(path)[0]
        if case.dose_gy is None or not case.dose_gy.shape == predicted.shape == sd_gy.shape:
            problem = f"does not lie on the grid {case.ct_hu.shape} of its case, or the case has no dose"
            raise InputError(path, problem, "Name the folder that was evaluated with --dataset_dir DIR")
        found.append(Spread(case_id, sd_gy[region], (predicted - case.dose_gy)[region]))
    return found


def calibration(spreads: Sequence[Spread]) -> dict[str, Any]:
    """How error and standard deviation go together, ready for JSON; see :data:`CONVENTION`.

    Args:
        spreads: of at least one case.
    """
    sd, error = (np.concatenate([getattr(s, name) for s in spreads]) for name in ("sd_gy", "error_gy"))
    absolute = np.abs(error)
    bins = [
        {
            "voxels": int(chosen.size),
            "sd_from_gy": float(sd[chosen[0]]),
            "sd_to_gy": float(sd[chosen[-1]]),
            "sd_mean_gy": float(sd[chosen].mean(dtype=np.float64)),
            "mae_gy": float(absolute[chosen].mean(dtype=np.float64)),
            "rmse_gy": _root_mean_square(error[chosen]),
        }
        for chosen in np.array_split(np.argsort(sd, kind="stable"), min(BINS, sd.size))
    ]
    mean_sd = [float(spread.sd_gy.mean(dtype=np.float64)) for spread in spreads]
    mae = [float(np.abs(spread.error_gy).mean(dtype=np.float64)) for spread in spreads]
    root = _root_mean_square(sd)
    return {
        "convention": CONVENTION,
        "n_cases": len(spreads),
        "n_voxels": int(sd.size),
        "rank_correlation": _rank_correlation(sd, absolute),
        "within_1_sd_percent": 100.0 * float(np.mean(absolute <= sd)),
        "within_2_sd_percent": 100.0 * float(np.mean(absolute <= 2 * sd)),
        "rmse_per_sd": _root_mean_square(error) / root if root else None,
        "rank_correlation_of_cases": _rank_correlation(mean_sd, mae),
        "bins": bins,
        "cases": [
            {"case_id": spread.case_id, "sd_mean_gy": sd_gy, "mae_gy": error_gy}
            for spread, sd_gy, error_gy in zip(spreads, mean_sd, mae, strict=True)
        ],
    }


def calibration_figure(found: Mapping[str, Any]) -> Figure:
    """Error over predicted standard deviation: of the bins of voxels (a tenth of them each), and of the cases."""
    figure, (of_voxels, of_cases) = figure_of_panels(2)
    sd = [b["sd_mean_gy"] for b in found["bins"]]
    ends = [0.0, max(sd)]
    of_voxels.plot(ends, ends, ":", color="black", label="RMSE = standard deviation")
    for (name, label), color, marker in zip((("rmse_gy", "RMSE"), ("mae_gy", "MAE")), COLORS, ("o", "s"), strict=False):
        of_voxels.plot(sd, [b[name] for b in found["bins"]], marker=marker, markersize=3, color=color, label=label)
    of_voxels.set(xlabel="Predicted standard deviation [Gy]", ylabel="Error [Gy]")
    of_voxels.legend(fontsize=7)
    of_cases.plot([c["sd_mean_gy"] for c in found["cases"]], [c["mae_gy"] for c in found["cases"]], "o", color=COLORS[0])
    of_cases.set(xlabel="Mean standard deviation [Gy]", ylabel="MAE of the case [Gy]")
    for ax in (of_voxels, of_cases):
        ax.set_xlim(0, None)
        ax.set_ylim(0, None)
    return figure


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float | None:
    """None where it is not defined: fewer than three pairs, or no differences."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)
