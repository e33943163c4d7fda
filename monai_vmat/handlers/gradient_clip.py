"""One bad patch must not throw the weights away."""

from __future__ import annotations

import math

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monai_vmat.errors import InputError


class GradientClip:
    """Before the optimiser's step, scale the gradients of ``network`` down to ``max_norm`` (L2 over all parameters).

    Args:
        network: whose gradients.
        max_norm: 0 for none that is too large.

    Raises:
        InputError: when the loss or the norm is NaN or infinite, naming the batch's cases: such a step would spoil the weights.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm or math.inf

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        loss = engine.state.output["loss"].detach()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not torch.isfinite(loss + norm):  # one question to a GPU
            cases = ", ".join(dict.fromkeys(engine.state.batch["case_id"]))
            problem = f"in epoch {engine.state.epoch} the loss is {float(loss)}, the norm of its gradients {float(norm)}"
            mend = (
                "Look at them with data_scripts/verify_cases.py; when they are sound, go on with --resume true "
                "--max_gradient_norm 1, or train anew with a lower --learning_rate"
            )
            raise InputError(f"cases {cases}", problem, mend)
