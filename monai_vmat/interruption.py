"""Ctrl-C and SIGTERM end a command like any other error: what is open is closed, and the exit status says which it was."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONCE_S = 1.0  # timeout, torchrun and terminals send the same twice

_heard_s = float("-inf")


class Interrupted(KeyboardInterrupt):
    """Someone wants the process to end. Notes (``add_note``) say what is left to go on from."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum

    def __str__(self) -> str:
        return ": ".join(["interrupted", *getattr(self, "__notes__", ["what is written is whole; start it again to go on"])])


def hear_interruptions() -> None:
    """From now on Ctrl-C and SIGTERM raise :class:`Interrupted` in the main thread, wherever it is.

    Signals that whoever started the process wants ignored (nohup, a shell's background jobs) stay ignored. Other threads,
    which cannot set handlers, leave everything as it is.
    """
    if threading.current_thread() is threading.main_thread():
        for signum in _SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, _raise)


def ignore_interruptions() -> None:
    """The process is ending anyway."""
    if threading.current_thread() is threading.main_thread():
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_IGN)


def _raise(signum: int, frame: FrameType | None) -> None:
    global _heard_s
    now_s = time.monotonic()
    if now_s - _heard_s > _ONCE_S:
        _heard_s = now_s
        raise Interrupted(signum)
