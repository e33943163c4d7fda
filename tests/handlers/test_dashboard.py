"""What TensorBoard finds of a run in its event file."""

import re
import resource
import threading

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from monai_vmat import provenance
from monai_vmat.case import write_case
from monai_vmat.errors import InputError
from monai_vmat.handlers.case_metrics import CaseMetrics
from monai_vmat.handlers.dashboard import Dashboard
from monai_vmat.masks import pack_masks
from monai_vmat.transforms.load_case import case_masks

CONFIG = {"experiment": "mine", "project_root": "/home/me/vmat", "dataset_dir": "/home/me/vmat/data", "out": "/home/me/vmat2/x"}
CONFIG |= {"seed": 7, "loss": {"weights": {"mse": 1.0}}}


@pytest.fixture
def cases(tmp_path, prostate, make_case):
    """Two patients, the second without bowel."""
    made = [make_case(prostate, case_id="a", seed=0), make_case(prostate, case_id="b", seed=1, absent=("Bowel",))]
    for case in made:
        write_case(case, tmp_path / f"{case.case_id}.npz")
    return made


@pytest.fixture
def train(tmp_path, prostate, cases, monkeypatch):
    """``train(epochs, start=0, validate=..., factor=...)``: a run of that many epochs in all; returns its events.

    In an epoch that is validated the predictions are ``factor(epoch)`` times the doses. Figures take seconds and are left out
    unless asked for.
    """
    monkeypatch.setattr(provenance, "running_config", lambda: CONFIG)

    def train(
        epochs, start=0, validate=lambda epoch: epoch > 1, factor=lambda epoch: 0.8 + 0.05 * epoch, loss=1.0, figures=False
    ):
        if not figures:
            monkeypatch.setattr(Dashboard, "_figures", lambda self, validator: None)

        def predict(engine, case):
            structures = torch.as_tensor(pack_masks(case_masks(case, prostate), prostate))[None]
            dose = torch.as_tensor(case.dose_gy / np.float32(70))[None]
            item = {"case": str(tmp_path / f"{case.case_id}.npz"), "case_id": case.case_id, "patient": case.patient}
            engine.state.batch = [item | {"spacing_mm": torch.tensor(case.spacing_mm)}]
            prescription = torch.tensor([case.prescription_gy[t.name] for t in prostate.targets])
            label = {"dose": dose, "structures": structures, "prescription_gy": prescription}
            return [{"pred": factor(engine.state.epoch) * dose, "label": label}]

        validator = Engine(predict)
        CaseMetrics(prostate).attach(validator, "val/mae_gy")
        validator.state.epoch, validator.state.best_metric, validator.state.best_metric_epoch = 0, np.inf, -1

        @validator.on(Events.EPOCH_COMPLETED)  # as MONAI's evaluators do
        def compare():
            if validator.state.metrics["val/mae_gy"] < validator.state.best_metric:
                validator.state.best_metric = validator.state.metrics["val/mae_gy"]
                validator.state.best_metric_epoch = validator.state.epoch

        trainer = Engine(lambda engine, batch: engine.state.metrics.update({"train/loss": loss, "train/mse_weighted": loss}))
        trainer.state.epoch = trainer.state.iteration = start
        trainer.state.max_epochs, trainer.state.epoch_length = epochs, 1

        @trainer.on(Events.EPOCH_COMPLETED(lambda engine, epoch: validate(epoch)))
        def run_validation():
            validator.state.iteration, validator.state.epoch = 0, trainer.state.epoch - 1
            validator.state.max_epochs = trainer.state.epoch
            validator.run(cases, max_epochs=trainer.state.epoch)

        optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.5)
        Dashboard(tmp_path / "run", protocol=prostate, optimizer=optimizer, validator=validator).attach(trainer)
        trainer.run([0])
        return read(tmp_path / "run")

    return train


def read(folder):
    return EventAccumulator(str(folder), {"tensors": 0, "images": 0}).Reload()


def scalar(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


def text(events, tag):
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{tag}/text_summary")}


def test_scalars_of_every_epoch_and_of_validations(train, tmp_path):
    events = train(3, validate=lambda epoch: epoch == 2)
    assert scalar(events, "train/loss") == {1: 1.0, 2: 1.0, 3: 1.0} and scalar(events, "lr") == {1: 0.5, 2: 0.5, 3: 0.5}
    assert list(scalar(events, "val/mae_gy")) == list(scalar(events, "gamma/Body")) == [2]
    assert len(list((tmp_path / "run").rglob("*tfevents*"))) == 1


def test_values_are_means_of_the_cases(train, cases):
    events = train(2)
    target = [np.percentile(c.dose_gy[c.structures["PTV70"]], 5) for c in cases]
    assert scalar(events, "dvh/PTV70_D95/reference")[2] == pytest.approx(np.mean(target), rel=1e-5)
    assert scalar(events, "dvh/PTV70_D95/predicted")[2] == pytest.approx(0.9 * np.mean(target), rel=1e-5)
    rectum = [c.dose_gy[c.structures["Rectum"]] for c in cases]
    volumes = {
        which: np.mean([100 * np.mean(k * dose >= 50) for dose in rectum])
        for which, k in (("reference", 1), ("predicted", 0.9))
    }
    assert volumes["predicted"] < volumes["reference"]
    for which, expected in {**volumes, "limit": 50.0}.items():
        assert scalar(events, f"goals/Rectum_V50Gy/{which}")[2] == pytest.approx(expected, rel=1e-5)
    bowel = cases[0].dose_gy[cases[0].structures["Bowel"]].max()  # the other has none
    assert scalar(events, "dvh/Bowel_Dmax/reference")[2] == pytest.approx(bowel, rel=1e-5)
    assert 0 < scalar(events, "gamma/PTV70+5mm")[2] == scalar(events, "val/gamma_pass_rate_PTV70+5mm")[2] < 100
    assert scalar(events, "gamma/whole_volume")[2] == scalar(events, "val/gamma_pass_rate")[2]


def test_best_is_that_of_the_best_validation(train):
    events = train(4, factor=lambda epoch: {2: 0.8, 3: 0.95, 4: 0.9}[epoch])
    for name in ("mae_gy", "gamma_pass_rate", "PTV70_D95_abs_gap_gy", "goal_agreement_percent"):
        assert scalar(events, f"best/{name}") == {step: scalar(events, f"val/{name}")[step] for step in (2, 3)}


def test_figures_of_the_first_patient(train):
    events = train(3, figures=True)
    assert events.Tags()["images"] == ["validation/a/planes", "validation/a/dvh"]
    planes, dvh = (events.Images(tag) for tag in events.Tags()["images"])
    assert [p.step for p in planes] == [d.step for d in dvh] == [2, 3]
    assert planes[0].width > 5 * 300 and dvh[0].width > 500  # five columns: gamma is there
    assert planes[0].encoded_image_string != planes[1].encoded_image_string


def test_the_layout_names_what_is_there_and_is_written_when_it_changes(train):
    events = train(4)
    written = [layout_pb2.Layout.FromString(e.tensor_proto.string_val[0]) for e in events.Tensors("custom_scalars__config__")]
    assert [[category.title for category in layout.category] for layout in written] == [
        ["Loss"],
        ["Loss", "Dose error", "Targets", "Organs against limits", "Gamma"],
    ]
    expressions = [e for category in written[-1].category for chart in category.chart for e in chart.multiline.tag]
    assert len(expressions) > 40
    assert [e for e in expressions if not any(re.match(e, tag) for tag in events.Tags()["scalars"])] == []


def test_settings_and_metrics_of_the_hparams_tab(train):
    events = train(2)

    def content(tag):
        return events.SummaryMetadata(tag).plugin_data.content

    start = hparams.parse_session_start_info_plugin_data(content(hparams.SESSION_START_INFO_TAG))
    assert start.hparams["experiment"].string_value == "mine" and start.hparams["seed"].number_value == 7
    metrics = {info.name.tag for info in hparams.parse_experiment_plugin_data(content(hparams.EXPERIMENT_TAG)).metric_infos}
    assert {"best/mae_gy", "best/gamma_pass_rate"} < metrics <= set(events.Tags()["scalars"])
    assert hparams.parse_session_end_info_plugin_data(content(hparams.SESSION_END_INFO_TAG)).status == api_pb2.STATUS_SUCCESS


def test_a_run_that_broke_off_shows_what_it_has(train, tmp_path):
    def crash(epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        train(3, validate=crash)
    events = read(tmp_path / "run")
    assert list(scalar(events, "best/mae_gy")) == [1, 2] and hparams.SESSION_START_INFO_TAG in events.summary_metadata
    assert hparams.SESSION_END_INFO_TAG not in events.summary_metadata


def test_text(train, cases):
    events = train(3)
    config = text(events, "resolved_configuration")
    assert list(config) == [0] and '"seed": 7' in config[0]
    assert '"dataset_dir": "./data"' in config[0] and '"project_root": "."' in config[0]
    assert '"out": "/home/me/vmat2/x"' in config[0]  # another folder
    goals = text(events, "goals")
    assert list(goals) == [2, 3]
    predicted = [0.95 * np.percentile(c.dose_gy[c.structures["PTV70"]], 5) for c in cases]
    (row,) = [line for line in goals[3].splitlines() if line.startswith("| PTV70 | D95 >= 66.5 Gy |")]
    assert f"| {np.mean(predicted):.1f} Gy |" in row and f"| {sum(p >= 66.5 for p in predicted)} of 2 |" in row


def test_a_resumed_run_replaces_what_is_done_twice(train):
    train(3, loss=1.0)
    events = train(4, start=1, loss=2.0)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    assert [e.step for e in events.Scalars("goals/PTV70_D95/limit")] == [2, 3, 4]
    assert list(text(events, "resolved_configuration")) == [0, 1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_told_in_one_line(train):
    before, threads = resource.getrlimit(resource.RLIMIT_FSIZE), set(threading.enumerate())
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(InputError, match=r"run/events\S+: cannot be written \(File too large\)"):
            train(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for writer in set(threading.enumerate()) - threads:  # it fails on its own, and its warning is this test's
        writer.join(10)
