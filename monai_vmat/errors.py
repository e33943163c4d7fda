"""The one error that bad input raises."""

from __future__ import annotations

from pathlib import Path

_LONGEST = 400


class InputError(ValueError):
    """Something a user gave (a file, a folder, a setting) cannot be used.

    Args:
        where: the file, folder or setting.
        problem: the field, what was expected of it and what was found.
        mend: what to do about it.

    The message is one line, and short: of a problem or mend of more than 400 characters the middle is left out of it.
    """

    def __init__(self, where: str | Path, problem: str = "", mend: str = "") -> None:
        # PyTorch raises an error of a worker process again as type(error)(text): then ``where`` is the whole text.
        super().__init__(f"{_shown(str(where))}: {_short(problem)}. {_short(mend)}" if problem else str(where))
        self.where, self.problem, self.mend = str(where), problem, mend

    def __reduce__(self):  # exceptions cross process borders by pickling; the default would pass one argument for three
        return type(self), (self.where, self.problem, self.mend)


def _shown(text: str) -> str:
    """``text``, which may quote a file, on one line: what cannot be printed as its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _short(text: str) -> str:
    """The same without the middle of what is endless: a file may hold any amount of nonsense."""
    text = _shown(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError that ``error`` is or was raised from: MONAI wraps ours, several times over."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error
