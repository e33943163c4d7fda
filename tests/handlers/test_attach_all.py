"""A list of handlers as one handler."""

from ignite.engine import Engine, Events

from monai_vmat.handlers.attach_all import AttachAll


def test_all_are_attached_in_order():
    said = []

    class Says:
        def __init__(self, word):
            self.word = word

        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: said.append(self.word))

    engine = Engine(lambda engine, batch: None)
    AttachAll([Says("a"), Says("b")]).attach(engine)
    engine.run([0])
    assert said == ["a", "b"]
    AttachAll([]).attach(engine)
