"""Stop when the validation has not improved for long."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class EarlyStop:
    """End the training when the validator's best epoch lies ``patience`` epochs back.

    Nothing is counted here: best epoch and epoch are in the engines' states, so a resumed run stops where the undisturbed
    one would have.
    """

    def __init__(self, validator: Engine, patience: int) -> None:
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_validation)

    def _after_validation(self, engine: Engine) -> None:
        if self.validator.state.epoch == engine.state.epoch:
            self(engine)

    def __call__(self, engine: Engine) -> None:
        best = self.validator.state.best_metric_epoch
        if best > 0 and engine.state.epoch - best >= self.patience:
            logger.info(f"No improvement since epoch {best}: stopping at epoch {engine.state.epoch}")
            engine.terminate()
