"""Lets a program die at a moment of its work with files: loaded by every process of it before anything else.

Python reports what it does with files to audit hooks. Each report about a path in the watched folder is an event, counted
over all processes of the program (a byte in a common file each); at the chosen one a thread waits a little, so that the moment
may fall into what follows, and kills the whole process group.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

VARIABLE = "MONAI_VMAT_CRASH"  # watched folder, file of the count, number of the event (0: none), seconds after it
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.chmod", "os.truncate")


def install() -> None:
    """Watch as the environment variable says."""
    watched, counter, number, delay = os.environ[VARIABLE].split(os.pathsep)
    count = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def hear(event: str, arguments: tuple) -> None:
        if event in EVENTS and any(isinstance(a, (str, os.PathLike)) and os.fspath(a).startswith(watched) for a in arguments):
            os.write(count, b".")
            if os.fstat(count).st_size == int(number):
                threading.Thread(target=_die, args=(float(delay),), daemon=True).start()
                time.sleep(float(delay) == 0)  # at once: nothing else happens

    sys.addaudithook(hear)


def _die(delay_s: float) -> None:
    time.sleep(delay_s)
    os.killpg(0, signal.SIGKILL)


def environment(folder: Path, counter: Path, number: int = 0, delay_s: float = 0.0) -> dict[str, str]:
    """What the environment of a program has to have."""
    return {VARIABLE: os.pathsep.join((str(folder), str(counter), str(number), str(delay_s)))}
