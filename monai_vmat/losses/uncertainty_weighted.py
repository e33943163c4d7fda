"""Weights that are learned beside the network: each loss by its own uncertainty."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_vmat.distributed import mean_over_processes
from monai_vmat.losses.composite import CompositeLoss


class UncertaintyWeightedLoss(CompositeLoss):
    """``sum of exp(-s) w L + s`` over the terms, each with its own learned log-variance s (Kendall et al. 2018).

    That is twice the paper's sum (doi:10.1109/CVPR.2018.00781), so that with s = 0, as training starts, it is what
    :class:`CompositeLoss` gives. The best s is ``log(w L)``: the weights ``w`` only say where learning starts. A term that is
    exactly 0 (nothing of it in the patch, or all its limits kept) adds nothing, nor does its s, which would fall for ever.
    The total may be negative. ``figures`` holds the factors ``exp(-s) w`` as ``<term>_weight``.

    In distributed training the gradients of s are averaged over the processes, since this module is no part of the network
    that DistributedDataParallel wraps. Give its parameters to the optimiser by :func:`parameter_groups` and save its
    ``state_dict`` with the run.

    Args:
        terms, weights: as of :class:`CompositeLoss`.
        fixed: terms that keep their weight; names that are no terms are ignored.
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float], fixed: Collection[str] = ("negative_dose",)
    ) -> None:
        super().__init__(terms, weights)
        learned = [name for name in terms if self.weights[name] != 0.0 and name not in fixed]
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})
        for parameter in self.log_variances.values():
            parameter.register_hook(mean_over_processes)

    def weighted_term(self, name: str, value: Tensor) -> Tensor:
        if name not in self.log_variances:
            return super().weighted_term(name, value)
        s = self.log_variances[name]
        factor = self.weights[name] * torch.exp(-s)
        self.figures[f"{name}_weight"] = factor.detach()
        return factor * value + s * (value.detach() != 0)


def parameter_groups(network: nn.Module, loss: UncertaintyWeightedLoss, learning_rate: float) -> list[dict[str, Any]]:
    """Groups for the optimiser: the network's parameters, then the learned log-variances, without weight decay.

    Args:
        network: the network; its group takes the optimiser's own settings.
        loss: the loss with its learned log-variances.
        learning_rate: of the log-variances. An optimiser like Adam moves them by about this much a step, and they have to
            go as far as the logarithm of a loss (7 for 0.001).
    """
    learned = {"params": list(loss.log_variances.parameters()), "lr": learning_rate, "weight_decay": 0.0}
    return [{"params": list(network.parameters())}, learned]
