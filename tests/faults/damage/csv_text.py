"""Damage to CSV."""

from __future__ import annotations

import random

from .any_bytes import any_place
from .values import NUMBERS, Mutation


def _csv_field(data: bytes, rng: random.Random) -> bytes:
    start = any_place(data, rng)
    line = data.find(b"\n", start) + 1
    end = data.find(b"\n", line)
    fields = data[line : end if end >= 0 else len(data)].split(b",")
    fields[rng.randrange(len(fields))] = rng.choice(NUMBERS).encode()
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


CSV: tuple[Mutation, ...] = (_csv_field, _csv_field, _csv_lines, _csv_form)
