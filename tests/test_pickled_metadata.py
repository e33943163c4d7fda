"""Pickled metadata: plain values are read, nothing is executed, whatever a file asks for."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive
from monai_vmat.pickled_metadata import MAX_BYTES, read_pickled_metadata

FACTS = {
    "text": "Ä plan",
    "numbers": (1, -(2**63), 2**64 - 1, 0.5, 1e300, float("inf"), True, False, None),
    "nested": {"list": [1, [2, (3,)], {}], "empty": ()},
    "scalars": [np.float64(1.5), np.float32(0.5), np.int64(-4), np.uint8(7), np.bool_(True), np.str_("mm"), np.float64("nan")],
    "arrays": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((0, 3)), np.asarray(4.0)],
    "orders": [np.arange(3, dtype=">i4"), np.asarray(["Ab", ""], ">U2"), np.asarray([True, False])],
    "objects": np.asarray(["a", 1, None], dtype=object),
    7: "a number as key",
    np.str_("key"): "a NumPy text as key",
}
PLAIN = {
    "text": "Ä plan",
    "numbers": [1, -(2**63), 2**64 - 1, 0.5, 1e300, float("inf"), True, False, None],
    "nested": {"list": [1, [2, [3]], {}], "empty": []},
    "scalars": [1.5, 0.5, -4, 7, True, "mm", float("nan")],
    "arrays": [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], [[0, 1, 2], [3, 4, 5]], [], 4.0],
    "orders": [[0, 1, 2], ["Ab", ""], [True, False]],
    "objects": ["a", 1, None],
    "7": "a number as key",
    "key": "a NumPy text as key",
}


NUMPY_1 = np.__version__.startswith("1.")


def write(path, data: bytes, descr: str = "|O") -> None:
    """A v2.x file whose metadata consist of these bytes."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (), }}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data)


def pickled(value, protocol: int = 4, numpy_1: bool = False) -> bytes:
    """What NumPy puts behind an object array's header; NumPy 1, which may be the one here, calls its modules differently."""
    data = pickle.dumps(np.asarray(value, dtype=object), protocol)
    if not numpy_1 or NUMPY_1:
        return data
    assert b"numpy._core." in data
    data = b"".join(b"\x8c" + bytes([len(m) - 1]) + m.replace(b"_core", b"core") if m.startswith(b"numpy._core") else m
                    for m in _modules(data))  # fmt: skip
    return data.replace(b"cnumpy._core.", b"cnumpy.core.")


def _modules(data: bytes) -> list[bytes]:
    """``data`` in pieces: the protocol 4 names of NumPy's modules (without instruction and length) and what is between them."""
    pieces, rest = [], data
    while (at := rest.find(b"numpy._core.")) > 0 and rest[at - 2 : at - 1] == b"\x8c":
        length = rest[at - 1]
        pieces += [rest[: at - 2], rest[at : at + length]]
        rest = rest[at + length :]
    return [*pieces, rest]


def read(path) -> dict:
    with NpzArchive(path) as archive:
        return read_pickled_metadata(archive)


def refused(path, data: bytes) -> str:
    write(path, data)
    with pytest.raises(InputError) as error:
        read(path)
    told = str(error.value)
    assert told.startswith(str(path)) and "array 'metadata'" in told and "\n" not in told and told.isascii() and len(told) < 400
    return told


@pytest.mark.parametrize("numpy_1", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(tmp_path, protocol, numpy_1):
    data = pickled(FACTS, protocol, numpy_1)
    assert (b"numpy._core" in data) != (numpy_1 or NUMPY_1)
    write(tmp_path / "a.npz", data)
    assert repr(read(tmp_path / "a.npz")) == repr(PLAIN)  # types and NaN, too


@pytest.mark.parametrize("protocol", [0, 1])
def test_plain_values_of_the_first_protocols(tmp_path, protocol):
    facts = {k: FACTS[k] for k in ("text", "nested")} | {"numbers": [1, 0.5, True, None, 2**40]}
    np_free = pickle.dumps([facts], protocol)
    write(tmp_path / "a.npz", np_free)
    assert read(tmp_path / "a.npz") == {k: PLAIN[k] for k in ("text", "nested")} | {"numbers": [1, 0.5, True, None, 2**40]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [np.asarray({"a": 1}, dtype=object), np.asarray([{"a": 1}], dtype=object)])
def test_what_numpy_writes(tmp_path, save, array):
    save(tmp_path / "a.npz", metadata=array, other=np.zeros(3))
    assert read(tmp_path / "a.npz") == {"a": 1}


def test_a_file_without_metadata(tmp_path):
    np.savez(tmp_path / "a.npz", ct=np.zeros(3))
    assert read(tmp_path / "a.npz") == {}


# What is refused


class Calls:
    """Its unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def runs(data: bytes, folder) -> set[str]:
    """The files that plain unpickling makes in an empty folder."""
    (folder / "data").write_bytes(data)
    code = "import pickle; pickle.load(open('data', 'rb'))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=60)
    return set(os.listdir(folder)) - {"data"}


MALICIOUS = {
    "posix.system": Calls(os.system, "echo > marker"),
    "builtins.eval": Calls(eval, "open('marker', 'w')"),
    "builtins.exec": Calls(exec, "open('marker', 'w')"),
    "io.open": Calls(open, "marker", "w"),
    "subprocess.check_output": Calls(subprocess.check_output, ["touch", "marker"]),
    "numpy.save": Calls(np.save, "marker", 1),  # a function of an allowed module
    "builtins.getattr": Calls(getattr, Calls(__import__, "os"), "system"),
}


MARKERS = dict.fromkeys(MALICIOUS, {"marker"}) | {"numpy.save": {"marker.npy"}}


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_calls_are_refused_by_name_and_never_run(tmp_path, monkeypatch, name, protocol):
    payload = MALICIOUS[name]
    if name != "builtins.getattr":
        payload = {"spacing": (1, 1, 2), "hidden": [{"deep": payload}]}
    (tmp_path / "victim").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = pickled(payload, protocol)
    told = refused(tmp_path / "a.npz", data)
    assert "never loaded" in told and "--without-metadata" in told
    if protocol > 2:  # the first protocols name builtins and NumPy's internals as Python 2 did
        assert f"needs '{name}'" in told
    assert os.listdir() == []
    if name != "builtins.getattr":
        assert runs(data, tmp_path / "victim") == MARKERS[name]  # so it would have been


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"(S'echo > marker'\nios\nsystem\n.", "uses the instruction STRING"),
        (b"(Vecho > marker\nios\nsystem\n.", r"needs 'os.system'"),
        (b"cos\nsystem\n(Vecho > marker\no.", "needs 'os.system'"),
        (b"(cos\nsystem\nVecho > marker\no.", "needs 'os.system'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0dtestutils.sys\x93.", "needs 'numpy.testutils.sys'"),  # a dotted name
        (b"cnumpy\nload\n(Vx\ntR.", "needs 'numpy.load'"),
        (b"cnumpy\nfromfile\n(Vx\ntR.", "needs 'numpy.fromfile'"),
        (b"cnumpy._core.multiarray\nfromfile\n(Vx\ntR.", "needs 'numpy._core.multiarray.fromfile'"),
        (b"cnumpy.core.multiarray\narray\n(Vx\ntR.", "needs 'numpy.core.multiarray.array'"),
        (b"ccopyreg\n_reconstructor\n.", "needs 'copyreg._reconstructor'"),
        (b"c__main__\nX\n)\x81.", "needs '__main__.X'"),
        (b"cnumpy\nndarray\n)R.", "calls what is no function"),
        (b"cnumpy\nndarray\n)\x81.", "uses the instruction NEWOBJ"),
        (b"cnumpy\ndtype\n}b.", "builds an object of an unknown class"),
        (b"cnumpy\ndtype\n(N}tb.", "builds an object of an unknown class"),  # would set attributes
        (b"\x80\x04]}b.", "builds an object of an unknown class"),
        (b"P7\n.", "uses the instruction PERSID"),
        (b"]Q.", "uses the instruction BINPERSID"),
        (b"\x82\x01.", "uses the instruction EXT1"),
        (b"\x8f.", "uses the instruction EMPTY_SET"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "holds bytes that are not latin1"),
        (b"c\xff\nx\n.", "is no whole pickle"),
        (b"c\nx\n.", "needs '.x'"),
        (b"\x80\x04\x8c\x04a\x1b[m\x8c\x01b\x93.", r"needs 'a\\x1b\[m.b'"),  # nothing that steers a terminal
    ],
)
def test_other_instructions_and_names(tmp_path, data, problem):
    told = refused(tmp_path / "a.npz", data)
    assert re.search(problem, told), told


def array(shape: bytes, kind: bytes = b"f8", raw: bytes = b"C\x08" + bytes(8)) -> bytes:
    """An array by NumPy's own instructions, any shape, type and data."""
    start = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    dtype = (
        b"cnumpy\ndtype\n(\x8c"
        + bytes([len(kind)])
        + kind
        + b"\x89\x88tR(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return start + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb."


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (array(b"K\x02\x85"), "shape is not that of its bytes"),
        (array(b"J\xff\xff\xff\x7f\x85"), "impossible shape"),
        (array(b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85"), "impossible shape"),
        (array(b"J\xff\xff\xff\xff\x85"), "impossible shape"),
        (array(b"(" + b"K\x01" * 40 + b"t"), "no known type"),
        (array(b"G" + bytes(8) + b"\x85"), "impossible shape"),
        (array(b"K\x01\x85", b"V8"), "holds the NumPy type V8"),
        (array(b"K\x01\x85", b"M8"), "holds the NumPy type M8"),
        (array(b"K\x01\x85", b"c8"), "holds the NumPy type c8"),
        (array(b"K\x01\x85", b"f8,O"), "holds the NumPy type f8,O"),
        (array(b"K\x01\x85", b"U2", b"C\x08" + b"\xff" * 8), "no characters"),
        (array(b"K\x01\x85", b"O8"), "shape is not that of its items"),
        (array(b"K\x02\x85", b"O8", b"]"), "shape is not that of its items"),
        (array(b"K\x01K\x01\x86", b"O8", b"]Na"), "shape is not that of its items"),  # lists of lists would be lost
        (array(b"K\x01\x85").replace(b"<NNN", b"<N]N"), "holds the NumPy type f8 with fields"),
        (b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR.", "holds what is no plain value"),
        (b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x00\x85C\x01btR.", "array of an unknown class"),
        (b"cnumpy\ndtype\n.", "holds what is no plain value"),
    ],
)
def test_arrays_that_are_none(tmp_path, data, problem):
    assert problem in refused(tmp_path / "a.npz", data)


def test_the_crafted_array_is_one(tmp_path):
    write(tmp_path / "a.npz", b"\x80\x04]}\x8c\x01x" + array(b"K\x01\x85")[2:-1] + b"sa.")
    assert read(tmp_path / "a.npz") == {"x": [0.0]}


def deep(levels: int) -> bytes:
    return b"\x80\x04" + b"]" * levels + b"a" * (levels - 1) + b"."


LAUGHS = (
    b"\x80\x04\x8c\x03lol\x94"
    + b"".join(b"(" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"l\x94" for i in range(30))
    + b"."
)
BIG = b"X" + (2**20).to_bytes(4, "little") + b"x" * 2**20 + b"\x94"  # a text of a megabyte
RAW = b"B" + (2**20).to_bytes(4, "little") + bytes(2**20) + b"\x94"
TEXTS = np.asarray(["x" * 200_000])
LONG_KEY = {"k" * 256: 1}
F4 = b"cnumpy\ndtype\n(\x8c\x02u1\x89\x88tR\x94"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (deep(33), "one dictionary was expected"),
        (deep(34), "nested deeper than 32 levels"),
        (deep(90_000), "nested deeper"),
        (b"\x80\x04]\x94h\x00a.", "nested deeper"),  # a list that holds itself
        (LAUGHS, "more values and characters than are allowed"),
        (b"\x80\x04" + b"N" * 200_001 + b".", "more than 200000 instructions"),
        (b"\x80\x04" + b"]" + b"N" * MAX_BYTES, "has more than 4194304 bytes"),
        (b"\x80\x04" + BIG + b"](" + b"h\x00" * 90_000 + b"e.", "more values and characters than are allowed"),
        (
            b"\x80\x04" + RAW + F4 + b"](" + b"cnumpy.core.multiarray\nscalar\n(h\x01h\x00tR" * 3 + b"e.",
            "not that of its",
        ),
        (b"r\xff\xff\xff\x7f.", "is no whole pickle"),
        (b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", "a whole number beyond 64 bits"),
        (pickle.dumps([{"a": 2**64}]), "a whole number beyond 64 bits"),
        (pickle.dumps([{2**64: "a"}]), "key of more than 256 characters"),
        (pickled({"a": [TEXTS, TEXTS]}), "more values and characters than are allowed"),
        (pickled({"a": [LONG_KEY] * 1200}), "more values and characters than are allowed"),
        (b"\x80\x05\x96" + bytes(8) + b"Na.", "appends to what is no list"),  # bytes that can grow
        (b"L" + b"9" * 5000 + b"L\n.", "is no whole pickle"),
        (b"\x80\x04]}" + BIG + b"Nsa.", "key of more than 256 characters"),
        (b"\x80\x04]}]Nsa.", "has a key of type list"),
        (b"\x80\x04]}(NNNua.", "is no whole pickle"),
        (b"\x80\x04C\x02ab.", "holds bytes"),
        (b"\x80\x04](C\x02abe.", "holds bytes"),
        (b"\x80\x04K\x01.", "one dictionary was expected"),
        (pickle.dumps([{}, {}]), "one dictionary was expected"),
        (pickle.dumps([[1]]), "one dictionary was expected"),
        (b"", "is no whole pickle"),
        (b".", "is no whole pickle"),
        (pickled({"a": 1})[:-1], "is no whole pickle"),
    ],
)
def test_bombs_and_damage(tmp_path, data, problem):
    began = time.process_time()
    assert problem in refused(tmp_path / "a.npz", data)
    assert time.process_time() - began < 20


def test_shared_arrays_count_each_time(tmp_path):
    """A megabyte looked at by thousands of arrays."""
    one = b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01J\x00\x00\x10\x00\x85\x8c\x01CtR"
    tracemalloc.start()
    told = refused(tmp_path / "a.npz", b"\x80\x04" + RAW + F4 + b"](" + one * 10_000 + b"e.")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert "more values and characters than are allowed" in told


def test_a_damaged_pickle_is_refused_or_plain(tmp_path):
    whole = pickled(FACTS, 4)
    chance = random.Random(0)
    refusals = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        write(tmp_path / "a.npz", bytes(data))
        try:
            found = read(tmp_path / "a.npz")
        except InputError:
            refusals += 1
        else:
            only_plain(found)
    assert refusals > 150


def only_plain(value) -> None:
    assert type(value) in (dict, list, str, int, float, bool, type(None))
    for item in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        only_plain(item)


def test_metadata_that_are_not_pickled(tmp_path):
    np.savez(tmp_path / "a.npz", metadata=np.asarray("{}"))
    with pytest.raises(InputError, match="array 'metadata' is of type '<U2', a pickled object was expected"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", metadata=np.zeros(2, np.dtype([("a", object)])))
    with pytest.raises(InputError, match="a pickled object was expected"):
        read(tmp_path / "b.npz")


def test_an_archive_that_packs_too_much(tmp_path):
    """Kilobytes that unpack to megabytes; what unpacks to more is refused as a bomb before."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        file = io.BytesIO()
        np.save(file, np.asarray({}, dtype=object))
        archive.writestr("metadata.npy", file.getvalue()[:-1] + b"N" * 16 * 10**6)
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 4194304 bytes"):
        read(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 12e6
    tracemalloc.stop()
