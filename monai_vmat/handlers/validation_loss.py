"""Ignite metric: the training loss on whole validation cases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ignite.metrics import Metric


class ValidationLoss(Metric):
    """Mean over cases of ``loss(pred, reference)``, on the dose that a user would get (whole grid, finished)."""

    def __init__(self, loss: Callable) -> None:
        self.loss = loss
        super().__init__()

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    @torch.no_grad()
    def update(self, output: list[dict]) -> None:
        for case in output:
            reference = {name: value[None] for name, value in case["label"].items()}
            self._sum += float(self.loss(torch.as_tensor(case["pred"])[None], reference))
            self._count += 1

    def compute(self) -> float:
        return self._sum / self._count
