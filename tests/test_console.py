import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from monai_vmat import interruption
from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError


def test_say(capsys):
    say("one")
    say()
    assert capsys.readouterr().out == "one\n\n"


def test_table():
    rows = [("PTV70", 70, 1.005, None), ("Bladder", -1, np.float32(12.3456), True)]
    assert table(("", "n", "Gy", "met"), rows) == (
        "          n     Gy   met\n"
        "-------  --  -----  ----\n"
        "PTV70    70   1.00     -\n"
        "Bladder  -1  12.35  True"
    )  # fmt: skip
    assert table(("a", "bcd"), []) == "a  bcd\n-  ---"


def bad_input():
    raise InputError("a.npz", "array 'ct' is missing", "Convert again")


def end_by(signum):
    """A main that is sent a signal, twice at once as some launchers do, and still closes what is open."""

    def main():
        try:
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)
            threading.Event().wait(10)
        finally:
            sys.stderr.write("closed\n")

    return main


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    """Interruptions are heard, however short ago the last was and in the background of a shell, too."""
    monkeypatch.setattr(interruption, "_heard_s", float("-inf"))
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)


SAID = "closed\ninterrupted: what is written is whole; start it again to go on\n"


@pytest.mark.parametrize(
    ("main", "status", "text"),
    [
        (lambda: None, None, ""),
        (lambda: 3, 3, ""),
        (bad_input, 2, "error: a.npz: array 'ct' is missing. Convert again\n"),
        (end_by(signal.SIGINT), 130, SAID),
        (end_by(signal.SIGTERM), 143, SAID),
    ],
)
def test_exit_status_and_standard_error(capsys, main, status, text):
    with pytest.raises(SystemExit) as exit:
        run_command(main)
    assert exit.value.code == status
    assert capsys.readouterr().err == text


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("error", ["InputError('a.npz', 'is bad', 'Mend it')", "KeyError('bug')"])
def test_plain_errors(error, wrapped):
    program = (
        "from monai_vmat.console import plain_errors\n"
        "from monai_vmat.errors import InputError\n"
        "plain_errors()\n"
        f"try:\n    raise {error}\n"
        f"except Exception as error:\n    raise {'RuntimeError() from error' if wrapped else ''}\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    if "InputError" in error:
        assert run.stderr == "error: a.npz: is bad. Mend it\n"
    else:
        assert "Traceback" in run.stderr and "KeyError" in run.stderr


@pytest.mark.parametrize(("signum", "noted"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_plain_interruptions(signum, noted):
    """What Ignite's engines log of it is not heard."""
    program = (
        "import os, logging\n"
        "logging.basicConfig()\n"
        "from ignite.engine import Engine, Events\n"
        "from monai_vmat.console import plain_errors\n"
        "plain_errors()\n"
        "engine = Engine(lambda engine, batch: None)\n"
        f"engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: os.kill(os.getpid(), {int(signum)}))\n"
        "try:\n    engine.run([0])\n"
        "except KeyboardInterrupt as error:\n"
        f"    {'error.add_note(chr(65))' if noted else 'pass'}\n    raise\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.returncode == 128 + signum
    assert run.stderr == ("interrupted: A\n" if noted else SAID.removeprefix("closed\n"))


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption.hear_interruptions()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_may_ask_in_vain():
    """A trial of a sweep trains in a thread, where handlers cannot be set."""
    thread = threading.Thread(target=interruption.hear_interruptions)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_thread_of_tensorboard_that_found_the_disk_full_says_nothing():
    """The training says it, in one line; other threads and other errors keep their traceback."""
    program = (
        "import threading\n"
        "from monai_vmat.console import plain_errors\n"
        "plain_errors()\n"
        "class Writer(threading.Thread):\n"
        "    def run(self):\n        raise self.error\n"
        "ends = (('tensorboard.x', OSError(28, 'one')), ('tensorboard.x', KeyError('two')), ('x', OSError('three')))\n"
        "for module, error in ends:\n"
        "    Writer.__module__ = module\n"
        "    thread = Writer()\n    thread.error = error\n    thread.start()\n    thread.join()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert [word in run.stderr for word in ("one", "two", "three")] == [False, True, True]
