"""What command lines say: plain lines, tables, and one clear line for an error."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from types import TracebackType

from monai_vmat.errors import InputError, find_input_error
from monai_vmat.interruption import Interrupted, hear_interruptions, ignore_interruptions

_LOST = (
    "another process of this run has ended: its own message, or torchrun's Root Cause, says why. A training goes on after its "
    "last whole epoch by itself under torchrun --max-restarts=N, otherwise with --resume true"
)


def say(text: str = "") -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An aligned text table: the first column to the left, the others to the right; floats with two decimals."""

    def cell(value: object) -> str:
        if value is None:
            return "-"
        return f"{value:.2f}" if isinstance(value, Real) and not isinstance(value, Integral) else str(value)

    lines = [[cell(v) for v in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))) for line in lines]
    text.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(t.rstrip() for t in text)


def plain_errors() -> None:
    """From now on let bad input end the process with one line and exit status 1, whoever wrapped the error; so does the end
    of another process that this one works with. Ctrl-C and SIGTERM end it with one line and exit status 130 or 143.

    For programs whose ``main`` is not ours: MONAI's bundle commands raise a RuntimeError from ours, with a long traceback.
    """

    from monai_vmat.distributed import is_first, lost_process  # PyTorch takes seconds to import; other commands need none

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        ignore_interruptions()
        cause = find_input_error(error)
        if isinstance(error, Interrupted):
            if is_first():
                # The true one: torch.distributed's hook, around this one, shows what it has caught only after a return.
                (sys.__stderr__ or sys.stderr).write(f"{error}\n")
            sys.exit(error.status)
        if cause is not None:
            last_line = str(cause).strip().splitlines()[-1]  # an error out of a worker process carries its traceback
            sys.stderr.write(f"error: {last_line.removeprefix('monai_vmat.errors.InputError: ')}\n")
        elif lost_process(error):
            sys.stderr.write(f"error: {_LOST}\n")
        else:
            sys.__excepthook__(kind, error, trace)
        sys.stderr.flush()

    sys.excepthook = hook
    threading.excepthook = _thread_hook
    for handler in logging.getLogger().handlers:
        handler.addFilter(_no_echo)
    hear_interruptions()


def _thread_hook(ended: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer is a thread, whose end on a full disk is raised again where the next value is written."""
    if not (isinstance(ended.exc_value, OSError) and type(ended.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(ended)


def _no_echo(record: logging.LogRecord) -> bool:
    """Whether a log line is more than Ignite's remark that an error passes through an engine, which the hook will tell."""
    passing = sys.exc_info()[1]
    told = isinstance(passing, Interrupted) or find_input_error(passing) is not None
    return not (told and record.name.startswith("ignite.engine"))


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command line's ``main``. Bad input ends it with one line on standard error and exit status 2, Ctrl-C with one line
    and 130, SIGTERM with one line and 143."""
    hear_interruptions()
    try:
        status = main()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    except Interrupted as interruption:
        ignore_interruptions()
        sys.stderr.write(f"{interruption}\n")
        status = interruption.status
    sys.exit(status)
