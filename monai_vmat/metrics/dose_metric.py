"""What the MONAI metrics of this package share: spacing, unit of dose, lists of cases, reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction

from monai_vmat.errors import InputError


class DoseMetric(CumulativeIterationMetric):
    """A figure of each case, kept over iterations (and gathered from all processes), and its mean.

    Call it with ``y_pred`` and ``y`` of shape (B, C, X, Y, Z), or with lists of (C, X, Y, Z) that may differ in size; it
    returns (B, N), NaN where there is nothing to measure. ``aggregate`` leaves those out.

    Args:
        spacing_mm: voxel size along X, Y, Z; when not given, the call's ``spacing`` (three numbers, or three a case), or else
            what the affine of ``y``, then a MetaTensor, says.
        scale_gy: what doses are to be multiplied with to be in Gy: the prescription where they are fractions of it.
        reduction: over cases, as in MONAI.
        get_not_nans: whether ``aggregate`` also returns how many cases counted.
    """

    def __init__(
        self,
        *,
        spacing_mm: Sequence[float] | None = None,
        scale_gy: float = 1.0,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__()
        self.spacing_mm = spacing_mm
        self.scale_gy = scale_gy
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        spacings = self._spacings(kwargs.get("spacing"), y, len(y_pred))
        cases = zip(y_pred, y, spacings, strict=True)
        return torch.cat([torch.as_tensor(self._compute_tensor(p[None], q[None], spacing=s)) for p, q, s in cases])

    def _spacings(self, spacing: Any, y: Any, cases: int) -> list[Any]:
        """Three numbers for each case."""
        name = type(self).__name__
        if spacing is None:
            spacing = self.spacing_mm
        if spacing is None:
            affines = [getattr(item, "affine", None) for item in (y if isinstance(y, (list, tuple)) else [y])]
            if any(affine is None for affine in affines):
                problem = f"neither given to {name} nor to its call, and y is no MetaTensor"
                raise InputError(f"{name}: spacing", problem, f"Give {name}(spacing_mm=...)")
            spacing = np.concatenate([np.reshape(np.asarray(affine), (-1, 4, 4)) for affine in affines])
            spacing = np.linalg.norm(spacing[:, :3, :3], axis=1)
        spacing = np.asarray(spacing, np.float64)
        if spacing.shape not in ((3,), (1, 3), (cases, 3)):
            raise InputError(f"{name}: spacing", f"has shape {spacing.shape}", f"Expected (3,) or ({cases}, 3)")
        return list(np.broadcast_to(spacing, (cases, 3)))

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Any:
        """The mean (or another reduction) over all cases so far, NaN where none counts."""
        values = self.get_buffer()
        if not isinstance(values, torch.Tensor):
            raise InputError(type(self).__name__, "no case was given", "Call it with y_pred and y before aggregate()")
        value, counted = do_metric_reduction(values, reduction or self.reduction)
        value = torch.where(counted > 0, value.reshape(counted.shape), torch.nan)  # MONAI says 0, which looks like a finding
        return (value, counted) if self.get_not_nans else value

    def volume(self, dose: torch.Tensor) -> torch.Tensor:
        """A plain volume in Gy, float32 (or float64), in memory."""
        dose = dose.detach().cpu()
        dose = dose if dose.dtype == torch.float64 else dose.float()
        return (dose.as_tensor() if hasattr(dose, "as_tensor") else dose) * self.scale_gy
