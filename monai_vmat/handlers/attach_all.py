"""A place in a list of handlers for those that an overlay adds: overlays replace lists, and this list is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine


class AttachAll:
    """Attach every one of ``handlers``, in order."""

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = list(handlers)

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)
