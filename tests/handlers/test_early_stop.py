"""Training ends ``patience`` epochs after the best one, resumed or not."""

from types import SimpleNamespace

from ignite.engine import Engine, Events

from monai_vmat.handlers.early_stop import EarlyStop


def run(best_epoch, start=0, patience=3, interval=1):
    validator = SimpleNamespace(state=SimpleNamespace(best_metric_epoch=best_epoch, epoch=0))

    def validate(engine, batch):
        if engine.state.epoch % interval == 0:
            validator.state.epoch = engine.state.epoch

    engine = Engine(validate)
    engine.state.epoch = start
    EarlyStop(validator, patience).attach(engine)
    epochs = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: epochs.append(e.state.epoch))
    engine.state.max_epochs, engine.state.epoch_length, engine.state.iteration = 20, 1, start
    engine.run([0])
    return epochs


def test_stops_when_patience_is_used_up():
    assert run(best_epoch=2)[-1] == 5


def test_a_resumed_run_that_had_stopped_stops_at_once():
    assert run(best_epoch=2, start=5) == []


def test_only_a_validation_can_stop():
    assert run(best_epoch=4, patience=2, interval=4)[-1] == 8


def test_no_validation_yet_never_stops():
    assert run(best_epoch=-1)[-1] == 20
