"""The gamma pass rate as a MONAI metric, for any MONAI configuration or loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction

from monai_vmat.errors import InputError
from monai_vmat.metrics.gamma import gamma_pass_rate


class Gamma3D(CumulativeIterationMetric):
    """Mean over cases of the part of voxels with gamma < 1, in percent. Conventions: :mod:`monai_vmat.metrics.gamma`.

    Call it with ``y_pred`` and ``y`` of shape (B, 1, X, Y, Z), or lists of (1, X, Y, Z); ``y`` is the reference. It returns the
    cases' rates (B, 1), NaN for a case without a voxel above the cutoff; ``aggregate`` leaves those out.

    Args:
        dose_percent, distance_mm: the criteria.
        spacing_mm: voxel size along X, Y, Z; when not given, the call's ``spacing`` (three numbers, or three a case), or else
            what the affine of ``y``, then a MetaTensor, says.
        scale_gy: what doses are to be multiplied with to be in Gy: the prescription where they are fractions of it.
        mode, local, cutoff_percent, normalisation_gy: as in :func:`monai_vmat.metrics.gamma.gamma_analysis`.
        reduction: over cases, as in MONAI.
        get_not_nans: whether ``aggregate`` also returns how many cases counted.

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
        super().__init__()
        self.options: dict[str, Any] = {
            "dose_percent": dose_percent,
            "distance_mm": distance_mm,
            "mode": mode,
            "local": local,
            "cutoff_percent": cutoff_percent,
            "normalisation_gy": normalisation_gy,
        }
        self.spacing_mm = spacing_mm
        self.scale_gy = scale_gy
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        spacings = self._spacings(kwargs.get("spacing"), y, len(y_pred))
        return torch.cat(
            [self._compute_tensor(p[None], q[None], spacing=s) for p, q, s in zip(y_pred, y, spacings, strict=True)]
        )

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        if y is None or y.shape != y_pred.shape or y.ndim != 5 or y.shape[1] != 1:
            shapes = f"y_pred is {tuple(y_pred.shape)}, y is {None if y is None else tuple(y.shape)}"
            raise InputError("Gamma3D: shapes", shapes, "Expected both (B, 1, X, Y, Z)")
        rates = []
        for item, spacing in enumerate(self._spacings(kwargs.get("spacing"), y, len(y))):
            reference, evaluation = (_volume(dose[item, 0]) * self.scale_gy for dose in (y, y_pred))
            rates.append(gamma_pass_rate(reference, evaluation, spacing, **self.options))
        return torch.tensor(rates, dtype=torch.float32, device=y_pred.device)[:, None]

    def _spacings(self, spacing: Any, y: Any, cases: int) -> list[Any]:
        """Three numbers for each case."""
        if spacing is None:
            spacing = self.spacing_mm
        if spacing is None:
            affines = [getattr(item, "affine", None) for item in (y if isinstance(y, (list, tuple)) else [y])]
            if any(affine is None for affine in affines):
                problem = "neither given to Gamma3D nor to its call, and y is no MetaTensor"
                raise InputError("Gamma3D: spacing", problem, "Give Gamma3D(spacing_mm=...)")
            spacing = np.concatenate([np.reshape(np.asarray(affine), (-1, 4, 4)) for affine in affines])
            spacing = np.linalg.norm(spacing[:, :3, :3], axis=1)
        spacing = np.asarray(spacing, np.float64)
        if spacing.shape not in ((3,), (1, 3), (cases, 3)):
            raise InputError("Gamma3D: spacing", f"has shape {spacing.shape}", f"Expected (3,) or ({cases}, 3)")
        return list(np.broadcast_to(spacing, (cases, 3)))

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Any:
        """The mean (or another reduction) of the rates of all cases so far, in percent."""
        rates = self.get_buffer()
        if not isinstance(rates, torch.Tensor):
            raise InputError("Gamma3D", "no case was given", "Call it with y_pred and y before aggregate()")
        value, counted = do_metric_reduction(rates, reduction or self.reduction)
        return (value, counted) if self.get_not_nans else value


def _volume(dose: torch.Tensor) -> torch.Tensor:
    """A plain float32 (or float64) volume in memory."""
    dose = dose.detach().cpu()
    dose = dose if dose.dtype == torch.float64 else dose.float()
    return dose.as_tensor() if hasattr(dose, "as_tensor") else dose
