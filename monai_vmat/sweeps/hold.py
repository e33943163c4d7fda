"""One process at a time."""

from __future__ import annotations

import fcntl
import time
from typing import IO


def hold(file: IO, wait_s: float = 0.0) -> bool:
    """Lock an open file, one that this process may write, until it is closed; where the file system has no locks, do nothing.

    Returns:
        False when another process holds it, and still does after ``wait_s`` seconds.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.5)
        except OSError:
            return True
