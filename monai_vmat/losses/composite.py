"""Several losses, weighted and added, each value kept for the logs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from monai_vmat.errors import InputError


class CompositeLoss(nn.Module):
    """``sum of weights[name] * terms[name](...)``.

    Each term is a module whose ``forward`` takes ``pred`` and, by name, what it needs of the reference: ``dose``,
    ``region``, ``structures``, ``prescription_gy``, ``spacing_mm``, ``signed_distance_mm``. So a term stands alone in any
    PyTorch loop, and adding one here is one entry in ``terms`` and one in ``weights``.

    After each forward pass ``components`` holds every term's unweighted value and ``weighted`` what it added to the total;
    ``figures`` and ``counts`` hold under ``<term>_<name>`` what terms with attributes ``figures`` (scalars to be averaged)
    and ``counts`` (whole numbers to be added up) say of themselves. All detached.

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
        self._start()

    def _start(self) -> None:
        self.components: dict[str, Tensor] = {}
        self.weighted: dict[str, Tensor] = {}
        self.figures: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def forward(self, pred: Tensor, reference: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum, a scalar.

        Args:
            pred: (B, 1, X, Y, Z), fractions of the prescription.
            reference: what the terms need, by name (see ``engines.PrepareDoseBatch``).

        Raises:
            InputError: when a term needs what the reference lacks.
        """
        total = pred.new_zeros(())
        self._start()
        for name, term in self.terms.items():
            if self.weights[name] == 0.0:
                continue
            missing = [key for key in self._needs[name] if key not in reference]
            if missing:
                mend = "Let the batch have it (for signed_distance_mm: --prepare_batch#signed_distances true)"
                raise InputError(f"loss term '{name}'", f"needs {missing}, which the batch lacks", mend)
            value = term(pred, *(reference[key] for key in self._needs[name]))
            weighted = self.weighted_term(name, value)
            self.components[name] = value.detach()
            self.weighted[name] = weighted.detach()
            self.figures |= {f"{name}_{key}": figure for key, figure in getattr(term, "figures", {}).items()}
            self.counts |= {f"{name}_{key}": count for key, count in getattr(term, "counts", {}).items()}
            total = total + weighted
        return total

    def weighted_term(self, name: str, value: Tensor) -> Tensor:
        """What the term ``name``, being ``value``, adds to the total."""
        return self.weights[name] * value
