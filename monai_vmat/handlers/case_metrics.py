"""Ignite metric: every case's dose metrics, each time the evaluator runs."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric

from monai_vmat.distributed import SPARE, gather_dealt
from monai_vmat.masks import unpack_masks
from monai_vmat.metrics.case_metrics import aggregate, case_metrics
from monai_vmat.protocol import Protocol

_WAITING_CASES = 2  # volumes that may wait for their metrics: memory stays bounded where inference is the faster part


class CaseMetrics(Metric):
    """Compute :func:`case_metrics` for every case and report their mean MAE in Gy under the name it is attached with.

    A case's metrics are computed beside the next case's inference. After each run ``engine.state.case_results`` holds one
    result per case (with ``case_id`` and ``patient``), those of all processes together, a case that several had only once;
    ``engine.state.metrics`` the means over cases under ``val/<name>``, null ones left out; ``engine.state.case_seconds`` what
    ``inference`` and ``metrics`` took in this process. Expects decollated outputs with ``pred`` (1, X, Y, Z) and ``label`` as
    :class:`~monai_vmat.engines.PrepareDoseBatch` makes it, and the case's ``case_id``, ``patient`` and ``spacing_mm`` in the
    batch.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="case_metrics")
        super().__init__()

    def attach(self, engine: Engine, name: str) -> None:  # type: ignore[override]
        self._engine = engine
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_clock)
        super().attach(engine, name)

    def reset(self) -> None:
        self._results: list[Future[dict[str, Any]]] = []
        self._seconds = {"inference": 0.0, "metrics": 0.0}

    def _start_clock(self, engine: Engine) -> None:
        self._began = time.perf_counter()

    def iteration_completed(self, engine: Engine) -> None:
        self._seconds["inference"] += time.perf_counter() - self._began
        self.update((engine.state.batch, engine.state.output))

    def update(self, output: tuple[list[dict], list[dict]]) -> None:
        for item, out in zip(*output, strict=True):
            if SPARE in item:
                continue
            self._results.append(self._thread.submit(self._measure, item, out))
            if len(self._results) > _WAITING_CASES:
                self._results[-1 - _WAITING_CASES].result()  # and with it those before: there is one thread

    def _measure(self, item: dict[str, Any], out: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        pred_gy, dose_gy, masks, spacing = case_arrays(item, out, self.protocol)
        doses = out["label"]["prescription_gy"].tolist()
        prescription = {t.name: float(d) for t, d in zip(self.protocol.targets, doses, strict=True) if d > 0}
        result = case_metrics(pred_gy, dose_gy, masks, spacing.tolist(), self.protocol, prescription)
        self._seconds["metrics"] += time.perf_counter() - began
        return {"case_id": item["case_id"], "patient": item["patient"], **result}

    def compute(self) -> float:
        dealt = gather_dealt([future.result() for future in self._results])
        results = list({result["case_id"]: result for result in dealt}.values())
        if not results or self._engine is None:
            raise NotComputableError("no case was evaluated, or the metric is not attached to an evaluator")
        summary = aggregate(results, self.protocol)
        self._engine.state.case_results = results
        self._engine.state.case_seconds = self._seconds
        means = {k.removesuffix("_mean"): v for k, v in summary.items() if v is not None and not k.endswith("_std")}
        self._engine.state.metrics |= {f"val/{name}": value for name, value in means.items()}
        return means["mae_gy"]


def predicted_gy(out: dict[str, Any], protocol: Protocol) -> np.ndarray:
    """The predicted dose (X, Y, Z) in Gy of one decollated output."""
    return np.asarray(out["pred"].cpu())[0] * np.float32(protocol.rx_gy)


def predicted_sd_gy(out: dict[str, Any], protocol: Protocol) -> np.ndarray | None:
    """The predicted dose's standard deviation (X, Y, Z) in Gy of one decollated output; None where none was predicted."""
    return np.asarray(out["pred_sd"].cpu())[0] * np.float32(protocol.rx_gy) if "pred_sd" in out else None


def case_arrays(
    item: dict[str, Any], out: dict[str, Any], protocol: Protocol
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """One decollated case as NumPy arrays: predicted and reference dose in Gy, masks by name, spacing in mm."""
    reference = out["label"]
    dose_gy = np.asarray(reference["dose"].cpu())[0] * np.float32(protocol.rx_gy)
    masks = unpack_masks(np.asarray(reference["structures"].cpu())[0], protocol)
    return predicted_gy(out, protocol), dose_gy, masks, np.asarray(item["spacing_mm"].cpu(), np.float64)
