"""The other half of adversarial training: the discriminator learns after every step of the network."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from monai_vmat.distributed import average_gradients, gather
from monai_vmat.losses.adversarial import least_squares


class DiscriminatorStep:
    """Once the network has made its step, one step of the discriminator on the same batch: ``(L(real) + L(predicted)) / 2``.

    The epoch's mean goes to the trainer's metrics as ``train/discriminator``. Discriminator and optimiser belong into the
    checkpoint (``also_saved`` in the configuration). Several processes average its gradients, as DistributedDataParallel does
    those of the network.

    Args:
        discriminator: the one that :class:`~monai_vmat.losses.adversarial.AdversarialLoss` asks.
        optimizer: of its parameters.
    """

    def __init__(self, discriminator: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.criterion = least_squares()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        self._sum, self._count = 0.0, 0

    def _step(self, engine: Engine) -> None:
        output = engine.state.output
        self.optimizer.zero_grad(set_to_none=True)
        real, predicted = (self.discriminator(d)[-1] for d in (output["label"]["dose"], output["pred"].detach().float()))
        loss = 0.5 * (self.criterion(real, True, True) + self.criterion(predicted, False, True))
        loss.backward()
        average_gradients(self.discriminator.parameters())
        self.optimizer.step()
        self._sum += float(loss.detach())
        self._count += 1

    def _end(self, engine: Engine) -> None:
        sums, counts = zip(*gather((self._sum, self._count)), strict=True)
        engine.state.metrics["train/discriminator"] = sum(sums) / sum(counts)
