"""Dose-volume metrics as Ignite metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.handlers import IgniteMetricHandler

from monai_vmat.metrics.dvh_metric import DVHMetric


class DVHHandler(IgniteMetricHandler):
    """Mean D95 gap, V50Gy, ... over an evaluator's cases and structures; each one's in ``engine.state.metric_details``.

    Args:
        output_transform: gives (predictions, references with masks) of ``engine.state.output``, as :class:`DVHMetric` expects
            them: :class:`~monai_vmat.handlers.dose_pairs.DosePairs` with ``structures`` in this bundle.
        save_details: keep each case's values.
        options: those of :class:`DVHMetric`.
    """

    def __init__(self, output_transform: Callable, *, save_details: bool = True, **options: Any) -> None:
        super().__init__(metric_fn=DVHMetric(**options), output_transform=output_transform, save_details=save_details)
