"""The gamma pass rate as an Ignite metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.handlers import IgniteMetricHandler

from monai_vmat.metrics.gamma3d import Gamma3D


class Gamma3DHandler(IgniteMetricHandler):
    """Mean gamma pass rate of an evaluator's cases, in percent; each case's in ``engine.state.metric_details``.

    Args:
        output_transform: gives (predictions, references) of ``engine.state.output``, both as :class:`Gamma3D` expects them:
            :class:`~monai_vmat.handlers.dose_pairs.DosePairs` in this bundle, ``monai.handlers.from_engine(["pred", "label"])``
            elsewhere.
        save_details: keep each case's value.
        options: those of :class:`Gamma3D`.
    """

    def __init__(self, output_transform: Callable, *, save_details: bool = True, **options: Any) -> None:
        super().__init__(metric_fn=Gamma3D(**options), output_transform=output_transform, save_details=save_details)
