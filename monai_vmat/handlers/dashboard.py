"""TensorBoard: every number of a run, a patient to look at, and what the run was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from monai_vmat import provenance
from monai_vmat.case import Case, read_case
from monai_vmat.dashboard.goals_table import goals_table
from monai_vmat.dashboard.hparams import session_end, session_start
from monai_vmat.dashboard.layout import custom_layout
from monai_vmat.dashboard.settings import compared_metrics, settings
from monai_vmat.dashboard.values import plan_values
from monai_vmat.distributed import is_first
from monai_vmat.files import unwritable
from monai_vmat.handlers.case_metrics import case_arrays
from monai_vmat.protocol import Protocol
from monai_vmat.reports.dvh_figure import dvh_figure
from monai_vmat.reports.gamma_planes import gamma_on_planes
from monai_vmat.reports.planes import default_center, three_planes


class Dashboard:
    """Write what TensorBoard shows of a run, into one event file (one more each time the run is resumed).

    * Scalars: per epoch the losses and the learning rate; per validation the validator's metrics (``val/...``), means over
      cases of DVH metrics, goals and gamma (:func:`~monai_vmat.dashboard.values.plan_values`), and, when it is the best so
      far, ``best/...``.
    * Custom scalars: charts of those by :func:`~monai_vmat.dashboard.layout.custom_layout`.
    * Images: the first patient of the validation list in three planes (CT with contours, reference, prediction, difference,
      gamma map), and that patient's DVH.
    * Text: the configuration, and the goals table of each validation.
    * HParams: the settings of :func:`~monai_vmat.dashboard.settings.settings`, with ``best/...`` as metrics.

    Attach it behind the handler that validates: it reads what the validation has left. A resumed run's later events replace
    those of epochs done twice. Of several processes the first writes.

    Args:
        folder: where the event file goes.
        protocol: names, colours, prescription and goals.
        optimizer: for the learning rate.
        validator: the evaluator, with :class:`~monai_vmat.handlers.case_metrics.CaseMetrics`.

    Raises:
        InputError: during the run, when the disk takes no more.
    """

    def __init__(self, folder: str | Path, *, protocol: Protocol, optimizer: torch.optim.Optimizer, validator: Engine) -> None:
        self.folder = folder
        self.protocol = protocol
        self.optimizer = optimizer
        self.validator = validator
        self.config = provenance.running_config()
        self.compared = compared_metrics(protocol)
        self._tags: set[str] = set()
        self._layout: dict[str, dict[str, list]] = {}
        self._case: Case | None = None

    def attach(self, engine: Engine) -> None:
        if not is_first():
            return
        engine.add_event_handler(Events.STARTED, self._or_tell, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._or_tell, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._or_tell, self._close)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._or_tell, self._figures)

    def _or_tell(self, engine: Engine, write: Callable[[Engine], None]) -> None:
        try:
            write(engine)
        except OSError as error:
            raise unwritable(Path(self.folder) / "events.out.tfevents...", error) from error

    def _start(self, engine: Engine) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=engine.state.epoch + 1)
        self._events = cast(Any, self.writer.file_writer)  # torch types it as None
        self.writer.add_text("resolved_configuration", _markdown(self.config), engine.state.epoch)
        for summary in session_start(settings(self.config), [f"best/{name}" for name in self.compared]):
            self._events.add_summary(summary)

    def _epoch(self, engine: Engine) -> None:
        epoch, validated = engine.state.epoch, self.validator.state
        values = {k: v for k, v in engine.state.metrics.items() if k.startswith("train/")}
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        if validated.epoch == epoch:
            found = {k: v for k, v in validated.metrics.items() if k.startswith("val/")}
            values |= found | plan_values(validated.case_results, self.protocol)
            if validated.best_metric_epoch == epoch:
                values |= {f"best/{name}": found[f"val/{name}"] for name in self.compared if f"val/{name}" in found}
            self.writer.add_text("goals", goals_table(validated.case_results, self.protocol), epoch)
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self._tags |= values.keys()
        layout = custom_layout(self._tags, self.protocol)
        if layout != self._layout:
            self.writer.add_custom_scalars(layout)
            self._layout = layout
        self.writer.flush()

    def _figures(self, validator: Engine) -> None:
        if validator.state.iteration != 1:
            return
        item, out = validator.state.batch[0], validator.state.output[0]
        pred_gy, dose_gy, masks, spacing = case_arrays(item, out, self.protocol)
        if self._case is None:
            self._case = read_case(item["case"], self.protocol, spacing.tolist())
        masks = {name: mask for name, mask in masks.items() if name in self.protocol.structure_names}
        case_id, epoch = item["case_id"], validator.state.epoch
        center = default_center(dose_gy.shape, masks, self.protocol)
        planes = three_planes(
            self._case.ct_hu,
            masks,
            {"reference": dose_gy, "prediction": pred_gy},
            self.protocol,
            self._case.spacing_mm,
            center=center,
            title=case_id,
            gamma=gamma_on_planes(dose_gy, pred_gy, spacing.tolist(), center),
            gamma_label="Gamma, 3 %/3 mm",
        )
        self.writer.add_figure(f"validation/{case_id}/planes", planes, epoch)
        doses = {name: (pred_gy[mask], dose_gy[mask]) for name, mask in masks.items()}
        self.writer.add_figure(f"validation/{case_id}/dvh", dvh_figure(doses, self.protocol, title=case_id), epoch)

    def _close(self, engine: Engine) -> None:
        self._events.add_summary(session_end())
        self.writer.close()


def _markdown(config: Mapping[str, Any]) -> str:
    """The configuration as a block of JSON; paths in the project start at its root, wherever that is on this machine."""
    text = json.dumps(config, indent=2)
    root = re.escape(json.dumps(config.get("project_root", "."))[1:-1])
    text = re.sub(rf'{root}(?=[/"])', ".", text)
    return f"```json\n{text}\n```"
