"""The files that a training run leaves for people and for later tools to read."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_vmat import provenance
from monai_vmat.datalist import SECTIONS, load_datalist
from monai_vmat.distributed import is_first, job, processes
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json, write_whole

logger = logging.getLogger(__name__)

METRICS, SUMMARY = "metrics.csv", "training_summary.json"

_FIRST_COLUMNS = ("epoch", "val/loss", "val/mae_gy")


class RunRecord:
    """Write ``training_config.json``, ``test_cases.json``, ``metrics.csv`` (a row an epoch) and ``training_summary.json``.

    Each file is whole at any moment. When a run is resumed, the rows of later epochs (done, but not saved in the
    checkpoint) are dropped and written again. Columns without a value in an epoch stay empty. Of several processes the first
    writes.

    Args:
        folder: the run's folder.
        experiment: its name.
        datalist: path of the datalist, for case ids and checksums.
        project_root: where the git commit is looked up.
        seed: the run's seed.
        optimizer: for the learning rate.
        validator: whose metrics (``val/...``) are recorded in epochs in which it ran.
        network: for the number of parameters.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        experiment: str,
        datalist: str | Path,
        project_root: str | Path,
        seed: int,
        optimizer: torch.optim.Optimizer,
        validator: Engine,
        network: torch.nn.Module,
    ) -> None:
        self.folder = Path(folder)
        self.experiment = experiment
        self.datalist = Path(datalist)
        self.project_root = project_root
        self.seed = seed
        self.optimizer = optimizer
        self.validator = validator
        self.network = network
        self.config = provenance.running_config()
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        if not is_first():
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.rows = [row for row in read_metrics(self.folder / METRICS) if row["epoch"] <= engine.state.epoch]
        datalist = load_datalist(self.datalist)
        cases = {section: [item["case_id"] for item in datalist[section]] for section in SECTIONS}
        paths = {item["case_id"]: item["case"] for section in SECTIONS for item in datalist[section]}
        path = self.folder / "training_config.json"
        sessions = read_json(path)["sessions"] if path.exists() else []
        session = {
            "first_epoch": engine.state.epoch + 1,
            "processes": processes(),
            "job": job(),
            "git_commit": provenance.git_commit(self.project_root),
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
        }
        write_json(
            path,
            {
                "experiment": self.experiment,
                "config": self.config,
                "seed": self.seed,
                **session,
                "sessions": [*sessions, session],
                "parameters": sum(p.numel() for p in self.network.parameters()),
                "cases": cases,
                "data_sha256": provenance.checksums(paths),
            },
        )
        write_json(self.folder / "test_cases.json", {"test_cases": cases["test"], "validation_cases": cases["validation"]})

    def _start_epoch(self, engine: Engine) -> None:
        self._epoch_began = time.perf_counter()

    def _end_epoch(self, engine: Engine) -> None:
        row = {"epoch": engine.state.epoch}
        if self.validator.state.epoch == engine.state.epoch:
            row |= {k: v for k, v in self.validator.state.metrics.items() if k.startswith("val/")}
        row |= {k: v for k, v in engine.state.metrics.items() if k.startswith("train/")}
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - self._epoch_began}
        self.rows.append(row)
        shown = {"loss": "train/loss", "val MAE Gy": "val/mae_gy", "OpenKBP dose": "val/openkbp_dose_score_gy"}
        shown |= {"DVH": "val/openkbp_dvh_score_gy", "seconds": "seconds"}
        told = ", ".join(f"{label} {row[name]:.4g}" for label, name in shown.items() if name in row)
        logger.info(f"Epoch {engine.state.epoch}/{engine.state.max_epochs}: {told}")
        columns = dict.fromkeys((*_FIRST_COLUMNS, *(name for r in self.rows for name in r)))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with write_whole(self.folder / METRICS) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def _finish(self, engine: Engine) -> None:
        rows = [row for row in read_metrics(self.folder / METRICS) if row["epoch"] <= engine.state.epoch]
        write_json(self.folder / SUMMARY, training_summary(engine, self.validator, self.experiment, rows))

    def complete(self, engine: Engine) -> None:
        """Write the summary of a run that is finished, where its process died before it could."""
        if is_first() and not (self.folder / SUMMARY).exists():
            self._finish(engine)


def training_summary(trainer: Engine, validator: Engine, experiment: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``training_summary.json`` says of a run that ends now; ``rows`` are those of its ``metrics.csv``."""
    best = validator.state
    return {
        "experiment": experiment,
        "epochs": trainer.state.epoch,
        "max_epochs": trainer.state.max_epochs,
        "steps": trainer.state.iteration,
        "seconds": sum(row["seconds"] for row in rows),
        "best_epoch": best.best_metric_epoch,
        "best_val_mae_gy": float(best.best_metric),
        "final": rows[-1] if rows else None,
    }


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.csv`` with empty cells left out; none when the file is missing.

    Raises:
        InputError: when a cell is not a number.
    """
    if not Path(path).exists():
        return []
    rows = []
    with open(path, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            try:
                row = {name: float(text) for name, text in line.items() if text}
                rows.append({**row, "epoch": int(row["epoch"])})
            except (TypeError, ValueError, KeyError) as error:
                raise InputError(
                    path, f"row {len(rows) + 1} is damaged ({error})", "Remove the file; the run goes on without it"
                ) from error
    return rows
