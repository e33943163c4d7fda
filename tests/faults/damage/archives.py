"""Damage to zip archives, and bombs."""

from __future__ import annotations

import bz2
import io
import random
import re
import struct
import zipfile
import zlib
from functools import cache

from .values import BIG, Mutation

BOMB_BYTES = 2 * 1024**3  # what a bomb claims and inflates to


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method, 1)
    return file.getvalue()


def _zip_name(data: bytes, rng: random.Random) -> bytes:
    members = members_of(data)
    chosen = rng.choice(list(members))
    names = ("../../" + chosen, "/etc/" + chosen, "C:\\" + chosen, "", ".npy", chosen.upper(), "a" * 60_000, chosen + "\0.npy")
    other = rng.choice((*names, *members))
    return archive_of([(other if name == chosen else name, content) for name, content in members.items()])


def _zip_member_twice(data: bytes, rng: random.Random) -> bytes:
    members = list(members_of(data).items())
    name, _ = rng.choice(members)
    return archive_of([*members, (name, rng.choice(members)[1])])


def _zip_member_gone(data: bytes, rng: random.Random) -> bytes:
    members = members_of(data)
    del members[rng.choice(list(members))]
    return archive_of(list(members.items()))


def _zip_contents_exchanged(data: bytes, rng: random.Random) -> bytes:
    members = members_of(data)
    a, b = rng.choice(list(members)), rng.choice(list(members))
    members[a], members[b] = members[b], members[a]
    return archive_of(list(members.items()))


def _zip_method(data: bytes, rng: random.Random) -> bytes:
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return archive_of(list(members_of(data).items()), method)


def _zip_directory(data: bytes, rng: random.Random) -> bytes:
    """A directory entry that lies: method, flags, checksum, sizes, lengths, offset."""
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", data)]
    if not entries:
        return data
    start = rng.choice(entries)
    offset, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
    value = rng.choice(BIG) % 2 ** (8 * size) if rng.random() < 0.5 else rng.randrange(2 ** (8 * size))
    return data[: start + offset] + value.to_bytes(size, "little") + data[start + offset + size :]


def _zip_many_members(data: bytes, rng: random.Random) -> bytes:
    return archive_of([(f"{k}.npy", b"") for k in range(rng.choice((1000, 20_000)))], zipfile.ZIP_STORED)


@cache
def inflating(method: int, head: bytes, filling: bytes) -> tuple[bytes, int]:
    """Compressed ``head`` and filling of ``BOMB_BYTES`` after it, and the checksum."""
    block, crc = filling * (16 * 1024**2), zlib.crc32(head)
    for _ in range(BOMB_BYTES // len(block)):
        crc = zlib.crc32(block, crc)
    if method == zipfile.ZIP_BZIP2:  # at a twentieth of the speed
        return bz2.compress(head + block * (BOMB_BYTES // len(block) // 8)), crc
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back: the block's bytes may be said again and again.
    again = squeeze.compress(block) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return first + again * (BOMB_BYTES // len(block)) + squeeze.flush(), crc


def bomb_archive(name: str, method: int, head: bytes, filling: bytes, claimed: int | None = None) -> bytes:
    """An archive of one member, which inflates to gigabytes."""
    squeezed, crc = inflating(method, head, filling)
    size = len(head) + BOMB_BYTES if claimed is None else claimed
    fields = (20, 0, method, 0, 0x21, crc, len(squeezed), size, len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + name.encode() + squeezed
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0) + name.encode()
    return local + entry + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local), 0)


def merged(one: bytes, other: bytes) -> bytes:
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


ZIP: tuple[Mutation, ...] = (
    *(_zip_name, _zip_member_twice, _zip_member_gone, _zip_contents_exchanged, _zip_method, _zip_directory, _zip_many_members),
)
