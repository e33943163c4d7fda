"""The one error that bad input raises."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Something a user gave (a file, a folder, a setting) cannot be used.

    Args:
        where: the file, folder or setting.
        problem: the field, what was expected of it and what was found.
        mend: what to do about it.
    """

    def __init__(self, where: str | Path, problem: str = "", mend: str = "") -> None:
        # PyTorch raises an error of a worker process again as type(error)(text): then ``where`` is the whole text.
        super().__init__(f"{where}: {problem}. {mend}" if problem else str(where))
        self.where, self.problem, self.mend = str(where), problem, mend

    def __reduce__(self):  # exceptions cross process borders by pickling; the default would pass one argument for three
        return type(self), (self.where, self.problem, self.mend)


def find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError that ``error`` is or was raised from: MONAI wraps ours, several times over."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error
