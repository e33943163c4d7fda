"""Which experiment is better, and how sure can one be: tables and box plots from the records that runs leave."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from monai_vmat.errors import InputError
from monai_vmat.files import read_json

SEED_NAME = re.compile(r"(?P<experiment>.+)-seed(?P<seed>\d+)")
LEAST_CASES = 6  # for a test of significance
_RESAMPLES = 10_000
_CONFIDENCE = 95.0

Table = tuple[tuple[str, ...], list[tuple[object, ...]]]


@dataclass(frozen=True)
class Run:
    """What a training run and its evaluation recorded.

    Args:
        name: of the run's folder.
        experiment: the name without ``-seed<n>``; trainings that a sweep has stopped are taken together apart from the others.
        parameters: trainable parameters of the network.
        val_mae_gy: best validation MAE over the whole volume.
        seconds: of all epochs.
        record: its ``training_config.json``.
        last_epoch: the last row of its ``metrics.csv``.
        patients: whose anatomy each test case is, by case id; empty where the run was not evaluated.
        values: per metric, per test case.
    """

    name: str
    experiment: str
    parameters: int
    val_mae_gy: float
    seconds: float
    record: Mapping[str, Any]
    last_epoch: Mapping[str, float]
    patients: Mapping[str, str]
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Comparison:
    """An experiment, its seeds taken together.

    Args:
        experiment: its name.
        runs: one per seed.
        body_mae_gy: mean over test cases of the mean over seeds, and its bootstrap interval; None without evaluation.
        p_value: against the baseline, corrected; None where there is nothing to test.
        differences: per metric, experiment minus baseline and its bootstrap interval; empty where there is nothing to compare.
    """

    experiment: str
    runs: Sequence[Run]
    body_mae_gy: tuple[float, float, float] | None
    p_value: float | None
    differences: Mapping[str, tuple[float, float, float]]


def read_run(folder: Path, predictions: Path, split: str) -> Run:
    """Read a run's records; ``predictions/<run>_<split>`` may be missing.

    Raises:
        InputError: when ``folder`` is no finished run.
    """
    summary_path = folder / "training_summary.json"
    if not summary_path.is_file():
        raise InputError(
            folder, "has no training_summary.json: it is no run, or not a finished one", "Finish it or leave it out"
        )
    summary, config = read_json(summary_path), read_json(folder / "training_config.json")
    match = SEED_NAME.fullmatch(folder.name)
    experiment = match["experiment"] if match else folder.name
    patients: dict[str, str] = {}
    values: dict[str, dict[str, float]] = defaultdict(dict)
    results_path = predictions / f"{folder.name}_{split}" / "evaluation_results.json"
    if results_path.is_file():
        for result in read_json(results_path)["per_case_results"]:
            case_id = result["case_id"]
            patients[case_id] = result.get("patient", case_id)
            found = {
                "body_mae_gy": result["dose_metrics"]["mae_body_gy"],
                "mae_gy": result["dose_metrics"]["mae_gy"],
                "gamma_pass_rate": result["gamma"]["gamma_pass_rate"],
                **{f"{name}_D95_abs_gap_gy": abs(d["D95"]["gap"]) for name, d in result["dvh"].items() if "D95" in d},
                "organs_Dmean_abs_gap_gy": _organ_gap(result["dvh"]),
            }
            for metric, value in found.items():
                if value is not None:
                    values[metric][case_id] = float(value)
    return Run(
        name=folder.name,
        experiment=f"{experiment} (stopped early)" if summary.get("stopped") else experiment,
        parameters=config["parameters"],
        val_mae_gy=summary["best_val_mae_gy"],
        seconds=summary["seconds"],
        record=config,
        last_epoch=summary["final"] or {},
        patients=patients,
        values=values,
    )


def _organ_gap(dvh: Mapping[str, Mapping[str, Mapping[str, float]]]) -> float | None:
    gaps = [abs(metrics["Dmean"]["gap"]) for metrics in dvh.values() if "D95" not in metrics]
    return float(np.mean(gaps)) if gaps else None


def compare(runs: Sequence[Run], baseline: str) -> list[Comparison]:
    """Experiments in order of their test error (of their validation error where nothing was evaluated).

    Seeds are averaged per test case. Intervals: percentile bootstrap over patients, so that plans of one anatomy stay together,
    and over seeds where there are several (10,000 resamples, fixed seed). Tests: Wilcoxon's signed ranks of the cases' body MAE
    against the baseline, corrected by Holm for the number of experiments, where at least 6 cases are common to both.

    Raises:
        InputError: when evaluated runs do not have the same test cases.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.experiment].append(run)
    evaluated = {name: [r for r in group if r.patients] for name, group in groups.items()}
    reference = next((r for group in evaluated.values() for r in group), None)
    for run in (r for group in evaluated.values() for r in group):
        if reference and set(run.patients) != set(reference.patients):
            problem = f"was evaluated on other cases than {reference.name}"
            raise InputError(run.name, problem, "Compare runs of one dataset and split")
    errors = {name: _per_case(group, "body_mae_gy") for name, group in evaluated.items() if group}
    p_values = {}
    if baseline in errors and len(errors[baseline]) >= LEAST_CASES:
        others = [name for name in errors if name != baseline]
        p_values = dict(zip(others, holm([_wilcoxon(errors[name], errors[baseline]) for name in others]), strict=True))
    found = [
        Comparison(
            experiment=name,
            runs=group,
            body_mae_gy=interval(evaluated[name], [], "body_mae_gy") if name in errors else None,
            p_value=p_values.get(name),
            differences=_differences(evaluated[name], evaluated.get(baseline, [])) if name != baseline else {},
        )
        for name, group in groups.items()
    ]
    return sorted(
        found, key=lambda c: (c.body_mae_gy is None, c.body_mae_gy or (0.0,), np.mean([r.val_mae_gy for r in c.runs]))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979, Scand J Stat 6:65-70): each p times the number of those not smaller, never falling."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected.tolist()


def comparison_table(comparisons: Sequence[Comparison], baseline: str) -> Table:
    """Header and one row per experiment. Spreads are standard deviations over seeds (n - 1), intervals over patients."""
    metrics = list(dict.fromkeys(m for c in comparisons for r in c.runs for m in r.values))
    gaps = [m for m in metrics if m.endswith("_D95_abs_gap_gy")]
    of_baseline = next((c.body_mae_gy[0] for c in comparisons if c.experiment == baseline and c.body_mae_gy), None)
    header = (
        "experiment",
        "seeds",
        "parameters",
        "val MAE Gy",
        "test MAE Gy",
        "test body MAE Gy",
        "95 % interval",
        f"against {baseline} %",
        "p (Holm)",
        "gamma %",
        *(f"{m.removesuffix('_D95_abs_gap_gy')} |D95 gap| Gy" for m in gaps),
        "organs |Dmean gap| Gy",
        "minutes",
    )
    rows: list[tuple[object, ...]] = []
    for c in comparisons:
        body = c.body_mae_gy
        change = 100 * (body[0] / of_baseline - 1) if body and of_baseline and c.experiment != baseline else None
        rows.append(
            (
                c.experiment,
                len(c.runs),
                c.runs[0].parameters,
                _spread([r.val_mae_gy for r in c.runs], 3),
                _spread_of(c.runs, "mae_gy", 3),
                _spread_of(c.runs, "body_mae_gy", 2),
                f"{body[1]:.2f} to {body[2]:.2f}" if body else None,
                f"{change:+.1f}" if change is not None else None,
                f"{c.p_value:.3f}" if c.p_value is not None else None,
                _spread_of(c.runs, "gamma_pass_rate", 1),
                *(_spread_of(c.runs, m, 2) for m in gaps),
                _spread_of(c.runs, "organs_Dmean_abs_gap_gy", 2),
                _spread([r.seconds / 60 for r in c.runs], 1),
            )
        )
    return header, rows


def markdown(table: Table) -> str:
    """The table as Markdown."""
    header, rows = table
    cells = [["" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]]) + "\n"


def comma_separated(table: Table) -> str:
    """The table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table[0], *table[1]])
    return text.getvalue()


def html(table: Table, picture: str, verdicts: Sequence[str], note: str) -> str:
    """The table as one page, beside it the file name of the box plots, and what the figures say."""
    header, rows = table
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    cells = [[escape("" if cell is None else str(cell)) for cell in row] for row in rows]
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    said = "\n".join(f"<li>{escape(verdict)}</li>" for verdict in verdicts)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Experiments compared</title>
<style>body {{ font-family: sans-serif; margin: 2em; color: #222; }} td, th {{ padding: .3em .6em; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }} tr:nth-child(even) {{ background: #f2f2f2; }}
img {{ max-width: 100%; }}</style>
</head><body><h1>Experiments compared</h1>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
<ul>{said}</ul>
<p>{escape(note)}</p><img alt="body MAE of every test case, by experiment" src="{escape(picture)}"></body></html>
"""


def box_plots(comparisons: Sequence[Comparison]) -> Figure:
    """Body MAE of every test case (seeds averaged), a box per experiment: quartiles, whiskers to 1.5 times their distance."""
    shown = [c for c in comparisons if c.body_mae_gy]
    figure = Figure(figsize=(8, 0.8 + 0.4 * max(1, len(shown))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = [list(_per_case([r for r in c.runs if r.patients], "body_mae_gy").values()) for c in shown]
    if values:
        axes.boxplot(
            values[::-1],
            orientation="horizontal",
            tick_labels=[c.experiment for c in shown][::-1],
            medianprops={"color": "#D55E00"},
        )
    axes.set_xlabel("MAE inside the body [Gy], a point for each test case")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _per_case(runs: Sequence[Run], metric: str) -> dict[str, float]:
    """Mean over seeds for each case."""
    return {case: float(np.mean([r.values[metric][case] for r in runs])) for case in runs[0].values[metric]}


def _differences(runs: Sequence[Run], baseline: Sequence[Run]) -> dict[str, tuple[float, float, float]]:
    """Of every metric that all runs have."""
    if not runs or not baseline:
        return {}
    common = [metric for metric in runs[0].values if all(metric in run.values for run in (*runs, *baseline))]
    return {metric: interval(runs, baseline, metric) for metric in common}


def interval(runs: Sequence[Run], baseline: Sequence[Run], metric: str) -> tuple[float, float, float]:
    """Mean of a metric over the cases that all runs have it for (less the baseline's), and the ends of its interval."""
    every = [run.values[metric] for run in (*runs, *baseline)]
    patients = runs[0].patients
    cases = [case for case in every[0] if all(case in values for values in every)]
    names = list(dict.fromkeys(patients[case] for case in cases))
    counts = np.array([sum(patients[case] == name for case in cases) for name in names])
    draw = np.random.default_rng(0)
    chosen = draw.integers(len(names), size=(_RESAMPLES, len(names)))
    totals, mean = np.zeros((_RESAMPLES, len(names))), 0.0
    for group, sign in ((runs, 1.0), (baseline, -1.0)):
        if group:
            sums = np.array([_per_patient(run, metric, cases, names) for run in group])
            shares = draw.multinomial(len(group), [1 / len(group)] * len(group), size=_RESAMPLES) / len(group)
            totals += sign * shares @ sums
            mean += sign * float(sums.mean(0).sum() / counts.sum())
    means = np.take_along_axis(totals, chosen, 1).sum(1) / counts[chosen].sum(1)
    low, high = np.percentile(means, (50 - _CONFIDENCE / 2, 50 + _CONFIDENCE / 2))
    return mean, float(low), float(high)


def _per_patient(run: Run, metric: str, cases: Sequence[str], patients: Sequence[str]) -> list[float]:
    """Sums over each patient's cases."""
    return [sum(run.values[metric][case] for case in cases if run.patients[case] == name) for name in patients]


def _wilcoxon(values: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    differences = np.array([values[case] - baseline[case] for case in baseline])
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def _spread(values: Sequence[float], digits: int) -> str:
    spread = f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _spread_of(runs: Sequence[Run], metric: str, digits: int) -> str | None:
    means = [float(np.mean(list(r.values[metric].values()))) for r in runs if r.values.get(metric)]
    return _spread(means, digits) if means else None
