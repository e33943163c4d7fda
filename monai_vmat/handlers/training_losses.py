"""Means of the loss and its components over each training epoch."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from ignite.engine import Engine, Events

from monai_vmat.distributed import gather
from monai_vmat.losses.composite import CompositeLoss

logger = logging.getLogger(__name__)


class TrainingLosses:
    """Put ``train/loss``, ``train/<component>`` (unweighted) and ``train/<component>_weighted`` into the trainer's metrics.

    Components, and the figures that they give of themselves, are averaged over the steps (of all processes) in which they
    were computed; counts are added up over the epoch, and the log says how many structures the losses left out.
    """

    def __init__(self, loss: CompositeLoss) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps: dict[str, int] = defaultdict(int)
        self._counts: dict[str, int] = defaultdict(int)

    def _step(self, engine: Engine) -> None:
        values: dict[str, Any] = {"loss": engine.state.output["loss"].detach(), **self.loss.components, **self.loss.figures}
        values |= {f"{name}_weighted": value for name, value in self.loss.weighted.items()}
        for name, value in values.items():
            self._sums[name] += float(value)
            self._steps[name] += 1
        for name, count in self.loss.counts.items():
            self._counts[name] += count

    def _end(self, engine: Engine) -> None:
        sums, steps, self._counts = (_added(gather(dict(d))) for d in (self._sums, self._steps, self._counts))
        means = {name: total / steps[name] for name, total in sums.items()}
        engine.state.metrics |= {f"train/{name}": float(value) for name, value in {**means, **self._counts}.items()}
        self._tell("skipped", "were left out for having too few voxels in the patch")
        self._tell("cut", "touch the border: their DVH is that of the part in the patch")

    def _tell(self, kind: str, meaning: str) -> None:
        terms = [name.removesuffix(f"_{kind}") for name, count in self._counts.items() if name.endswith(f"_{kind}") and count]
        parts = [f"{term}: {self._counts[f'{term}_{kind}']} of {self._counts[f'{term}_structures']}" for term in terms]
        if parts:
            logger.info(f"Structures that {meaning} ({', '.join(parts)})")


def _added(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the processes counted, name by name: a term may be in one process's steps only."""
    return {name: sum(part.get(name, 0) for part in parts) for name in dict.fromkeys(chain.from_iterable(parts))}
