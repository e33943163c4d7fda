"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai_vmat.errors import InputError

MAX_JSON_BYTES = 256 * 1024**2  # the results of ten thousand cases


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it takes ``path``'s place in one step.

    When the block fails, or the process dies in it, whatever was at ``path`` stays as it was. Folders are made as needed.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, "Free space or choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
