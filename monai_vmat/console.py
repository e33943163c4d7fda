"""What command lines say: plain lines, tables, and one clear line for an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from types import TracebackType

from monai_vmat.errors import InputError, find_input_error

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
    of another process that this one works with.

    For programs whose ``main`` is not ours: MONAI's bundle commands raise a RuntimeError from ours, with a long traceback.
    """

    from monai_vmat.distributed import lost_process  # PyTorch takes seconds to import, and other command lines need none

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = find_input_error(error)
        if cause is not None:
            last_line = str(cause).strip().splitlines()[-1]  # an error out of a worker process carries its traceback
            sys.stderr.write(f"error: {last_line.removeprefix('monai_vmat.errors.InputError: ')}\n")
        elif lost_process(error):
            sys.stderr.write(f"error: {_LOST}\n")
        else:
            sys.__excepthook__(kind, error, trace)
        sys.stderr.flush()

    sys.excepthook = hook


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command line's ``main``; bad input ends it with one line on standard error and exit status 2, Ctrl-C with 130."""
    try:
        status = main()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = 130
    sys.exit(status)
