"""A short campaign over all readers; the long one is ``python -m tests.faults.fuzz``."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from monai_vmat.errors import InputError

from . import fuzz
from .damage import mutate
from .fuzz import Tally, Trial, judge

ROOT = Path(__file__).resolve().parents[2]
READERS = ("native case", "v2.x case", "prediction", "datalist", "protocol", "DICOM", "NIfTI", "checkpoint")


def test_a_short_campaign(tmp_path):
    call = [sys.executable, "-m", "tests.faults.fuzz", "--files", "300", "--seed", "20261122", "--workers", "2"]
    call += ["--out", str(tmp_path / "fuzz.json"), "--readers", *READERS]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    record = json.loads((tmp_path / "fuzz.json").read_text())
    assert sum(reader["files"] for reader in record["readers"]) == 300
    for reader in record["readers"]:
        assert reader["files"] == reader["read"] + reader["refused"] > 10 and reader["refused"] > 0, reader["reader"]
        assert 0 < reader["intact_bytes"] or reader["reader"] in ("datalist", "protocol")


def raising(error: BaseException):
    def read(path):
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InputError("a", "is bad", "Mend it"), "refused"),
        (InputError("a", "is bad"), "message that is no short line with what to do"),
        (InputError("two\nlines"), "message that is no short line with what to do"),
        (AssertionError(), "wrong result"),
        (KeyError("a"), "traceback: KeyError"),
        (RecursionError(), "traceback: RecursionError"),
        (SystemExit(0), "traceback: SystemExit"),
    ],
)
def test_whatever_is_no_clear_refusal_is_a_failure(error, outcome):
    assert judge(raising(error), Path("a"))[0] == outcome
    tally = Tally("a", "commit")
    tally.add(Trial(0, "a", "truncate", outcome))
    assert len(tally.failures) == (outcome != "refused")


def test_memory_that_ran_out_is_a_failure_though_it_was_told():
    def read(path):
        try:
            raise MemoryError
        except MemoryError as error:
            raise InputError("a", "is bad", "Mend it") from error

    assert judge(read, Path("a"))[0] == "memory: it ran out"


def test_what_sleeps_is_slow_and_what_waits_for_a_processor_is_not(monkeypatch):
    """Two processes that compute on one processor: each has it half of the time."""
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.5)

    def slow(path):
        time.sleep(0.6)

    def busy(path):
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(mine)})
        rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            end = time.process_time() + 0.35
            while time.process_time() < end:
                pass
        finally:
            rival.kill()
            rival.wait()
            os.sched_setaffinity(0, mine)

    def outcome(read):
        return fuzz._try(SimpleNamespace(read=read), Path("a"), 0, "truncate", fuzz.LEAST_CONTENT_BYTES).outcome

    assert outcome(slow).startswith("took more than")
    began = time.perf_counter()
    assert outcome(busy) == "read" and time.perf_counter() - began > 0.5


def test_the_same_seed_is_the_same_damage():
    data = json.dumps({"a": [1, {"b": "c"}], "d": None}).encode()
    once, again = ([mutate("a.json", data, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert once == again and len({content for _, content in once}) > 30 and len({what for what, _ in once}) > 8
