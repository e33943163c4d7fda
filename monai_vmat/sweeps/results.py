"""What a sweep has found so far: ``sweep_results.json``, made from the records of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_vmat.files import read_json, write_json
from monai_vmat.handlers.run_record import METRICS, SUMMARY, read_metrics
from monai_vmat.sweeps.space import Space

FILE_NAME = "sweep_results.json"
FINISHED, STOPPED, INTERRUPTED, WAITING, FAILED = "finished", "stopped", "interrupted", "waiting", "failed"


def is_done(folder: Path) -> bool:
    """Whether a trial has come to its end, by itself or stopped by the sweep."""
    return (folder / SUMMARY).is_file()


def mark_stopped(folder: Path, summary: Mapping[str, Any]) -> None:
    """Give a run that the sweep has ended its ``training_summary.json``; that it was ``stopped`` is said there."""
    write_json(folder / SUMMARY, {**summary, "stopped": True})


def recorded(folder: Path, metric: str) -> list[dict[str, float]]:
    """``epoch`` and ``value`` (the metric) of the epochs that a run has validated."""
    return [{"epoch": row["epoch"], "value": row[metric]} for row in read_metrics(folder / METRICS) if metric in row]


def trial_results(space: Space, out: Path, errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """One dictionary per trial: its settings, status, epochs, best metric and the epoch of it (null where there is none).

    Args:
        space: the sweep's.
        out: the folder of the runs.
        errors: why trials failed, by name.
    """
    metric, sign = space.content["metric"], 1 if space.content["mode"] == "min" else -1
    results = []
    for trial in space.trials:
        folder = out / trial.name
        rows = read_metrics(folder / METRICS)
        validated = [r for r in recorded(folder, metric) if math.isfinite(r["value"])]
        best = min(validated, key=lambda r: sign * r["value"], default={"epoch": None, "value": None})
        if trial.name in errors:
            status = FAILED
        elif is_done(folder):
            status = STOPPED if read_json(folder / SUMMARY).get("stopped") else FINISHED
        else:
            status = INTERRUPTED if rows else WAITING
        result = {"trial": trial.name, "status": status, "settings": dict(trial.settings), "epochs": len(rows)}
        result |= {"best": best["value"], "best_epoch": best["epoch"], "seconds": sum(row["seconds"] for row in rows)}
        results.append(result | ({"error": errors[trial.name]} if trial.name in errors else {}))
    return results


def write_results(space: Space, out: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write ``sweep_results.json``."""
    kept = {key: space.content[key] for key in ("metric", "mode", "max_epochs", "asha")}
    write_json(out / FILE_NAME, {"sweep": out.name, **kept, "trials": list(results)})


def results_table(results: Sequence[Mapping[str, Any]], metric: str, mode: str) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows for people, the best trial first."""
    sign = 1 if mode == "min" else -1
    ordered = sorted(results, key=lambda r: (r["best"] is None, sign * (r["best"] or 0)))
    keys = list(dict.fromkeys(key for r in results for key in r["settings"]))
    rows = [
        (
            r["trial"],
            *(_text(r["settings"][key]) for key in keys),
            r["epochs"],
            _number(r["best"]),
            r["best_epoch"],
            r["status"],
        )
        for r in ordered
    ]
    return ("trial", *keys, "epochs", f"best {metric}", "at epoch", "status"), rows


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
