"""One bad patch must not throw the weights away."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents


class GradientClip:
    """Scale the gradients of ``network`` down to ``max_norm`` (L2 over all parameters) before the optimiser's step.

    Raises:
        FloatingPointError: when it is NaN or infinite, naming the batch's cases: such a step would spoil the weights.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradients' norm is {float(norm)} in epoch {engine.state.epoch}; cases: {engine.state.batch['case_id']}"
            )
