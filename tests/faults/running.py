"""Programs as processes that can be killed."""

from __future__ import annotations

import importlib
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from . import crash_hook
from .crash_programs import ROOT, Program

HOOK = Path(__file__).parent / "crash_site"  # has a sitecustomize.py, which Python imports first


def preload() -> None:
    """Import what the bundle's programs need, without starting a thread: forks would wait for it for ever, as they would for
    those that PyTorch would start for a comparison of results."""
    torch.set_num_threads(1)
    for name in ("monai.bundle", "monai.engines", "monai.handlers", "monai_vmat.handlers.dashboard", "monai_vmat.inputs"):
        importlib.import_module(name)
    for name in ("dashboard", "run_record", "case_metrics", "progress", "training_checkpoint", "save_prediction"):
        importlib.import_module(f"monai_vmat.handlers.{name}")


class Running:
    """A program that has been started, in a process group of its own.

    Args:
        program: what to run.
        log: where its output goes.
        events: of :func:`tests.faults.crash_hook.environment`; nothing is watched without.
        limit_bytes: no file that it writes gets larger.
    """

    def __init__(
        self, program: Program, log: Path, events: Mapping[str, str] | None = None, limit_bytes: int | None = None
    ) -> None:
        paths = [*([str(HOOK)] if events else []), str(ROOT)]
        settings = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(paths), **(events or {})}
        environment = os.environ | settings
        if limit_bytes is not None:  # the measurement's own files must not meet the limit
            environment.pop("COVERAGE_PROCESS_CONFIG", None)
        limit = resource.RLIM_INFINITY if limit_bytes is None else limit_bytes
        with open(log, "wb") as told:
            if program.forked:
                self.pid = os.fork()
                if self.pid == 0:
                    _become(program.arguments, settings, told.fileno(), limit)
                self._process = None
            else:
                self._process = subprocess.Popen(
                    [sys.executable, *program.arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=told,
                    stderr=told,
                    start_new_session=True,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
                )
                self.pid = self._process.pid

    def lives(self) -> bool:
        """Whether it has not ended yet; its exit status is still to be had."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, limit_s: float) -> int | None:
        """The exit status, negative after a signal; None when it runs longer."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self._process is not None:
                if self._process.poll() is not None:
                    return self._process.returncode
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return None


def _become(arguments: Sequence[str], settings: Mapping[str, str], told: int, limit: int) -> None:
    """In a fork: run ``python -m MODULE ARGUMENTS`` and end."""
    status = 1
    try:
        os.setsid()
        os.dup2(told, 1)
        os.dup2(told, 2)
        os.chdir(ROOT)
        os.environ.update(settings)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if crash_hook.VARIABLE in settings:
            crash_hook.install()
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
