"""What an evaluation and the run behind it left on disk, read for a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.case import read_case, read_dose, read_dose_sd
from monai_vmat.datalist import SECTIONS, load_datalist, stays_inside
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.handlers.run_record import read_metrics
from monai_vmat.metrics.gamma import gamma_analysis
from monai_vmat.protocol import Protocol, load_protocol
from monai_vmat.provenance import checksums
from monai_vmat.transforms.load_case import case_masks

RESULTS = "evaluation_results.json"
_EVALUATE = "Evaluate the run (again): README, 'Train, evaluate, predict'"
_DOSE_TOLERANCE_GY = 0.02  # what rounding a stored dose to 0.01 Gy may at most do to its MAE, and some more


@dataclass(frozen=True)
class RunRecords:
    """The records of a training run; what a stopped run has not yet written is empty.

    Args:
        folder: the run's folder.
        config: ``training_config.json``.
        summary: ``training_summary.json``.
        metrics: rows of ``metrics.csv``.
    """

    folder: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """An evaluated experiment.

    Args:
        folder: the prediction folder.
        facts: ``evaluation_results.json`` without its cases.
        cases: ``per_case_results``, the greatest error inside the body first.
        protocol: the protocol of the cases.
        run: the records of the training; None where they were not found.
    """

    folder: Path
    facts: Mapping[str, Any]
    cases: Sequence[Mapping[str, Any]]
    protocol: Protocol
    run: RunRecords | None

    @property
    def title(self) -> str:
        """Experiment and split."""
        return f"{self.facts['experiment']}, {self.facts['split']} split"


@dataclass(frozen=True)
class CaseVolumes:
    """A case's volumes on its own grid, indices growing towards left, posterior, superior.

    Args:
        case_id: the case.
        spacing_mm: voxel size along X, Y, Z.
        ct_hu: int16 (X, Y, Z).
        masks: bool (X, Y, Z) of the protocol's structures, absent ones left out.
        reference_gy, predicted_gy: float32 (X, Y, Z).
        gamma: float32 (X, Y, Z), 3 %/3 mm, NaN where not evaluated.
        gamma_convention: what gamma means.
        sd_gy: float32 (X, Y, Z), the prediction's standard deviation; None where there is none.
    """

    case_id: str
    spacing_mm: tuple[float, float, float]
    ct_hu: np.ndarray
    masks: Mapping[str, np.ndarray]
    reference_gy: np.ndarray
    predicted_gy: np.ndarray
    gamma: np.ndarray
    gamma_convention: str
    sd_gy: np.ndarray | None = None


def read_evaluation(folder: Path, runs: Path) -> Evaluation:
    """Read a prediction folder and, where it is there, ``runs/<experiment>``.

    Raises:
        InputError: when the folder holds no results, or results without the fields that a report cannot do without.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise InputError(folder, f"holds no {RESULTS}", f"Name a folder such as predictions/demo_test. {_EVALUATE}")
    facts = read_json(path)

    def require(condition: bool, field: str, expected: str) -> None:
        if not condition:
            raise InputError(path, f"'{field}': {expected} expected", _EVALUATE)

    require(isinstance(facts, dict), "the whole file", "an object was")
    for field in ("experiment", "split", "protocol"):
        require(isinstance(facts.get(field), str), field, "text was")
    for field in ("experiment", "split"):  # parts of file names
        require(stays_inside(facts[field]), field, "a name, or names with / between them, was")
    cases = facts.pop("per_case_results", None)
    require(isinstance(cases, list) and len(cases) > 0, "per_case_results", "at least one case was")
    for i, case in enumerate(cases):
        require(isinstance(case, dict) and isinstance(case.get("case_id"), str), f"per_case_results[{i}].case_id", "text was")
        metrics = case.get("dose_metrics")
        ok = isinstance(metrics, dict) and isinstance(metrics.get("mae_body_gy", ""), (int, float, type(None)))
        require(ok, f"per_case_results[{i}].dose_metrics.mae_body_gy", "a number or null was")
    run = _read_run(runs / facts["experiment"])
    # A protocol of the user's own is recorded as the path of its file, which only the run has.
    site = run.config.get("config", {}).get("protocol_name") if run else None
    return Evaluation(
        folder=folder,
        facts=facts,
        cases=sorted(cases, key=body_error, reverse=True),
        protocol=load_protocol(site if isinstance(site, str) else facts["protocol"]),
        run=run,
    )


def body_error(case: Mapping[str, Any]) -> float:
    """What cases are ordered by: MAE inside the body in Gy; less than any where it is not known."""
    error = case["dose_metrics"]["mae_body_gy"]
    return -math.inf if error is None else float(error)


def find_cases(evaluation: Evaluation, dataset_dir: Path | None) -> dict[str, dict[str, Any]]:
    """The datalist's item of each evaluated case, by case id.

    Args:
        evaluation: whose cases are looked for.
        dataset_dir: the folder of the datalist; by default the one that the training recorded.

    Raises:
        InputError: when no folder is known, or it does not have all cases.
    """
    if dataset_dir is None:
        recorded = evaluation.run.config.get("config", {}).get("dataset_dir") if evaluation.run else None
        if not isinstance(recorded, str) or recorded.startswith(("$", "@")):
            what = "does not say where its cases are" if evaluation.run else "has no run record that says where its cases are"
            raise InputError(evaluation.folder, what, "Name the folder of the datalist with --dataset_dir DIR")
        dataset_dir = Path(recorded)
    content = load_datalist(dataset_dir)
    items = {item["case_id"]: item for section in SECTIONS for item in content[section]}
    missing = [c["case_id"] for c in evaluation.cases if not Path(items.get(c["case_id"], {}).get("case", "")).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"the evaluated case '{missing[0]}'{more} is not in its datalist or has no file"
        raise InputError(dataset_dir, problem, "Name the folder that was evaluated with --dataset_dir DIR")
    return {case["case_id"]: items[case["case_id"]] for case in evaluation.cases}


def unchanged_files(evaluation: Evaluation, items: Mapping[str, Mapping[str, Any]]) -> int | None:
    """How many of the case files are, byte for byte, those that the training recorded; None without a record."""
    recorded = evaluation.run.config.get("data_sha256", {}) if evaluation.run else {}
    if not recorded:
        return None
    found = checksums({case_id: item["case"] for case_id, item in items.items()})
    # Earlier runs recorded file names in place of case ids.
    return sum(digest in (recorded.get(c), recorded.get(Path(items[c]["case"]).name)) for c, digest in found.items())


def read_volumes(evaluation: Evaluation, result: Mapping[str, Any], item: Mapping[str, Any]) -> CaseVolumes:
    """A case with its reference and predicted dose, and their gamma map.

    Args:
        evaluation: what the case is of.
        result: the case's entry of ``per_case_results``.
        item: the datalist's item.

    Raises:
        InputError: when a file is unusable, or the two are not what was evaluated.
    """
    case = read_case(item["case"], evaluation.protocol, item.get("spacing_mm"))
    if case.dose_gy is None:
        raise InputError(item["case"], "array 'dose' is missing", "A report needs the reference dose")
    path = evaluation.folder / f"{result['case_id']}_pred.npz"
    predicted, affine = read_dose(path)
    if predicted.shape != case.dose_gy.shape or not np.allclose(affine, case.affine, atol=1e-3):
        problem = f"grid {predicted.shape} is not the case's {case.dose_gy.shape}, or lies elsewhere"
        raise InputError(path, problem, "Name the folder that was evaluated with --dataset_dir DIR")
    error = float(np.mean(np.abs(predicted - case.dose_gy), dtype=np.float64))
    recorded = result["dose_metrics"].get("mae_gy")
    if recorded is not None and abs(error - recorded) > _DOSE_TOLERANCE_GY:
        problem = f"differs from the case's dose by {error:.3f} Gy on average, the results say {recorded:.3f} Gy"
        raise InputError(path, problem, f"Case or prediction was changed since. {_EVALUATE}")
    masks = case_masks(case, evaluation.protocol)
    (found,) = gamma_analysis(case.dose_gy, predicted, case.spacing_mm)
    return CaseVolumes(
        case_id=result["case_id"],
        spacing_mm=case.spacing_mm,
        ct_hu=case.ct_hu,
        masks={s.name: masks[s.name] for s in evaluation.protocol.structures if s.name in masks},
        reference_gy=case.dose_gy,
        predicted_gy=predicted,
        gamma=found.gamma,
        gamma_convention=found.convention,
        sd_gy=read_dose_sd(path),
    )


def _read_run(folder: Path) -> RunRecords | None:
    if not (folder / "training_config.json").is_file():
        return None
    summary = folder / "training_summary.json"
    return RunRecords(
        folder=folder,
        config=read_json(folder / "training_config.json"),
        summary=read_json(summary) if summary.is_file() else {},
        metrics=read_metrics(folder / "metrics.csv"),
    )
