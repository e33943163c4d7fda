"""Ignite metric: every case's dose metrics, each time the evaluator runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric

from monai_vmat.masks import unpack_masks
from monai_vmat.metrics.case_metrics import aggregate, case_metrics
from monai_vmat.protocol import Protocol


class CaseMetrics(Metric):
    """Compute :func:`case_metrics` for every case and report their mean MAE in Gy under the name it is attached with.

    After each run ``engine.state.case_results`` holds one result per case (with ``case_id`` and ``patient``), and
    ``engine.state.metrics`` the means over cases under ``val/<name>``, null ones left out. Expects decollated outputs with
    ``pred`` (1, X, Y, Z) and ``label`` as :class:`~monai_vmat.engines.PrepareDoseBatch` makes it, and the case's ``case_id``,
    ``patient`` and ``spacing_mm`` in the batch.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._engine: Engine | None = None
        super().__init__()

    def attach(self, engine: Engine, name: str) -> None:  # type: ignore[override]
        self._engine = engine
        super().attach(engine, name)

    def reset(self) -> None:
        self.results: list[dict[str, Any]] = []

    def iteration_completed(self, engine: Engine) -> None:
        self.update((engine.state.batch, engine.state.output))

    def update(self, output: tuple[list[dict], list[dict]]) -> None:
        for item, out in zip(*output, strict=True):
            pred_gy, dose_gy, masks, spacing = case_arrays(item, out, self.protocol)
            result = case_metrics(pred_gy, dose_gy, masks, spacing.tolist(), self.protocol)
            self.results.append({"case_id": item["case_id"], "patient": item["patient"], **result})

    def compute(self) -> float:
        if not self.results or self._engine is None:
            raise NotComputableError("no case was evaluated, or the metric is not attached to an evaluator")
        summary = aggregate(self.results, self.protocol)
        self._engine.state.case_results = self.results
        self._engine.state.case_summary = summary
        means = {k.removesuffix("_mean"): v for k, v in summary.items() if v is not None and not k.endswith("_std")}
        self._engine.state.metrics |= {f"val/{name}": value for name, value in means.items()}
        return means["mae_gy"]


def predicted_gy(out: dict[str, Any], protocol: Protocol) -> np.ndarray:
    """The predicted dose (X, Y, Z) in Gy of one decollated output."""
    return np.asarray(out["pred"].cpu())[0] * np.float32(protocol.rx_gy)


def case_arrays(
    item: dict[str, Any], out: dict[str, Any], protocol: Protocol
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """One decollated case as NumPy arrays: predicted and reference dose in Gy, masks by name, spacing in mm."""
    reference = out["label"]
    dose_gy = np.asarray(reference["dose"].cpu())[0] * np.float32(protocol.rx_gy)
    masks = unpack_masks(np.asarray(reference["structures"].cpu())[0], protocol)
    return predicted_gy(out, protocol), dose_gy, masks, np.asarray(item["spacing_mm"].cpu(), np.float64)
