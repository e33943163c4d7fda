"""TensorBoard: every number of a run, and a patient to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from monai_vmat.case import Case, read_case
from monai_vmat.handlers.case_metrics import case_arrays
from monai_vmat.protocol import Protocol
from monai_vmat.reports.planes import three_planes


class Dashboard:
    """Write losses, learning rate and validation metrics per epoch, and per validation a figure of one patient.

    The figure shows three planes through the primary target: CT with contours, reference, prediction, difference. The
    patient is the first of the validation list. A resumed run's later events replace those of epochs done twice.

    Args:
        folder: where the event file goes.
        protocol: names, colours and prescription.
        optimizer: for the learning rate.
        validator: the evaluator.
    """

    def __init__(self, folder: str | Path, *, protocol: Protocol, optimizer: torch.optim.Optimizer, validator: Engine) -> None:
        self.folder = folder
        self.protocol = protocol
        self.optimizer = optimizer
        self.validator = validator
        self._case: Case | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._scalars)
        engine.add_event_handler(Events.COMPLETED, self._close)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._figure)

    def _start(self, engine: Engine) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=engine.state.epoch + 1)

    def _scalars(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        values = {k: v for k, v in engine.state.metrics.items() if k.startswith("train/")}
        if self.validator.state.epoch == epoch:
            values |= {k: v for k, v in self.validator.state.metrics.items() if k.startswith("val/")}
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.add_scalar("lr", self.optimizer.param_groups[0]["lr"], epoch)
        self.writer.flush()

    def _figure(self, validator: Engine) -> None:
        if validator.state.iteration != 1:
            return
        item, out = validator.state.batch[0], validator.state.output[0]
        pred_gy, dose_gy, masks, spacing = case_arrays(item, out, self.protocol)
        if self._case is None:
            self._case = read_case(item["case"], self.protocol, spacing.tolist())
        masks = {name: mask for name, mask in masks.items() if name in self.protocol.structure_names}
        figure = three_planes(
            self._case.ct_hu, masks, {"reference": dose_gy, "prediction": pred_gy}, self.protocol, self._case.spacing_mm
        )
        self.writer.add_figure(f"validation/{item['case_id']}", figure, validator.state.epoch)

    def _close(self, engine: Engine) -> None:
        self.writer.close()
