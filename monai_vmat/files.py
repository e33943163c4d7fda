"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai_vmat.errors import InputError

MAX_JSON_BYTES = 256 * 1024**2  # the results of ten thousand cases
_SUFFIX = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it takes ``path``'s place in one step.

    When the block fails, or the process dies in it, whatever was at ``path`` stays as it was. What a process that died has left
    goes when ``path`` is written again. Folders are made as needed.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with _temporary(path) as temporary:
            yield temporary
            _to_disk(temporary)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    except InputError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise unwritable(path, refusal) from error


def write_secret(path: str | Path, text: str) -> None:
    """Write text for the file's owner alone, whole or not at all; a file that is there stays, whoever made it in between.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with _temporary(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            _to_disk(temporary)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, locked while it is written; in the end it is removed, unless it was renamed."""
    temporary, handle = _new(path)
    while not temporary.exists():  # another process took it for abandoned before it was locked
        os.close(handle)
        temporary, handle = _new(path)
    try:
        yield temporary
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def _new(path: Path) -> tuple[Path, int]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
    with contextlib.suppress(OSError):  # where the file system has no locks, nothing is ever taken for abandoned
        fcntl.flock(handle, fcntl.LOCK_EX)
    return Path(name), handle


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files that killed writers of ``path`` have left: living ones hold a lock."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        with contextlib.suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _refusal(error: BaseException | None) -> OSError | None:
    """What the disk said: libraries raise errors of their own on it (PyTorch, zipfile), or lengthen it (pydicom)."""
    found = error if isinstance(error, OSError) else None
    while error is not None:
        if isinstance(error, OSError) and (error.errno in _FULL or (error is found and error.strerror)):
            return error
        error = error.__cause__ or error.__context__
    return found


def unwritable(path: str | Path, error: OSError) -> InputError:
    """What to tell when the disk has refused to take a file."""
    return InputError(path, f"cannot be written ({error.strerror or error})", "Free space or choose another folder")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all. NaN is refused: JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_text(path: str | Path, max_bytes: int) -> str:
    """Read UTF-8 text.

    Raises:
        InputError: when it is missing, unreadable, no UTF-8, or larger than any such file is.
    """
    try:
        size = Path(path).stat().st_size
        if size > max_bytes:
            raise InputError(path, f"has {size} bytes, at most {max_bytes} were expected", "Check that it is the right file")
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", "Check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(path, f"cannot be read (no UTF-8 text: {error})", "Repair or remake the file") from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: when it is missing, unreadable or not JSON (NaN and Infinity are not).
    """
    text = read_text(path, MAX_JSON_BYTES)
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not valid JSON ({error})", "Repair or remake the file") from error


def text_around(path: str | Path, begin: str, end: str) -> tuple[str, str]:
    """What stands in a text file before the mark ``begin`` and after the mark ``end``: all but what a program writes there.

    Raises:
        InputError: when it cannot be read or lacks the marks, in this order.
    """
    before, found, rest = read_text(path, MAX_JSON_BYTES).partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(path, f"the lines {begin} and {end} were expected", "Write them where the program's text shall be")
    return before, after


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
