"""TensorBoard holds every number of the run and a figure per validation."""

import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_vmat.case import write_case
from monai_vmat.handlers.dashboard import Dashboard
from monai_vmat.masks import pack_masks
from monai_vmat.transforms.load_case import case_masks


def test_scalars_and_figure(tmp_path, prostate, make_case):
    case = make_case(prostate)
    write_case(case, tmp_path / "a.npz")
    dose = torch.as_tensor(case.dose_gy / 70)[None]
    structures = torch.as_tensor(pack_masks(case_masks(case, prostate), prostate))[None]

    def validate(engine, batch):
        engine.state.batch = [{"case": str(tmp_path / "a.npz"), "case_id": "a", "spacing_mm": torch.tensor(case.spacing_mm)}]
        return [{"pred": 0.9 * dose, "label": {"dose": dose, "structures": structures}}]

    validator = Engine(validate)
    validator.state.epoch = 0
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    trainer = Engine(lambda engine, batch: engine.state.metrics.update({"train/loss": 3.0 - engine.state.epoch}))

    def run_validation(engine):
        validator.state.epoch, validator.state.max_epochs = engine.state.epoch - 1, engine.state.epoch
        validator.state.iteration = 0
        validator.run([0], max_epochs=engine.state.epoch)
        validator.state.metrics = {"val/mae_gy": 0.25}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, run_validation)
    Dashboard(tmp_path / "run", protocol=prostate, optimizer=optimizer, validator=validator).attach(trainer)
    trainer.run([0], max_epochs=2)

    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [e.value for e in events.Scalars("val/mae_gy")] == [0.25, 0.25] and events.Scalars("lr")[0].value == 0.5
    figures = events.Images("validation/a")
    assert [f.step for f in figures] == [1, 2] and figures[0].width > 500
    assert len(list((tmp_path / "run").glob("events*"))) == 1
