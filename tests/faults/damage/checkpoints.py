"""Damage to checkpoints: zip archives of a pickle and of tensors."""

from __future__ import annotations

import io
import math
import random
import re
import zipfile
from typing import Any

import torch

from .any_bytes import ANY
from .archives import ZIP, archive_of, bomb_archive, members_of, merged
from .json_text import json_places
from .values import BIG, WRONG, Mutation


def _pt_tensor(data: bytes, rng: random.Random) -> bytes:
    """A tensor of other values, shape or type; one that is a view of little memory."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    places = [(parent, key) for parent, key in json_places(content) if isinstance(parent[key], torch.Tensor)]
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
    places = [(parent, key) for parent, key in json_places(content) if not isinstance(parent[key], torch.Tensor)]
    parent, key = rng.choice(places)
    if rng.random() < 0.3 and isinstance(parent, dict):
        value = parent.pop(key)
        if rng.random() < 0.5:
            parent[rng.choice((f"{key}x", 3, "", ("a", 1), None))] = value
    else:
        parent[key] = rng.choice([value for value in WRONG if value != "\ud800"])
    return _saved(content)


def _pt_other(data: bytes, rng: random.Random) -> bytes:
    return _saved(rng.choice((None, [], torch.zeros(3), "x", {}, {"network": None}, {"network": {}}, {3: 4}, [{}], 1.5)))


def _pt_pickle(data: bytes, rng: random.Random) -> bytes:
    """The pickle in the archive, damaged; its numbers, among them sizes and offsets of tensors, most of all."""
    members = members_of(data)
    name = next(n for n in members if n.endswith("data.pkl"))
    pickled = bytearray(members[name])
    if rng.random() < 0.6:
        numbers = [m.start() for m in re.finditer(rb"[KM]..", bytes(pickled), re.DOTALL)]
        at = rng.choice(numbers)
        big = rng.choice(BIG)
        pickled[at : at + (2 if pickled[at] == ord("K") else 3)] = b"\x8a\x0e" + big.to_bytes(14, "little", signed=True)
        members[name] = bytes(pickled)
    else:
        members[name] = rng.choice(ANY)(bytes(pickled), rng)
    return archive_of(list(members.items()), zipfile.ZIP_STORED)


def _pt_bomb(data: bytes, rng: random.Random) -> bytes:
    """A storage, or the pickle, of gigabytes in a small archive."""
    members = members_of(data)
    name = rng.choice([n for n in members if "/data/" in n or n.endswith("data.pkl")])
    rest = archive_of([(n, c) for n, c in members.items() if n != name], zipfile.ZIP_STORED)
    return merged(rest, bomb_archive(name, zipfile.ZIP_DEFLATED, b"", b"\0"))


def _pt_legacy(data: bytes, rng: random.Random) -> bytes:
    """The format before the archives, damaged."""
    file = io.BytesIO()
    torch.save(torch.load(io.BytesIO(data), weights_only=True), file, _use_new_zipfile_serialization=False)
    return rng.choice(ANY)(file.getvalue(), rng)


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


CHECKPOINT: tuple[Mutation, ...] = (*ZIP, *(_pt_tensor, _pt_value, _pt_pickle) * 3, _pt_other, _pt_bomb, _pt_legacy)
