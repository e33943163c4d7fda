"""Dose-volume metrics as a MONAI metric, for any MONAI configuration or loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import MetricReduction

from monai_vmat.errors import InputError
from monai_vmat.metrics.dose_metric import DoseMetric
from monai_vmat.metrics.dvh import dvh_metric

QUANTITIES = ("gap", "absolute_gap", "predicted", "reference")


class DVHMetric(DoseMetric):
    """D95, V50Gy, Dmean, ... of structures: the predicted dose's, the reference's, or the gap between them.

    Call it with ``y_pred`` (B, 1, X, Y, Z) and ``y`` (B, 1 + S, X, Y, Z), or lists without the batch dimension: ``y`` is the
    reference dose and after it the masks of S structures (above 0.5 is inside). It returns (B, S), NaN for an empty structure.

    Args:
        metric: as in :func:`monai_vmat.metrics.dvh.dvh_metric`, with its conventions.
        unit: Gy for doses, ``%`` or ``cc`` for volumes.
        quantity: ``gap`` (predicted - reference), ``absolute_gap``, ``predicted`` or ``reference``.
        spacing_mm, scale_gy, reduction, get_not_nans: as in :class:`~monai_vmat.metrics.dose_metric.DoseMetric`; spacing is
            needed for metrics in cc only; by default the mean over structures and cases, ``mean_batch`` for one a structure.

    Raises:
        InputError: for a metric, unit or quantity that is not known; when called, for shapes that make no sense.

    Example:
        >>> dose = torch.full((1, 1, 8, 8, 8), 0.9)
        >>> target = torch.ones(1, 1, 8, 8, 8)
        >>> metric = DVHMetric("D95", scale_gy=70.0)
        >>> round(metric(y_pred=dose + 0.1, y=torch.cat([dose, target], 1)).item(), 3)
        7.0
    """

    def __init__(
        self,
        metric: str = "D95",
        unit: str = "Gy",
        *,
        quantity: str = "gap",
        spacing_mm: Sequence[float] | None = None,
        scale_gy: float = 1.0,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(spacing_mm=spacing_mm, scale_gy=scale_gy, reduction=reduction, get_not_nans=get_not_nans)
        dvh_metric(np.zeros(1), metric, unit, 1.0)
        if quantity not in QUANTITIES:
            raise InputError("DVHMetric: quantity", f"got {quantity!r}", f"Expected one of {', '.join(QUANTITIES)}")
        self.metric = metric
        self.unit = unit
        self.quantity = quantity

    def _spacings(self, spacing: Any, y: Any, cases: int) -> list[Any]:
        if "cc" in (self.unit, self.metric[-2:]):
            return super()._spacings(spacing, y, cases)
        return [(1.0, 1.0, 1.0)] * cases  # doses and percentages do not depend on it

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        good = y is not None and y_pred.ndim == y.ndim == 5 and y_pred.shape[1] == 1 and y.shape[1] > 1
        if y is None or not good or y.shape[2:] != y_pred.shape[2:] or len(y) != len(y_pred):
            shapes = f"y_pred is {tuple(y_pred.shape)}, y is {None if y is None else tuple(y.shape)}"
            raise InputError("DVHMetric: shapes", shapes, "Expected (B, 1, X, Y, Z), and (B, 1 + structures, X, Y, Z) for y")
        values = torch.full((len(y), y.shape[1] - 1), torch.nan)
        for case, spacing in enumerate(self._spacings(kwargs.get("spacing"), y, len(y))):
            pred_gy, dose_gy = (self.volume(dose[case, 0]).numpy() for dose in (y_pred, y))
            voxel_cc = float(np.prod(spacing)) / 1000.0
            for structure, mask in enumerate(np.asarray(y[case, 1:].detach().cpu()) > 0.5):
                if mask.any():
                    values[case, structure] = self._value(pred_gy[mask], dose_gy[mask], voxel_cc)
        return values.to(y_pred.device)

    def _value(self, pred_gy: np.ndarray, dose_gy: np.ndarray, voxel_cc: float) -> float:
        predicted, reference = (dvh_metric(d, self.metric, self.unit, voxel_cc) for d in (pred_gy, dose_gy))
        gap = predicted - reference
        return {"gap": gap, "absolute_gap": abs(gap), "predicted": predicted, "reference": reference}[self.quantity]
