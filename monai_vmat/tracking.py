"""Experiment tracking by MLflow: what MONAI's ``--tracking mlflow`` needs to know of this bundle's engines.

MONAI adds an ``MLFlowHandler`` to the handlers of trainer and evaluator. It records metrics in a database in the run's folder
and, here, the run's settings; neither case ids nor paths. Nothing leaves the machine unless a ``--tracking_uri`` says so.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ignite.engine import Engine
from monai.handlers import MLFlowHandler

from monai_vmat.dashboard.settings import settings
from monai_vmat.provenance import running_config

# MLflow reports its use to its makers unless told not to; it looks here before every report.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def prepare(handlers: Sequence[Any], record_settings: bool = False) -> None:
    """Fit the MLflow handlers among ``handlers``, where there are any, to this bundle's engines; call it before they run.

    They then read the loss from an undivided output (MONAI's default expects a list of items), and name metrics as MLflow
    allows.

    Args:
        handlers: the handlers of a trainer or evaluator.
        record_settings: record the settings by which experiments differ. A resumed run has done so already, and MLflow refuses
            to change them.
    """
    for handler in _trackers(handlers):
        handler.output_transform = lambda output: output["loss"]
        handler.epoch_logger = partial(_log_epoch, handler)
        if record_settings:
            found = settings(running_config())
            handler.experiment_param = {k: v for k, v in found.items() if k not in handler.default_tracking_params}


def finish(handlers: Sequence[Any]) -> None:
    """End the tracked runs of an evaluator's handlers, so that the next evaluation starts its own."""
    for handler in _trackers(handlers):
        handler.close()


def _trackers(handlers: Sequence[Any]) -> list[MLFlowHandler]:
    return [handler for handler in handlers if isinstance(handler, MLFlowHandler)]


def _log_epoch(handler: MLFlowHandler, engine: Engine) -> None:
    from mlflow.entities import Metric

    assert handler.cur_run is not None  # since the engine started
    now_ms, epoch = int(1000 * time.time()), engine.state.epoch
    named = {re.sub(r"[^\w\-. :/]", "_", name): float(value) for name, value in engine.state.metrics.items()}
    metrics = [Metric(name, value, now_ms, epoch) for name, value in named.items()]
    handler.client.log_batch(handler.cur_run.info.run_id, metrics)
