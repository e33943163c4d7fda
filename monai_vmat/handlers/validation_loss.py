"""Ignite metric: the training loss on whole validation cases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ignite.engine import Engine
from ignite.metrics import Metric

from monai_vmat.distributed import SPARE, gather_dealt


class ValidationLoss(Metric):
    """Mean over cases of ``loss(pred, reference)``, on the dose that a user would get (whole grid, finished).

    Of several processes each takes its cases and all get the mean over all, the same to the bit.
    """

    def __init__(self, loss: Callable) -> None:
        self.loss = loss
        super().__init__()

    def reset(self) -> None:
        self._values: list[float] = []

    def iteration_completed(self, engine: Engine) -> None:
        cases = zip(engine.state.batch, engine.state.output, strict=True)
        self.update([out for item, out in cases if SPARE not in item])

    @torch.no_grad()
    def update(self, output: list[dict]) -> None:
        for case in output:
            reference = {name: value[None] for name, value in case["label"].items()}
            self._values.append(float(self.loss(torch.as_tensor(case["pred"])[None], reference)))

    def compute(self) -> float:
        values = gather_dealt(self._values)
        return sum(values) / len(values)
