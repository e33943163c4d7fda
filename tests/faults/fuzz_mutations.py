"""Damage to files, by bad luck and by malice: any bytes, and what each format has that can lie.

:func:`mutate` takes a valid file's bytes and gives damaged ones and the damage's name. All randomness comes from the generator
that it is given: the same seed makes the same damage.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import math
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pydicom
import torch
from pydicom.uid import DeflatedExplicitVRLittleEndian

Mutation = Callable[[bytes, random.Random], bytes]

_BOMB_BYTES = 2 * 1024**3  # what a bomb claims and inflates to
_BIG = (0, 1, -1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 10**30)
_NUMBERS = ("nan", "NaN", "inf", "-inf", "1e400", "-1", "0", "1e-300", "9" * 30, "9" * 5000, "0x10", "1,5", "", "None", "١٢")
_WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 1e308, -1e308, 10**30, float("nan"), float("inf")),
    *("", "x", "NaN", "../../etc/passwd", "/etc/passwd", "\0", "\ud800", "$__import__('os').getcwd()", "@seed", "a" * 10_000),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3, 4], {"a": {"b": [0]}}),
)


def mutate(name: str, data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file.

    Args:
        name: the file's name, whose ending says which format it has.
        data: its bytes.
        rng: the source of all randomness.

    Returns:
        what was done, and the damaged bytes.
    """
    own = next((several for ending, several in _OF_FORMAT.items() if name.endswith(ending)), ())
    only_own = own is _SETTINGS  # they come from a command line, which no disk damages
    mutation = rng.choice(own if own and (only_own or rng.random() < 0.6) else _ANY)
    try:
        return mutation.__name__.strip("_"), mutation(data, rng)
    except Exception:  # what is worst no library writes
        return "flip_bits", _flip_bits(data, rng)


# Any bytes


def _place(data: bytes, rng: random.Random) -> int:
    """A position; the beginning and the end, where headers and directories are, every other time."""
    if rng.random() < 0.5:
        near = rng.randrange(min(len(data), 2048) + 1)
        return near if rng.random() < 0.6 else len(data) - near
    return rng.randrange(len(data) + 1)


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if damaged:
            damaged[min(_place(data, rng), len(damaged) - 1)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _set_bytes(data: bytes, rng: random.Random) -> bytes:
    start, length = _place(data, rng), rng.choice((1, 2, 4, 8, 100))
    filling = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"-", b"9", b"\n"))
    return data[:start] + filling * length + data[start + length :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 7, 512))) + data[start:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 7, 512)) :]


def _swap_blocks(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat_block(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    block = data[start : start + rng.choice((16, 512, 4096))]
    return data[:start] + block * rng.choice((2, 3, 20)) + data[start:]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0" * 4096, rng.randbytes(100), data))


_ANY: tuple[Mutation, ...] = (_flip_bits, _set_bytes, _truncate, _insert, _delete, _swap_blocks, _repeat_block, _append)


# JSON


def _json_value(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    parent, key = rng.choice(list(_json_places(content)))
    parent[key] = rng.choice(_WRONG)
    return _json(content)


def _json_key(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    objects = [parent for parent, key in _json_places(content) if isinstance(key, str)]
    chosen = rng.choice(objects) if objects else content
    key = rng.choice(list(chosen))
    value = chosen.pop(key)
    if rng.random() < 0.6:
        chosen[rng.choice(("", "x", key.upper(), key + " ", "__class__", "a" * 5000))] = value
    return _json(content)


def _json_key_twice(data: bytes, rng: random.Random) -> bytes:
    keys = list(re.finditer(rb'"\w+": *', data))
    if not keys:
        return data
    chosen = rng.choice(keys)
    return data[: chosen.start()] + chosen[0] + _json(rng.choice(_WRONG)) + b", " + data[chosen.start() :]


def _json_nesting(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((50, 900, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    values = list(re.finditer(rb"[-\d.]+|null|true|false", data)) or [re.match(rb"", data)]
    chosen = rng.choice(values)
    assert chosen is not None
    return data[: chosen.start()] + opening * depth + b"1" + closing * depth + data[chosen.end() :]


def _json_item_again(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    lists = [parent for parent, key in _json_places(content) if isinstance(key, int)]
    if lists:
        chosen = rng.choice(lists)
        chosen.extend([rng.choice(chosen)] * rng.choice((1, 3, 200)))
    return _json(content)


def _json_other(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b"", b"null", b"[]", b"3", data + data, b"\xff\xfe")
    )


def _json_places(content: Any) -> list[tuple[Any, Any]]:
    """Every container and key (or index) in it."""
    found = []
    items = list(content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ())
    for key, value in items:
        found += [(content, key), *_json_places(value)]
    return found


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


_JSON: tuple[Mutation, ...] = (
    _json_value,
    _json_value,
    _json_key,
    _json_key_twice,
    _json_nesting,
    _json_item_again,
    _json_other,
)


# CSV


def _csv_field(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    line = data.find(b"\n", start) + 1
    end = data.find(b"\n", line)
    fields = data[line : end if end >= 0 else len(data)].split(b",")
    fields[rng.randrange(len(fields))] = rng.choice(_NUMBERS).encode()
    return data[:line] + b",".join(fields) + (data[end:] if end >= 0 else b"")


def _csv_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    several = {
        "gone": lines[:k] + lines[k + 1 :],
        "twice": lines[:k] + lines[k : k + 1] * 2 + lines[k + 1 :],
        "empty": lines[:k] + [b""] * 3 + lines[k:],
        "more fields": lines[:k] + [lines[k] + b",1,2"] + lines[k + 1 :],
        "fewer": lines[:k] + [lines[k].partition(b",")[0]] + lines[k + 1 :],
        "quoted": lines[:k] + [b'"' + lines[k]] + lines[k + 1 :],
        "one long": [b"".join(lines)],
    }
    return b"\n".join(several[rng.choice(list(several))])


def _csv_form(data: bytes, rng: random.Random) -> bytes:
    forms = (
        data.replace(b",", b";"),
        data.replace(b"\n", b"\r"),
        data.decode("latin1").encode("utf-16"),
        b"\xef\xbb\xbf" + data,
    )
    return rng.choice((*forms, data.partition(b"\n")[0], b"", b"\0" * 1_000_000, b"1," * 1_000_000))


_CSV: tuple[Mutation, ...] = (_csv_field, _csv_field, _csv_lines, _csv_form)


# Zip archives, .npz among them


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method, 1)
    return file.getvalue()


def _zip_name(data: bytes, rng: random.Random) -> bytes:
    members = _members(data)
    chosen = rng.choice(list(members))
    names = ("../../" + chosen, "/etc/" + chosen, "C:\\" + chosen, "", ".npy", chosen.upper(), "a" * 60_000, chosen + "\0.npy")
    other = rng.choice((*names, *members))
    return _archive([(other if name == chosen else name, content) for name, content in members.items()])


def _zip_member_twice(data: bytes, rng: random.Random) -> bytes:
    members = list(_members(data).items())
    name, _ = rng.choice(members)
    return _archive([*members, (name, rng.choice(members)[1])])


def _zip_member_gone(data: bytes, rng: random.Random) -> bytes:
    members = _members(data)
    del members[rng.choice(list(members))]
    return _archive(list(members.items()))


def _zip_contents_exchanged(data: bytes, rng: random.Random) -> bytes:
    members = _members(data)
    a, b = rng.choice(list(members)), rng.choice(list(members))
    members[a], members[b] = members[b], members[a]
    return _archive(list(members.items()))


def _zip_method(data: bytes, rng: random.Random) -> bytes:
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return _archive(list(_members(data).items()), method)


def _zip_directory(data: bytes, rng: random.Random) -> bytes:
    """A directory entry that lies: method, flags, checksum, sizes, lengths, offset."""
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", data)]
    if not entries:
        return data
    start = rng.choice(entries)
    offset, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
    value = rng.choice(_BIG) % 2 ** (8 * size) if rng.random() < 0.5 else rng.randrange(2 ** (8 * size))
    return data[: start + offset] + value.to_bytes(size, "little") + data[start + offset + size :]


def _zip_many_members(data: bytes, rng: random.Random) -> bytes:
    return _archive([(f"{k}.npy", b"") for k in range(rng.choice((1000, 20_000)))], zipfile.ZIP_STORED)


@cache
def _inflating(method: int, head: bytes, filling: bytes) -> tuple[bytes, int]:
    """Compressed ``head`` and filling of ``_BOMB_BYTES`` after it, and the checksum."""
    block, crc = filling * (16 * 1024**2), zlib.crc32(head)
    for _ in range(_BOMB_BYTES // len(block)):
        crc = zlib.crc32(block, crc)
    if method == zipfile.ZIP_BZIP2:  # at a twentieth of the speed
        return bz2.compress(head + block * (_BOMB_BYTES // len(block) // 8)), crc
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back: the block's bytes may be said again and again.
    again = squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return first + again * (_BOMB_BYTES // len(block)) + squeeze.flush(), crc


def _bomb(name: str, method: int, head: bytes, filling: bytes, claimed: int | None = None) -> bytes:
    """An archive of one member, which inflates to gigabytes."""
    squeezed, crc = _inflating(method, head, filling)
    size = len(head) + _BOMB_BYTES if claimed is None else claimed
    fields = (20, 0, method, 0, 0x21, crc, len(squeezed), size, len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + name.encode() + squeezed
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0) + name.encode()
    return local + entry + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local), 0)


def _npy_header(descr: str, fortran: Any, shape: Any, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode("latin1")
    text = text.ljust(-(-len(text) // 64) * 64 - 11) + b"\n"
    size = (len(text) if length is None else length) % (2**16 if version == (1, 0) else 2**32)
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little") + text


def _npz_bomb(data: bytes, rng: random.Random) -> bytes:
    """One array of gigabytes of zeros in place of the volume, its size told or not, in the archive's own way or packed better;
    or gigabytes of spaces as an array's header. The other arrays are gone: the volume is what is read first."""
    members = _members(data)
    method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    name = rng.choice([n for n in members if n.endswith(".npy")])
    if rng.random() < 0.3:
        head, filling = b"\x93NUMPY\x02\x00" + (_BOMB_BYTES - 1).to_bytes(4, "little"), b" "
    else:
        edge = 1024
        head, filling = _npy_header("'<i2'", False, (edge, edge, _BOMB_BYTES // edge**2 // 2)), b"\0"
    bomb = _bomb(name, method, head, filling, rng.choice((None, 1000, 100_000_000)))
    return _merged(_archive([(n, c) for n, c in members.items() if n != name]), bomb)


def _merged(one: bytes, other: bytes) -> bytes:
    """Two archives as one, without inflating anything."""

    def parts(data: bytes) -> tuple[bytes, list[bytes]]:
        count, size, start = struct.unpack("<H2I", data[-12:-2])
        directory, entries, at = data[start : start + size], [], 0
        for _ in range(count):
            length = 46 + sum(struct.unpack("<3H", directory[at + 28 : at + 34]))
            entries.append(directory[at : at + length])
            at += length
        return data[:start], entries

    (first, entries), (second, more) = parts(one), parts(other)
    moved = [e[:42] + struct.pack("<I", struct.unpack("<I", e[42:46])[0] + len(first)) + e[46:] for e in more]
    entries = entries + moved
    directory = b"".join(entries)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), len(first) + len(second), 0)
    return first + second + directory + end


def _npz_header(data: bytes, rng: random.Random) -> bytes:
    """An array whose header claims another shape, type, order or length."""
    members = _members(data)
    name = rng.choice(list(members))
    content = members[name]
    array, body = np.lib.format.read_array(io.BytesIO(content), allow_pickle=True), content[_body_start(content) :]
    shape: Any = array.shape
    descr, fortran = repr(array.dtype.str), not array.flags.c_contiguous
    kind = rng.choice(("shape", "dtype", "order", "version", "length", "text"))
    if kind == "shape":
        axes = [
            rng.choice((*_BIG, *array.shape, 2.0, "'3'", None)) for _ in range(rng.choice((0, 1, array.ndim, array.ndim + 1)))
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
        rng.choice(_BIG) if kind == "length" else None,
    )
    if kind == "text":
        header = rng.choice(
            (b"", b"\x93NUMPY", header.replace(b"{", b"{" * 500), header.replace(b"shape", b"shap"), b"\0" * 200)
        )
    members[name] = header + body
    return _archive(list(members.items()))


def _npz_values(data: bytes, rng: random.Random) -> bytes:
    """A whole array of other numbers, another shape or another type, saved as numpy saves it."""
    members = _members(data)
    name = rng.choice([n for n in members if n != "metadata.npy"])
    array = np.lib.format.read_array(io.BytesIO(members[name]), allow_pickle=True)
    draw = np.random.default_rng(rng.getrandbits(32))
    file = io.BytesIO()
    np.lib.format.write_array(file, _other_values(array, rng, draw), allow_pickle=True)
    members[name] = file.getvalue()
    return _archive(list(members.items()))


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
    members = _members(data)
    texts = [n for n in members if np.lib.format.read_array(io.BytesIO(members[n]), allow_pickle=True).dtype.kind == "U"]
    if not texts:
        return _npz_values(data, rng)
    name = rng.choice(texts)
    array = np.lib.format.read_array(io.BytesIO(members[name]))
    if array.ndim:
        array = np.asarray([rng.choice(("", "x", "PTV70", "../a", "a" * 1000, str(n))) for n in array])
    else:
        array = np.asarray(rng.choice(_JSON)(str(array).encode(), rng).decode("latin1"))
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    members[name] = file.getvalue()
    return _archive(list(members.items()))


def _npz_pickle(data: bytes, rng: random.Random) -> bytes:
    """Bytes of a pickled array, damaged; or, where there is none, one that hides as metadata."""
    members = _members(data)
    content = members.get("metadata.npy", b"")
    if b"'|O'" not in content[:200]:
        head, body = _npy_header("'|O'", False, "()"), b"\x80\x04cos\nsystem\n(S'true'\ntR."
    else:
        start = _body_start(content)
        head, body = content[:start], rng.choice(_ANY)(content[start:], rng)
        if rng.random() < 0.3:  # what a pickle mentions once it can refer to again and again
            body = b"\x80\x04]\x94" + b"".join(b"]\x94(" + (b"h" + bytes([k])) * 10 + b"e" for k in range(20)) + b"."
    members["metadata.npy"] = head + body
    return _archive(list(members.items()))


def _body_start(content: bytes) -> int:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    return file.tell()


_ZIP: tuple[Mutation, ...] = (
    *(_zip_name, _zip_member_twice, _zip_member_gone, _zip_contents_exchanged, _zip_method, _zip_directory, _zip_many_members),
)
_NPZ: tuple[Mutation, ...] = (*_ZIP, *(_npz_header, _npz_values, _npz_text) * 3, _npz_pickle, _npz_bomb)


# Checkpoints: zip archives of a pickle and of tensors


def _pt_tensor(data: bytes, rng: random.Random) -> bytes:
    """A tensor of other values, shape or type; one that is a view of little memory."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    places = [(parent, key) for parent, key in _json_places(content) if isinstance(parent[key], torch.Tensor)]
    parent, key = rng.choice(places)
    tensor = parent[key]
    kind = rng.choice(("nan", "inf", "huge", "shape", "type", "expanded", "empty", "value", "bytes"))
    if kind in ("nan", "inf", "huge") and tensor.is_floating_point() and tensor.numel():
        tensor = tensor.clone()
        tensor.view(-1)[rng.randrange(tensor.numel())] = {"nan": math.nan, "inf": math.inf, "huge": 1e30}[kind]
    elif kind == "shape":
        tensor = rng.choice((tensor.reshape(-1), tensor[None], torch.cat([tensor[None]] * 2)))
    elif kind == "type":
        tensor = tensor.to(rng.choice((torch.float16, torch.float64, torch.int8, torch.bool, torch.complex64)))
    elif kind == "expanded":
        tensor = torch.zeros(1).expand(2**20, 2**12)
    elif kind == "empty":
        tensor = torch.empty(0)
    elif kind == "bytes":
        tensor = torch.zeros(rng.choice((0, 1, 16, 10_000)), dtype=torch.uint8)
    else:
        tensor = rng.choice((None, 3, "x", [tensor], {"a": tensor}))
    parent[key] = tensor
    return _saved(content)


def _pt_value(data: bytes, rng: random.Random) -> bytes:
    content = torch.load(io.BytesIO(data), weights_only=True)
    places = [(parent, key) for parent, key in _json_places(content) if not isinstance(parent[key], torch.Tensor)]
    parent, key = rng.choice(places)
    if rng.random() < 0.3 and isinstance(parent, dict):
        value = parent.pop(key)
        if rng.random() < 0.5:
            parent[rng.choice((f"{key}x", 3, "", ("a", 1), None))] = value
    else:
        parent[key] = rng.choice([value for value in _WRONG if value != "\ud800"])
    return _saved(content)


def _pt_other(data: bytes, rng: random.Random) -> bytes:
    return _saved(rng.choice((None, [], torch.zeros(3), "x", {}, {"network": None}, {"network": {}}, {3: 4}, [{}], 1.5)))


def _pt_pickle(data: bytes, rng: random.Random) -> bytes:
    """The pickle in the archive, damaged; its numbers, among them sizes and offsets of tensors, most of all."""
    members = _members(data)
    name = next(n for n in members if n.endswith("data.pkl"))
    pickled = bytearray(members[name])
    if rng.random() < 0.6:
        numbers = [m.start() for m in re.finditer(rb"[KM]..", bytes(pickled), re.DOTALL)]
        at = rng.choice(numbers)
        big = rng.choice(_BIG)
        pickled[at : at + (2 if pickled[at] == ord("K") else 3)] = b"\x8a\x0e" + big.to_bytes(14, "little", signed=True)
        members[name] = bytes(pickled)
    else:
        members[name] = rng.choice(_ANY)(bytes(pickled), rng)
    return _archive(list(members.items()), zipfile.ZIP_STORED)


def _pt_bomb(data: bytes, rng: random.Random) -> bytes:
    """A storage, or the pickle, of gigabytes in a small archive."""
    members = _members(data)
    name = rng.choice([n for n in members if "/data/" in n or n.endswith("data.pkl")])
    rest = _archive([(n, c) for n, c in members.items() if n != name], zipfile.ZIP_STORED)
    return _merged(rest, _bomb(name, zipfile.ZIP_DEFLATED, b"", b"\0"))


def _pt_legacy(data: bytes, rng: random.Random) -> bytes:
    """The format before the archives, damaged."""
    file = io.BytesIO()
    torch.save(torch.load(io.BytesIO(data), weights_only=True), file, _use_new_zipfile_serialization=False)
    return rng.choice(_ANY)(file.getvalue(), rng)


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


_PT: tuple[Mutation, ...] = (*_ZIP, *(_pt_tensor, _pt_value, _pt_pickle) * 3, _pt_other, _pt_bomb, _pt_legacy)


# DICOM


def _dcm_numbers(data: bytes, rng: random.Random) -> bytes:
    """A field that decides about sizes and scales claims something else."""
    fields = (
        "Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PixelSpacing "
        "ImagePositionPatient ImageOrientationPatient GridFrameOffsetVector DoseGridScaling RescaleSlope RescaleIntercept"
    ).split()
    dataset = pydicom.dcmread(io.BytesIO(data))
    there = [field for field in fields if field in dataset]
    if not there:
        return _dcm_element(data, rng)
    element = dataset[rng.choice(there)]
    if element.VR == "US":
        _raw(dataset, element.tag, "US", rng.choice((0, 1, 2, 3, 7, 8, 12, 16, 32, 64, 4096, 65535)).to_bytes(2, "little"))
    else:
        count = max(1, element.VM + rng.choice((0, 0, 0, -1, 1)))
        old = [str(v).encode() for v in (element.value if element.VM > 1 else [element.value])]
        number = rng.choice((*_NUMBERS, "1e-30", "1e30", "-1e30", "65536", "2147483647", "100000")).encode()
        values = [number if rng.random() < 0.4 or k >= len(old) else old[k] for k in range(count)]
        _raw(dataset, element.tag, element.VR, b"\\".join(values))
    return _dcm(dataset)


def _dcm_element(data: bytes, rng: random.Random) -> bytes:
    """An element anywhere, also in sequences: gone, emptied, of other bytes or of another representation."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    places = [(d, tag) for d in _datasets(dataset) for tag in d.keys()]
    if not places:
        return b""
    parent, tag = rng.choice(places)
    kind = rng.choice(("gone", "empty", "bytes", "representation", "number"))
    if kind == "gone":
        del parent[tag]
    elif kind == "empty":
        _raw(parent, tag, parent[tag].VR, b"")
    elif kind == "bytes":
        _raw(parent, tag, parent[tag].VR, rng.randbytes(rng.choice((1, 2, 3, 8, 1000))))
    elif kind == "number":
        _raw(parent, tag, parent[tag].VR, rng.choice(_NUMBERS).encode())
    else:
        _raw(
            parent,
            tag,
            rng.choice("AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split()),
            b"12",
        )
    return _dcm(dataset)


def _dcm_pixels(data: bytes, rng: random.Random) -> bytes:
    """Pixels that are too few, too many, of odd length or said to be compressed."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in dataset:
        return _dcm_contours(data, rng)
    pixels = dataset.PixelData
    kind = rng.choice(("fewer", "odd", "more", "none", "syntax", "syntax", "claim"))
    if kind == "syntax":  # run length, JPEG baseline, JPEG-LS, JPEG 2000, big endian, implicit, unknown
        codes = ("1.2.5", "1.2.4.50", "1.2.4.80", "1.2.4.90", "1.2.2", "1.2", "1.2.99.1", "1.2.4.201")
        old = dataset.file_meta.TransferSyntaxUID.encode()
        new = f"1.2.840.10008.{rng.choice(codes)}".encode()
        claimed = _dcm(_resized(dataset, 65535, rng.choice((1, 65535)))) if rng.random() < 0.5 else data
        # The length of the meta element stays: shorter codes end in zeros.
        return claimed.replace(old.ljust(20, b"\0")[: len(old)], new.ljust(len(old), b"\0")[: len(old)], 1)
    if kind == "claim":
        return _dcm(_resized(dataset, rng.choice((4096, 65535)), rng.choice((4096, 65535))))
    dataset.PixelData = {"fewer": pixels[: len(pixels) // 2], "odd": pixels[:-1], "more": pixels * 2, "none": b""}[kind]
    return _dcm(dataset)


def _resized(dataset: Any, rows: int, columns: int) -> Any:
    dataset.Rows, dataset.Columns = rows, columns
    return dataset


def _dcm_contours(data: bytes, rng: random.Random) -> bytes:
    """Contours far away, beyond number, across all of the picture many times, not in a plane, or none."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    items = [d for d in _datasets(dataset) if "ContourData" in d]
    if not items:
        return _dcm_numbers(data, rng)
    contour = rng.choice(items)
    values = [float(v) for v in contour.ContourData]
    kind = rng.choice(("far", "number", "zigzag", "short", "point", "tilted", "repeated"))
    if kind == "far":
        values = [v * rng.choice((1e3, 1e30, 1e-30)) for v in values]
    elif kind == "zigzag":
        x, y, z = np.reshape(values, (-1, 3)).T
        points = [(x.mean(), y.min() if k % 2 else y.max(), z[0]) for k in range(rng.choice((100, 20_000)))]
        values = np.reshape(points, -1).tolist()
    elif kind == "short":
        values = values[: rng.choice((0, 1, 2, 3, 6, 7))]
    elif kind == "point":
        values = values[:3] * 20
    elif kind == "tilted":
        values = [v + (k if k % 3 == 2 else 0) for k, v in enumerate(values)]
    elif kind == "repeated":
        values = values * 50
    texts = [f"{v:.6g}" for v in values]
    if kind == "number" and texts:
        texts[rng.randrange(len(texts))] = rng.choice(_NUMBERS)
    _raw(contour, 0x30060050, "DS", "\\".join(texts).encode())
    return _dcm(dataset)


def _dcm_nesting(data: bytes, rng: random.Random) -> bytes:
    """Sequences in sequences, without end or with one that is wrong."""
    depth = rng.choice((10, 1000, 50_000))
    opening = b"\x06\x30\x20\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return data + opening * depth


def _dcm_deflated(data: bytes, rng: random.Random) -> bytes:
    """The deflated transfer syntax, under which ten megabytes may hold ten gigabytes."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = _dcm(dataset)
    if rng.random() < 0.5:
        return whole
    squeezed, _ = _inflating(zipfile.ZIP_DEFLATED, b"", b"\0")
    return whole[:400] + squeezed


def _datasets(dataset: Any) -> list[Any]:
    found = [dataset]
    for element in dataset:
        if element.VR == "SQ":
            found += [inner for item in element.value for inner in _datasets(item)]
    return found


def _raw(dataset: Any, tag: Any, representation: str, value: bytes) -> None:
    """Set an element's bytes as they are, whatever its representation makes of them."""
    from pydicom.dataelem import RawDataElement

    value += b" " * (len(value) % 2)
    dataset._dict[pydicom.tag.Tag(tag)] = RawDataElement(
        pydicom.tag.Tag(tag), representation, len(value), value, 0, False, True
    )


def _dcm(dataset: Any) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


_DICOM: tuple[Mutation, ...] = (
    *(_dcm_numbers, _dcm_numbers, _dcm_element, _dcm_element, _dcm_pixels, _dcm_contours, _dcm_nesting, _dcm_deflated),
)


# NIfTI


def _nii_header(data: bytes, rng: random.Random) -> bytes:
    """A header's field claims something else."""
    content = bytearray(gzip.decompress(data))
    fields = {  # offset, number of values, format
        "sizeof_hdr": (0, 1, "<i"),
        "dim": (40, 8, "<h"),
        "datatype": (70, 1, "<h"),
        "bitpix": (72, 1, "<h"),
        "pixdim": (76, 8, "<f"),
        "vox_offset": (108, 1, "<f"),
        "scl_slope": (112, 1, "<f"),
        "scl_inter": (116, 1, "<f"),
        "qform_code": (252, 1, "<h"),
        "sform_code": (254, 1, "<h"),
        "quatern": (256, 6, "<f"),
        "srow": (280, 12, "<f"),
    }
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, count, form = fields[rng.choice(list(fields))]
        size = struct.calcsize(form)
        at = start + size * rng.randrange(count)
        if form == "<f":
            value = rng.choice((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-30, 1e30, 1e38, 0.5, 353.0, 348.0, 2.0**31))
            content[at : at + size] = struct.pack(form, value)
        else:
            value = rng.choice(
                (0, 1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 511, 512, 768, 1024, 1536, 1792, 2304, -1, 32767, 348, 540)
            )
            content[at : at + size] = struct.pack(form, value)
    return gzip.compress(bytes(content), 1)


def _nii_inside(data: bytes, rng: random.Random) -> bytes:
    """Damage to what is compressed, where the checksum does not find it."""
    return gzip.compress(rng.choice(_ANY)(gzip.decompress(data), rng), 1)


def _nii_extension(data: bytes, rng: random.Random) -> bytes:
    content = gzip.decompress(data)
    size = rng.choice((0, 8, 16, -16, 2**31 - 1, 7))
    extension = struct.pack("<ii", size, rng.choice((0, 4, 6, 99))) + b"<xml" * 2
    return gzip.compress(content[:348] + b"\1\0\0\0" + extension + content[352:], 1)


def _nii_bomb(data: bytes, rng: random.Random) -> bytes:
    """Gigabytes of zeros after a header that claims them, or does not."""
    content = bytearray(gzip.decompress(data)[:352])
    if rng.random() < 0.8:
        content[40:56] = struct.pack("<8h", 3, 800, 800, 800, 1, 1, 1, 1)
        content[70:74] = struct.pack("<hh", 2, 8)
    squeezed, crc = _inflating(zipfile.ZIP_DEFLATED, bytes(content), b"\0")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + squeezed + struct.pack("<II", crc, (len(content) + _BOMB_BYTES) % 2**32)


_NIFTI: tuple[Mutation, ...] = (_nii_header, _nii_header, _nii_inside, _nii_extension, _nii_bomb)


# Settings of a command line

_SETTING_NAMES = (
    "max_epochs val_interval patience learning_rate weight_decay warmup_share max_gradient_norm average_decay base_channels "
    "patch_size pad_size patches_per_case flip_probability motion_probability window batch_size workers cache_rate cache_dir "
    "threads amp channels_last resume seed device experiment split dataset_dir datalist output_dir protocol_name constraints "
    "spacing_mm mapping dose_spacing_mm input weights predictions_dir loss#weights#mse loss#weights network_def#embedding_dim"
).split()
_SETTING_VALUES: tuple[Any, ...] = (
    *(-1, 0, 0.5, -3.5, 10**30, math.nan, math.inf, True, None, "abc", "", "1e", "/nowhere/at/all", "/proc/nowhere", "\0"),
    *([], [1, 2], [0, 0, 0], [-5, 8, 8], ["a", "b", "c"], [1.5, 1.5, 1.5], {}, {"Rectum_V50Gy": -1}, {"nothing": 0.5}),
    *("$1/0", "$[", "$nothing", "@nowhere", "@max_epochs"),
)


def _setting(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        content["settings"][rng.choice(_SETTING_NAMES)] = rng.choice(_SETTING_VALUES)
    return _json(content)


def _setting_unknown(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    name = rng.choice(_SETTING_NAMES).partition("#")[0]
    misspelt = rng.choice((name + "s", name[:-1], name.upper(), name.replace("_", "-"), "x_" + name, "nothing"))
    content["settings"][misspelt] = rng.choice((3, "abc", [1, 2, 3], True, None))
    return _json(content)


_SETTINGS: tuple[Mutation, ...] = (_setting, _setting, _setting, _setting_unknown)


_OF_FORMAT: dict[str, tuple[Mutation, ...]] = {
    ".settings.json": _SETTINGS,
    ".npz": _NPZ,
    ".json": _JSON,
    ".csv": _CSV,
    ".pt": _PT,
    ".ckpt": _PT,
    ".dcm": _DICOM,
    ".nii.gz": _NIFTI,
}
