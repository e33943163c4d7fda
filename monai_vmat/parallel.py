"""Work on many files in parallel processes, with a progress bar and a clean end."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from tqdm import tqdm

from monai_vmat.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """Give a command line ``--workers``: a number from 1, by default that of the machine's cores."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"a number from 1 was expected, got {text}")
        return int(text)

    parser.add_argument(
        "--workers", type=number, metavar="N", default=os.cpu_count() or 1, help="parallel processes (default: %(default)s)"
    )


def map_in_processes(work: Callable[[Item], Result], items: Sequence[Item], workers: int, unit: str) -> list[Result]:
    """``[work(item) for item in items]`` in fresh processes of one numeric thread each.

    After Ctrl-C or SIGTERM what is begun ends whole and what waits is not begun. Where this process is killed, its workers end
    at once.

    Args:
        work: a function of a module (it is pickled).
        items: its arguments.
        workers: processes at most.
        unit: what an item is, for the progress bar.

    Raises:
        InputError: when a process was killed.
    """
    if not items:
        return []
    for variable in _THREAD_VARIABLES:  # workers inherit them; libraries read them when they are first imported there
        os.environ.setdefault(variable, "1")
    with ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which workers inherit: only this process hears Ctrl-C
            results = pool.map(work, items)
            signal.signal(signal.SIGINT, handler)
            return list(tqdm(results, total=len(items), unit=unit))
        except BrokenProcessPool as error:
            raise InputError("--workers", "a process was killed (out of memory?)", "Use fewer and start again") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Workers of a killed process would wait for ever, and go on writing beside those of the next start."""
    parent = parent_process()
    assert parent is not None  # a worker has one

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
