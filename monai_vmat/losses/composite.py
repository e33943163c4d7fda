"""Several losses, weighted and added, each value kept for the logs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from monai_vmat.errors import InputError


class CompositeLoss(nn.Module):
    """``sum of weights[name] * terms[name](...)``.

    Each term is a module whose ``forward`` takes ``pred`` and, by name, what it needs of the reference: ``dose``,
    ``region``, ``structures``, ``prescription_gy``. So a term stands alone in any PyTorch loop, and adding one here is one
    entry in ``terms`` and one in ``weights``.

    Args:
        terms: losses by name.
        weights: factors by the same names; a term of weight 0 is not computed.

    Raises:
        InputError: when ``weights`` and ``terms`` name different things.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(terms) != set(weights):
            raise InputError(
                "loss",
                f"terms {sorted(terms)} and weights {sorted(weights)} must have the same names",
                "Give each term one weight",
            )
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self._needs = {name: list(inspect.signature(term.forward).parameters)[1:] for name, term in terms.items()}
        self.components: dict[str, Tensor] = {}

    def forward(self, pred: Tensor, reference: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum, a scalar; ``components`` then holds every term's unweighted value, detached.

        Args:
            pred: (B, 1, X, Y, Z), fractions of the prescription.
            reference: what the terms need, by name (see ``engines.PrepareBatch``).
        """
        total = pred.new_zeros(())
        self.components = {}
        for name, term in self.terms.items():
            if self.weights[name] == 0.0:
                continue
            value = term(pred, *(reference[key] for key in self._needs[name]))
            self.components[name] = value.detach()
            total = total + self.weights[name] * value
        return total
