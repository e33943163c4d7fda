"""A progress bar for each epoch."""

from __future__ import annotations

from ignite.engine import Engine, Events
from tqdm import tqdm

from monai_vmat.distributed import is_first


class Progress:
    """Show how far the engine's epoch is, and for a trainer the running mean of the loss; of several processes, the first's."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        if not is_first():
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.TERMINATE, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Engine) -> None:
        self._loss_sum = 0.0
        epochs = f" {engine.state.epoch}/{engine.state.max_epochs}" if self.description == "Training" else ""
        self._bar = tqdm(total=engine.state.epoch_length, desc=self.description + epochs, mininterval=1.0, leave=False)

    def _step(self, engine: Engine) -> None:
        if self._bar is None:
            return
        self._bar.update()
        if isinstance(engine.state.output, dict) and "loss" in engine.state.output:
            self._loss_sum += float(engine.state.output["loss"].detach())
            self._bar.set_postfix_str(f"loss {self._loss_sum / self._bar.n:.4f}", refresh=False)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._end(engine)  # so that what is told begins a line of its own
        raise error

    def _end(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
