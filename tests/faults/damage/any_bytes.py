"""Damage to any bytes, as disks and transfers do it."""

from __future__ import annotations

import random

from .values import Mutation


def any_place(data: bytes, rng: random.Random) -> int:
    """A position; the beginning and the end, where headers and directories are, every other time."""
    if rng.random() < 0.5:
        near = rng.randrange(min(len(data), 2048) + 1)
        return near if rng.random() < 0.6 else len(data) - near
    return rng.randrange(len(data) + 1)


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if damaged:
            damaged[min(any_place(data, rng), len(damaged) - 1)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _set_bytes(data: bytes, rng: random.Random) -> bytes:
    start, length = any_place(data, rng), rng.choice((1, 2, 4, 8, 100))
    filling = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"-", b"9", b"\n"))
    return data[:start] + filling * length + data[start + length :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: any_place(data, rng)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = any_place(data, rng)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 7, 512))) + data[start:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start = any_place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 7, 512)) :]


def _swap_blocks(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(any_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat_block(data: bytes, rng: random.Random) -> bytes:
    start = any_place(data, rng)
    block = data[start : start + rng.choice((16, 512, 4096))]
    return data[:start] + block * rng.choice((2, 3, 20)) + data[start:]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0" * 4096, rng.randbytes(100), data))


ANY: tuple[Mutation, ...] = (flip_bits, _set_bytes, _truncate, _insert, _delete, _swap_blocks, _repeat_block, _append)
