"""The gamma pass rate as a MONAI metric, for any MONAI configuration or loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import MetricReduction

from monai_vmat.errors import InputError
from monai_vmat.metrics.dose_metric import DoseMetric
from monai_vmat.metrics.gamma import gamma_pass_rate


class Gamma3D(DoseMetric):
    """Mean over cases of the part of voxels with gamma < 1, in percent. Conventions: :mod:`monai_vmat.metrics.gamma`.

    Call it with ``y_pred`` and ``y`` of shape (B, 1, X, Y, Z), or lists of (1, X, Y, Z); ``y`` is the reference. It returns the
    cases' rates (B, 1), NaN for a case without a voxel above the cutoff; ``aggregate`` leaves those out.

    Args:
        dose_percent, distance_mm: the criteria.
        spacing_mm, scale_gy, reduction, get_not_nans: as in :class:`~monai_vmat.metrics.dose_metric.DoseMetric`.
        mode, local, cutoff_percent, normalisation_gy: as in :func:`monai_vmat.metrics.gamma.gamma_analysis`.

    Raises:
        InputError: when called, for shapes and options that make no sense and where no spacing is known.

    Example:
        >>> metric = Gamma3D(spacing_mm=(3.0, 3.0, 3.0), scale_gy=70.0)
        >>> dose = torch.rand(2, 1, 8, 8, 8)
        >>> metric(y_pred=dose, y=dose)
        tensor([[100.],
                [100.]])
        >>> metric.aggregate().item()
        100.0
    """

    def __init__(
        self,
        dose_percent: float = 3.0,
        distance_mm: float = 3.0,
        spacing_mm: Sequence[float] | None = None,
        scale_gy: float = 1.0,
        *,
        mode: str = "pass_rate",
        local: bool = False,
        cutoff_percent: float = 10.0,
        normalisation_gy: float | None = None,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(spacing_mm=spacing_mm, scale_gy=scale_gy, reduction=reduction, get_not_nans=get_not_nans)
        self.options: dict[str, Any] = {
            "dose_percent": dose_percent,
            "distance_mm": distance_mm,
            "mode": mode,
            "local": local,
            "cutoff_percent": cutoff_percent,
            "normalisation_gy": normalisation_gy,
        }

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        if y is None or y.shape != y_pred.shape or y.ndim != 5 or y.shape[1] != 1:
            shapes = f"y_pred is {tuple(y_pred.shape)}, y is {None if y is None else tuple(y.shape)}"
            raise InputError("Gamma3D: shapes", shapes, "Expected both (B, 1, X, Y, Z)")
        rates = []
        for item, spacing in enumerate(self._spacings(kwargs.get("spacing"), y, len(y))):
            reference, evaluation = (self.volume(dose[item, 0]) for dose in (y, y_pred))
            rates.append(gamma_pass_rate(reference, evaluation, spacing, **self.options))
        return torch.tensor(rates, dtype=torch.float32, device=y_pred.device)[:, None]
