"""An exponential moving average of the weights: smoother, and usually better, than the last ones."""

from __future__ import annotations

from copy import deepcopy

import torch
from ignite.engine import Engine, Events
from torch import nn


def averaged_copy(network: nn.Module, decay: float) -> nn.Module:
    """A copy of ``network`` that :class:`WeightAverage` keeps up to date; ``network`` itself when ``decay`` is 0."""
    return network if decay == 0 else deepcopy(network).requires_grad_(False)


class WeightAverage:
    """After every step move ``averaged``'s weights towards ``network``'s: ``a = d a + (1 - d) w``.

    At step t, ``d = min(decay, (1 + t) / (10 + t))``, so that the start is soon forgotten.
    """

    def __init__(self, network: nn.Module, averaged: nn.Module, decay: float) -> None:
        self.averaged: list[torch.Tensor] = list(averaged.parameters())
        self.current: list[torch.Tensor] = list(network.parameters())
        self.decay = decay

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        step = engine.state.iteration
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averaged, self.current, 1.0 - decay)
