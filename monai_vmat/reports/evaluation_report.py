"""The report of an evaluation: the page and the figures, from what lies on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from monai_vmat.errors import InputError
from monai_vmat.files import write_json, write_text
from monai_vmat.reports import calibration, compare, publication
from monai_vmat.reports.dvh_figure import dvh_figure
from monai_vmat.reports.evaluation import (
    RESULTS,
    CaseVolumes,
    Evaluation,
    find_cases,
    read_evaluation,
    read_volumes,
    unchanged_files,
)
from monai_vmat.reports.evaluation_page import embed_case, evaluation_html
from monai_vmat.reports.planes import three_planes


def write_report(
    folder: Path,
    out: Path,
    *,
    runs: Path,
    cases: int,
    dataset_dir: Path | None = None,
    case: str | None = None,
) -> list[Path]:
    """Write ``report.html``, ``figures/*.png`` and ``*.pdf``, and ``calibration.json`` where there are standard deviations.

    Args:
        folder: the prediction folder.
        out: where to write.
        runs: the folder of the runs; without this experiment's run the figures of its training are left out.
        cases: how many cases, 1 or more, can be looked at in the page: the worst ones and the best.
        dataset_dir: the folder of the datalist; by default the one that the training recorded.
        case: the case in the figures; by default the one with the median error inside the body.

    Returns:
        what was written, the page first.

    Raises:
        InputError: for a case that was not evaluated, and whatever is missing on disk.
    """
    evaluation = read_evaluation(folder, runs)
    results = {result["case_id"]: result for result in evaluation.cases}
    pictured = case or list(results)[len(results) // 2]
    if pictured not in results:
        raise InputError("--case", f"'{pictured}' was not evaluated", f"Name one of {', '.join(results)}")
    items = find_cases(evaluation, dataset_dir)
    shown = worst_and_best(list(results), cases)

    overview = overview_figures(evaluation, runs)
    spreads = calibration.read_spreads(evaluation, items)
    calibrated = calibration.calibration(spreads) if spreads else None
    if calibrated:
        overview["calibration"] = calibration.calibration_figure(calibrated)
    figures, embedded = dict(overview), {}
    for case_id in tqdm(list(dict.fromkeys([*shown, pictured])), desc="Cases", unit="case"):
        volumes = read_volumes(evaluation, results[case_id], items[case_id])
        if case_id in shown:
            embedded[case_id] = embed_case(volumes, evaluation.protocol.primary)
        if case_id == pictured:
            figures |= case_figures(volumes, evaluation)
    page = out / "report.html"
    write_text(page, evaluation_html(evaluation, embedded, overview, unchanged_files(evaluation, items), calibrated))
    written = [page]
    if calibrated:
        written.append(out / calibration.FILE)
        write_json(written[-1], calibrated)
    for name, figure in tqdm(figures.items(), desc="Figures", unit="figure"):
        written += publication.write_figure(figure, out / "figures" / name)
    return written


def worst_and_best(case_ids: Sequence[str], count: int) -> list[str]:
    """Of cases in order, the worst first: ``count`` of them, the last being the best; all where there are no more."""
    return [*case_ids[: max(1, count - 1)], case_ids[-1]][:count] if count < len(case_ids) else list(case_ids)


def overview_figures(evaluation: Evaluation, runs: Path) -> dict[str, Figure]:
    """Figures of all cases, of the training (where its records are) and of other models, by file name."""
    figures = {"case_boxes": publication.case_boxes(evaluation.cases, evaluation.protocol)}
    if evaluation.run and evaluation.run.metrics:
        figures["training_curves"] = publication.training_curves(evaluation.run.metrics)
        figures["loss_components"] = publication.loss_components(evaluation.run.metrics)
    comparisons = compare.compare(evaluated_alike(evaluation, runs), "")
    if len(comparisons) > 1:
        figures["model_comparison"] = compare.box_plots(comparisons)
    return figures


def evaluated_alike(evaluation: Evaluation, runs: Path) -> list[compare.Run]:
    """The finished runs that were evaluated on the same cases, this one among them."""
    predictions, split = evaluation.folder.absolute().parent, evaluation.facts["split"]
    case_ids = {case["case_id"] for case in evaluation.cases}
    finished = [path.parent for path in sorted(runs.glob("*/training_summary.json"))]
    evaluated = [run for run in finished if (predictions / f"{run.name}_{split}" / RESULTS).is_file()]
    found = [compare.read_run(run, predictions, split) for run in evaluated]
    return [run for run in found if set(run.patients) == case_ids]


def case_figures(volumes: CaseVolumes, evaluation: Evaluation) -> Mapping[str, Figure]:
    """Figures of one case, by file name."""
    protocol, masks = evaluation.protocol, volumes.masks
    doses = {"reference": volumes.reference_gy, "predicted": volumes.predicted_gy}
    voxels = {name: (volumes.predicted_gy[mask], volumes.reference_gy[mask]) for name, mask in masks.items()}
    title = f"{evaluation.title}: {volumes.case_id}"
    scene: dict[str, Any] = {"protocol": protocol, "spacing_mm": volumes.spacing_mm, "title": title}
    gamma: dict[str, Any] = {"gamma": volumes.gamma, "gamma_label": "Gamma 3 %/3 mm [dimensionless]"}
    figures = {
        "dose_slices": three_planes(volumes.ct_hu, masks, doses, **scene),
        "gamma_map": three_planes(volumes.ct_hu, masks, {}, **gamma, **scene),
        "dvh": dvh_figure(voxels, protocol, title=title),
    }
    if volumes.sd_gy is not None:
        compared = {"absolute error": np.abs(volumes.predicted_gy - volumes.reference_gy), "standard deviation": volumes.sd_gy}
        figures["uncertainty"] = three_planes(volumes.ct_hu, masks, compared, **scene)
    if protocol.primary in masks:
        figures["dose_profile"] = publication.profile_figure(volumes, protocol.primary, title=title)
    return figures
