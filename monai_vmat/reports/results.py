"""What models reach, in Markdown: scores with intervals, errors by structure, training, the worst cases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from monai_vmat.errors import InputError
from monai_vmat.files import read_json, text_around, write_text, write_whole
from monai_vmat.reports.calibration import FILE as CALIBRATION
from monai_vmat.reports.calibration import calibration_figure
from monai_vmat.reports.compare import Run, Table, interval, markdown
from monai_vmat.reports.evaluation import Evaluation, find_cases, read_evaluation, read_volumes
from monai_vmat.reports.evaluation_tables import metric_label
from monai_vmat.reports.planes import three_planes

NOTE = (
    "Means over cases with 95 % intervals: percentile bootstrap over patients (10,000 resamples), so that plans of one anatomy "
    "stay together. They say how sure the mean is for patients like these, not how far single cases scatter, and not how much "
    "another training would differ. `evaluation_results.json` of an evaluation has every metric of every case with its "
    "convention. Research only, not for clinical use."
)
# The errors of DVH points that the table by structure shows, where a structure has them: targets D95 and D1.
_POINTS = ("D95", "D1", "Dmean", "D0.1cc")
_PICTURE_DPI = 80
_FIGURE_DPI = 160  # drawn as small as papers have it
_WORST = 3
# The lines of a model card between which the results stand.
CARD_BEGIN, CARD_END = "<!-- by python -m monai_vmat.reports results -->", "<!-- end of results -->"
# By which a training is told.
_SETTINGS = (
    *("max_epochs", "base_channels", "patch_size", "learning_rate", "average_decay"),
    *("flip_probability", "turn_probability", "initial_weights"),
)


def write_results(
    folders: Sequence[Path],
    out: Path,
    *,
    runs: Path,
    dataset_dir: Path | None = None,
    commands: Sequence[str] = (),
    pictures: int = 0,
    pictures_of: Sequence[str] = (),
    card: Path | None = None,
) -> list[Path]:
    """Write the document, pictures of calibration and the worst cases, and the same results into a model card.

    Args:
        folders: prediction folders, each with ``evaluation_results.json``.
        out: the Markdown file. Pictures go to ``<its name>/`` beside it or, where there is a card, beside that.
        runs: where the runs are, for the records of the training.
        dataset_dir: the folder of the datalist, for pictures; by default the one that the training recorded.
        commands: what repeats the figures, line by line.
        pictures: how many of the worst cases of each evaluation are drawn.
        pictures_of: the experiments whose cases are drawn, all by default.
        card: a Markdown file with the lines :data:`CARD_BEGIN` and :data:`CARD_END`; what is between them is replaced.

    Returns:
        what was written, the document first.

    Raises:
        InputError: whatever is missing on disk, two evaluations of one name, or a card without its two lines.
    """
    evaluations = [read_evaluation(folder, runs) for folder in folders]
    titles = [evaluation.title for evaluation in evaluations]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise InputError(out, f"'{twice}' is given twice", "Name every evaluation once")
    before, after = text_around(card, CARD_BEGIN, CARD_END) if card else ("", "")
    folder = (card or out).parent / out.stem
    drawn: dict[str, dict[str, Path]] = {}
    for evaluation in evaluations:
        facts, found = evaluation.facts, drawn.setdefault(evaluation.title, {})
        stem = f"{facts['experiment']}_{facts['split']}"
        if calibrated := _calibration(evaluation):
            found["error over predicted standard deviation"] = folder / f"{stem}_calibration.png"
            _save(calibration_figure(calibrated), folder / f"{stem}_calibration.png", _FIGURE_DPI)
        wanted = evaluation.cases[:pictures] if not pictures_of or facts["experiment"] in pictures_of else []
        items = find_cases(evaluation, dataset_dir) if wanted else {}
        for result in tqdm(wanted, desc=f"Pictures of {evaluation.title}", unit="case", disable=not wanted):
            case_id = result["case_id"]
            found[f"{case_id}, one of the worst cases"] = folder / f"{stem}_{case_id}.png"
            _save(_planes(evaluation, result, items[case_id]), folder / f"{stem}_{case_id}.png", _PICTURE_DPI)
    described = {evaluation.title: _described(evaluation) for evaluation in evaluations}

    def text(heading: str, path: Path) -> str:
        parts = [NOTE]
        for title, paragraphs in described.items():
            parts += [f"{heading} {title}", *paragraphs]
            parts += [f"![{caption}]({_link(picture, path)})" for caption, picture in drawn[title].items()]
        if commands:
            parts += [f"{heading} To repeat", "\n".join(f"    {line}" for line in commands)]
        return "\n\n".join(parts) + "\n"

    origin = "Written by `python -m monai_vmat.reports results` from records; no figure here was typed."
    write_text(out, f"# Results\n\n{origin}\n\n{text('##', out)}")
    if card:
        write_text(card, f"{before}{CARD_BEGIN}\n\n{text('###', card)}\n{CARD_END}{after}")
    return [out, *([card] if card else []), *(path for found in drawn.values() for path in found.values())]


def _link(picture: Path, document: Path) -> str:
    return Path(os.path.relpath(picture, document.parent)).as_posix()


def _described(evaluation: Evaluation) -> list[str]:
    run, facts = _as_run(evaluation), evaluation.facts
    patients = len({run.patients[case["case_id"]] for case in evaluation.cases})
    about = f"{len(evaluation.cases)} cases of {patients} patients, protocol {evaluation.protocol.name}"
    return [
        f"{about}. Weights: {facts.get('checkpoint') or facts.get('predictions')}.",
        "\n".join(f"* {line}" for line in (*_training(evaluation), *_uncertainty(evaluation), *_worst(evaluation))),
        markdown(score_table(run)).rstrip(),
        "Errors by structure, Gy:",
        markdown(structure_table(run, evaluation.protocol.structure_names)).rstrip(),
    ]


def score_table(run: Run) -> Table:
    """A row a score: its mean, its interval and the number of values it is the mean of."""
    rows: list[tuple[object, ...]] = []
    for name in (name for name in run.values if "/" not in name):
        mean, low, high = interval([run], [], name)
        digits = 3 if name.startswith("openkbp") else 2
        found = (f"{mean:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}", len(run.values[name]))
        rows.append((metric_label(name), *found))
    return ("score", "mean", "95 % interval", "values"), rows


def structure_table(run: Run, structures: Sequence[str]) -> Table:
    """A row a structure: its MAE and the absolute errors of its DVH points, with their intervals."""
    columns = {"MAE": "MAE", **{point: f"|{point} gap|" for point in _POINTS}}
    rows: list[tuple[object, ...]] = []
    for structure in structures:
        found = {name: run.values.get(f"{structure}/{name}") for name in columns}
        if found["MAE"]:
            cells = (_mean(run, f"{structure}/{name}") if found[name] else None for name in columns)
            rows.append((structure, len(found["MAE"]), *cells))
    return ("structure", "cases", *columns.values()), rows


def _mean(run: Run, name: str) -> str:
    mean, low, high = interval([run], [], name)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _as_run(evaluation: Evaluation) -> Run:
    """The evaluation's values by score, and by ``structure/error``; what a case has several of is counted one by one."""
    protocol = evaluation.protocol
    patients: dict[str, str] = {}
    values: dict[str, dict[str, float]] = {}

    def add(name: str, value: float | None, case: Mapping[str, Any], part: str = "") -> None:
        if value is not None:
            key = f"{case['case_id']}/{part}" if part else case["case_id"]
            patients[key] = case.get("patient", case["case_id"])
            values.setdefault(name, {})[key] = float(value)

    for case in evaluation.cases:
        errors, gamma = case["dose_metrics"], case.get("gamma", {})
        patients[case["case_id"]] = case.get("patient", case["case_id"])
        if scores := case.get("openkbp"):
            add("openkbp_dose_score_gy", scores["dose_error_gy"], case)
            for part, error in scores["dvh_errors_gy"].items():
                add("openkbp_dvh_score_gy", abs(error), case, part)
        for name in ("mae_body_gy", "mae_gy"):
            add(name, errors.get(name), case)
        for target in protocol.targets:
            gap = case.get("dvh", {}).get(target.name, {}).get("D95", {}).get("gap")
            add(f"{target.name}_D95_abs_gap_gy", None if gap is None else abs(gap), case)
        add("gamma_pass_rate", gamma.get("gamma_pass_rate"), case)
        for region, rate in gamma.get("regions", {}).items():
            if "+" in region:  # a target with its penumbra
                add(f"gamma_pass_rate_{region}", rate, case)
        for number, goal in enumerate(case.get("goals", [])):
            add("goal_agreement_percent", 100.0 * (goal["predicted_met"] == goal["reference_met"]), case, str(number))
        for name in protocol.structure_names:
            add(f"{name}/MAE", errors.get(f"mae_{name}_gy"), case)
            for point in _POINTS:
                gap = case.get("dvh", {}).get(name, {}).get(point, {}).get("gap")
                add(f"{name}/{point}", None if gap is None else abs(gap), case)
    unused: dict[str, Any] = {"parameters": 0, "val_mae_gy": 0.0, "seconds": 0.0, "record": {}, "last_epoch": {}}
    return Run(name=evaluation.title, experiment=evaluation.title, patients=patients, values=values, **unused)


def _training(evaluation: Evaluation) -> list[str]:
    """What made the weights: by the run's records or, where they are not there, by what the weight files say."""
    if evaluation.run is None:
        trainings = evaluation.facts.get("trainings", [])
        return [", ".join(f"{k.replace('_', ' ')} {v}" for k, v in t.items()) for t in trainings] or ["training: not recorded"]
    record, summary, hardware = evaluation.run.config, evaluation.run.summary, evaluation.run.config.get("hardware", {})
    config, cases, versions = record.get("config", {}), record.get("cases", {}), record.get("versions", {})
    counts = ", ".join(f"{len(cases.get(section, []))} {section}" for section in ("training", "validation"))
    settings = ", ".join(f"{name} {config[name]}" for name in _SETTINGS if name in config)
    lines = [
        f"cases: {counts}; {settings}; seed {record.get('seed')}; {record.get('parameters', 0):,} parameters",
        f"commit {(record.get('git_commit') or 'unknown')[:10]}, torch {versions.get('torch')}, MONAI {versions.get('monai')}",
    ]
    if "seconds" in summary:
        machine = hardware.get("gpu") or f"{hardware.get('cpu')}, {hardware.get('torch_threads')} threads"
        lines.append(f"training: {summary['epochs']} epochs in {summary['seconds'] / 60:.0f} minutes on {machine}")
    return lines


def _calibration(evaluation: Evaluation) -> dict[str, Any] | None:
    path = evaluation.folder / CALIBRATION
    return read_json(path) if path.is_file() else None


def _uncertainty(evaluation: Evaluation) -> list[str]:
    found = _calibration(evaluation)
    if found is None:
        return []
    rank = "undefined" if found["rank_correlation"] is None else f"{found['rank_correlation']:.2f}"
    return [
        f"predicted standard deviation: rank correlation with |error| {rank} over voxels; "
        f"|error| within one: {found['within_1_sd_percent']:.0f} %, within two: {found['within_2_sd_percent']:.0f} % of them"
    ]


def _worst(evaluation: Evaluation) -> list[str]:
    """The cases of the largest error inside the body."""
    errors = [(case["case_id"], case["dose_metrics"].get("mae_body_gy")) for case in evaluation.cases]
    told = [f"{case} {error:.2f}" for case, error in errors if error is not None][:_WORST]
    return ["worst by MAE inside the body, Gy: " + ", ".join(told)] if told else []


def _planes(evaluation: Evaluation, result: Mapping[str, Any], item: Mapping[str, Any]) -> Figure:
    volumes = read_volumes(evaluation, result, item)
    doses = {"reference": volumes.reference_gy, "predicted": volumes.predicted_gy}
    error = result["dose_metrics"]["mae_body_gy"]
    title = f"{evaluation.title}: {volumes.case_id}" + ("" if error is None else f", MAE inside the body {error:.2f} Gy")
    return three_planes(volumes.ct_hu, volumes.masks, doses, evaluation.protocol, volumes.spacing_mm, title=title)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    with write_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
