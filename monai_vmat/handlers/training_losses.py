"""Means of the loss and its components over each training epoch."""

from __future__ import annotations

from collections import defaultdict

from ignite.engine import Engine, Events

from monai_vmat.losses.composite import CompositeLoss


class TrainingLosses:
    """Put ``train/loss``, ``train/<component>`` (unweighted) and ``train/<component>_weighted`` into the trainer's metrics.

    Components are averaged over the steps in which they were computed. A loss that is not finite ends the run with the case
    ids of its batch.

    Raises:
        FloatingPointError: when the loss is NaN or infinite.
    """

    def __init__(self, loss: CompositeLoss) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def _step(self, engine: Engine) -> None:
        loss = float(engine.state.output["loss"].detach())
        if not abs(loss) < float("inf"):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {engine.state.epoch}; cases: {engine.state.batch['case_id']}"
            )
        values = {"loss": loss}
        for name, component in self.loss.components.items():
            values[name] = float(component)
            values[f"{name}_weighted"] = self.loss.weights[name] * float(component)
        for name, value in values.items():
            self._sums[name] += value
            self._counts[name] += 1

    def _end(self, engine: Engine) -> None:
        engine.state.metrics |= {f"train/{name}": total / self._counts[name] for name, total in self._sums.items()}
