"""Disks that take no more: what each kind of writer makes of it, and two programs on a small disk."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from monai_vmat.errors import InputError
from monai_vmat.files import write_json, write_secret, write_whole
from monai_vmat.handlers import training_checkpoint
from monai_vmat.npz import write_npz

from . import crash_programs as programs
from . import disk
from .crash_programs import Program

RANDOM = np.random.default_rng(0).random((50, 50, 20))


@contextlib.contextmanager
def no_large_files():
    """Files of at most a thousand bytes: what a full disk is, for everyone. No fixture: pytest writes to its output as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_picture(path):
    with write_whole(path) as temporary:
        Figure().savefig(temporary, format="png")


def write_volume(path):
    with write_whole(path) as temporary, gzip.open(temporary, "wb") as file:
        nib.Nifti1Image(RANDOM, np.eye(4)).to_stream(file)


WRITERS = {
    "npz": lambda path: write_npz(path, {"a": RANDOM, "b": RANDOM}),
    "checkpoint": lambda path: training_checkpoint._save({"a": torch.zeros(100_000), "b": torch.zeros(9)}, path),
    "json": lambda path: write_json(path, list(range(10_000))),
    "secret": lambda path: write_secret(path.with_name("new"), 2000 * "x"),
    "picture": write_picture,
    "volume": write_volume,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_writer_says_it_in_one_line_and_keeps_what_was_there(tmp_path, kind):
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(InputError, match=r"(file|new): cannot be written \(File too large\)\. Free space") as caught:
        with no_large_files():
            WRITERS[kind](path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["file"]


def test_an_error_of_another_kind_stays_itself(tmp_path):
    with pytest.raises(KeyError), write_whole(tmp_path / "file"):
        try:
            (tmp_path / "missing").read_text()
        except OSError:
            raise KeyError("bug")
    with pytest.raises(InputError, match="input"), write_whole(tmp_path / "file"):
        raise InputError("input", "is bad", "Mend it") from OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def migration(tmp_path_factory):
    """The migration of three files, what it reads, and what it writes."""
    folder = tmp_path_factory.mktemp("disk")
    program = {program.name: program for program in programs.conversions(folder)}["migrate_npz"]
    return program, folder / "v2", disk.finish(program, folder / "log"), folder / "log"


@pytest.mark.parametrize("fault", disk.FAULTS)
def test_a_program_and_the_disk(migration, fault):
    program, inputs, written, log = migration
    try:
        result = disk.run(program, fault, inputs, written, log)
    except InputError as error:
        pytest.skip(str(error))
    assert not result.problem, result
    assert "OUT" in result.result or fault in ("vanished input", disk.STALE)


CARELESS = """
import pathlib, sys
out = pathlib.Path(sys.argv[1])
(out / "earlier.npz").write_bytes(b"lost")
(out / ".half.json.x.part").write_text("")
(out / "half.json").write_text("[")
raise RuntimeError("full")
"""


def test_a_program_without_manners_is_seen(tmp_path):
    (tmp_path / "careless.py").write_text(CARELESS)
    program = Program("careless", "", [str(tmp_path / "careless.py"), str(tmp_path / "out")], tmp_path / "out")
    for fault, end in (("limit of file size", "no clear error"), (disk.STALE, "does not finish")):
        result = disk.run(program, fault, tmp_path / "in", disk.Written({"half.json": 10_000}), tmp_path / "log")
        for part in (
            end,
            "a traceback",
            "an earlier file was changed",
            "half.json is not whole",
            "x.part is left",
        ):
            assert part in result.problem, part
    assert ".half.json.left.part is left" in result.problem


def test_results_take_the_place_of_their_like_in_the_record(tmp_path):
    for fault, told in (("most of a disk", "1"), (disk.STALE, "2"), ("half a disk", "3"), (disk.STALE, "4")):
        disk.record(tmp_path / "r.json", disk.Result(fault, "a", told))
    disk.record(tmp_path / "r.json", disk.Result("half a disk", "b", "5"))
    rows = json.loads((tmp_path / "r.json").read_text())["disk"]
    assert [(row["program"], row["result"]) for row in rows] == [("a", "3"), ("a", "1"), ("a", "4"), ("b", "5")]
