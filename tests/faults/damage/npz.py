"""Damage to NumPy archives: what the headers of their arrays claim, and what the arrays hold."""

from __future__ import annotations

import io
import random
import zipfile
from typing import Any

import numpy as np

from .any_bytes import ANY
from .archives import BOMB_BYTES, ZIP, archive_of, bomb_archive, members_of, merged
from .json_text import JSON
from .values import BIG, Mutation


def _npy_header(descr: str, fortran: Any, shape: Any, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode("latin1")
    text = text.ljust(-(-len(text) // 64) * 64 - 11) + b"\n"
    size = (len(text) if length is None else length) % (2**16 if version == (1, 0) else 2**32)
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little") + text


def _npz_bomb(data: bytes, rng: random.Random) -> bytes:
    """One array of gigabytes of zeros in place of the volume, its size told or not, in the archive's own way or packed better;
    or gigabytes of spaces as an array's header. The other arrays are gone: the volume is what is read first."""
    members = members_of(data)
    method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    name = rng.choice([n for n in members if n.endswith(".npy")])
    if rng.random() < 0.3:
        head, filling = b"\x93NUMPY\x02\x00" + (BOMB_BYTES - 1).to_bytes(4, "little"), b" "
    else:
        edge = 1024
        head, filling = _npy_header("'<i2'", False, (edge, edge, BOMB_BYTES // edge**2 // 2)), b"\0"
    bomb = bomb_archive(name, method, head, filling, rng.choice((None, 1000, 100_000_000)))
    return merged(archive_of([(n, c) for n, c in members.items() if n != name]), bomb)


def _npz_header(data: bytes, rng: random.Random) -> bytes:
    """An array whose header claims another shape, type, order or length."""
    members = members_of(data)
    name = rng.choice(list(members))
    content = members[name]
    array, body = _array(content), content[_body_start(content) :]
    shape: Any = array.shape
    descr, fortran = repr(array.dtype.str), not array.flags.c_contiguous
    kind = rng.choice(("shape", "dtype", "order", "version", "length", "text"))
    if kind == "shape":
        axes = [
            rng.choice((*BIG, *array.shape, 2.0, "'3'", None)) for _ in range(rng.choice((0, 1, array.ndim, array.ndim + 1)))
        ]
        shape = rng.choice(("(" + "".join(f"{n}, " for n in axes) + ")", "None", "(1,) * 10**9", array.shape[::-1], "((3,),)"))
    elif kind == "dtype":
        types = "|O |b1 |u1 >i2 <i4 <i8 <f2 <f4 <f8 <c16 <U1 <U100000000 |S4 |V10000000 <M8[s] |V0 <f16 >U4".split()
        records = ("[('a', '<f4', (1000000000,))]", "('<f4', (3,))", "','", "None", "''", "[]", "{}", "()", "[('a', '|O')]")
        descr = rng.choice((*map(repr, types), *records))
    elif kind == "order":
        fortran = rng.choice((not fortran, "None", "2", "'yes'"))
    header = _npy_header(
        descr,
        fortran,
        shape,
        rng.choice(((1, 0), (2, 0), (3, 0), (9, 9), (0, 0))) if kind == "version" else (1, 0),
        rng.choice(BIG) if kind == "length" else None,
    )
    if kind == "text":
        header = rng.choice(
            (b"", b"\x93NUMPY", header.replace(b"{", b"{" * 500), header.replace(b"shape", b"shap"), b"\0" * 200)
        )
    members[name] = header + body
    return archive_of(list(members.items()))


def _npz_values(data: bytes, rng: random.Random) -> bytes:
    """A whole array of other numbers, another shape or another type, saved as numpy saves it."""
    members = members_of(data)
    name = rng.choice([n for n in members if n != "metadata.npy"])
    array = _array(members[name])
    draw = np.random.default_rng(rng.getrandbits(32))
    file = io.BytesIO()
    np.lib.format.write_array(file, _other_values(array, rng, draw), allow_pickle=True)
    members[name] = file.getvalue()
    return archive_of(list(members.items()))


def _other_values(array: np.ndarray, rng: random.Random, draw: np.random.Generator) -> np.ndarray:
    kind = rng.choice(("value", "type", "fewer", "more", "axes", "empty", "scaled", "constant", "object"))
    if kind == "value" and array.size and array.dtype.kind in "biuf":
        array = array.copy()
        where = draw.integers(0, array.size, rng.choice((1, 10)))
        with np.errstate(all="ignore"):
            values = np.asarray(rng.choice((np.nan, np.inf, -np.inf, 1e30, -1e30, -1.0, 65535.0)))
            array.reshape(-1)[where] = values.astype(array.dtype)
    elif kind == "type":
        with np.errstate(all="ignore"):
            types = ("?", "i1", "u1", "i2", "u2", "i8", "f2", "f4", "f8", "c16")
            array = array.astype(rng.choice(types)) if array.dtype.kind in "biuf" else np.zeros(array.shape, rng.choice(types))
    elif kind == "fewer" and array.ndim:
        array = array[: max(0, len(array) - 1)]
    elif kind == "more":
        array = np.stack([array, array])
    elif kind == "axes":
        array = array.reshape(rng.choice((array.shape[::-1], (-1,), (1, *array.shape))))
    elif kind == "empty":
        array = np.zeros(rng.choice(((0,), (0, 0), (0, 0, 0), (), (1, 1, 1))), array.dtype)
    elif kind == "scaled" and array.dtype.kind == "f":
        array = (array * np.asarray(rng.choice((-1, 0, 1e-30, 100, 1e30, np.nan)), array.dtype)).astype(array.dtype)
    elif kind == "constant" and array.dtype.kind in "biuf":
        array = np.full_like(array, rng.choice((0, 1)))
    elif kind == "object":
        array = np.asarray(rng.choice((None, {"a": 1}, [print])), dtype=object)
    return array


def _npz_text(data: bytes, rng: random.Random) -> bytes:
    """Other text: the metadata, if they are JSON, or names."""
    members = members_of(data)
    texts = [n for n in members if _array(members[n]).dtype.kind == "U"]
    if not texts:
        return _npz_values(data, rng)
    name = rng.choice(texts)
    array = _array(members[name])
    if array.ndim:
        array = np.asarray([rng.choice(("", "x", "PTV70", "../a", "a" * 1000, str(n))) for n in array])
    else:
        array = np.asarray(rng.choice(JSON)(str(array).encode(), rng).decode("latin1"))
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    members[name] = file.getvalue()
    return archive_of(list(members.items()))


def _npz_pickle(data: bytes, rng: random.Random) -> bytes:
    """Bytes of a pickled array, damaged; or, where there is none, one that hides as metadata."""
    members = members_of(data)
    content = members.get("metadata.npy", b"")
    if b"'|O'" not in content[:200]:
        head, body = _npy_header("'|O'", False, "()"), b"\x80\x04cos\nsystem\n(S'true'\ntR."
    else:
        start = _body_start(content)
        head, body = content[:start], rng.choice(ANY)(content[start:], rng)
        if rng.random() < 0.3:  # what a pickle mentions once it can refer to again and again
            body = b"\x80\x04]\x94" + b"".join(b"]\x94(" + (b"h" + bytes([k])) * 10 + b"e" for k in range(20)) + b"."
    members["metadata.npy"] = head + body
    return archive_of(list(members.items()))


def _array(content: bytes) -> np.ndarray:
    # The campaign's own v2.x files have pickled metadata, as earlier programs wrote them; only undamaged ones come here.
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=True)


def _body_start(content: bytes) -> int:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    return file.tell()


NPZ: tuple[Mutation, ...] = (*ZIP, *(_npz_header, _npz_values, _npz_text) * 3, _npz_pickle, _npz_bomb)
