"""Signals become an error that says what is left."""

import os
import signal
import threading

import pytest

from monai_vmat import interruption
from monai_vmat.interruption import Interrupted, hear_interruptions, ignore_interruptions


@pytest.fixture(autouse=True)
def nothing_heard(monkeypatch):
    monkeypatch.setattr(interruption, "_heard_s", float("-inf"))


def sent(signum):
    os.kill(os.getpid(), signum)
    signal.sigtimedwait([], 0.01)  # a place where Python hears it


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_error_with_its_exit_status(signum, status):
    hear_interruptions()
    with pytest.raises(Interrupted) as caught:
        sent(signum)
    assert caught.value.status == status and str(caught.value).startswith("interrupted: what is written is whole")
    caught.value.add_note("epoch 3 is saved")
    assert str(caught.value) == "interrupted: epoch 3 is saved"


def test_the_same_twice_is_once():
    hear_interruptions()
    with pytest.raises(Interrupted):
        sent(signal.SIGTERM)
    sent(signal.SIGTERM)


def test_what_is_ignored_stays_ignored():
    """nohup's children and a shell's background jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hear_interruptions()
    sent(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_end_is_not_interrupted():
    hear_interruptions()
    ignore_interruptions()
    sent(signal.SIGTERM)


def test_other_threads_leave_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: (hear_interruptions(), ignore_interruptions()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
