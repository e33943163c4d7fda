"""Damage to JSON that is JSON still."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from .values import WRONG, Mutation


def _json_value(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    parent, key = rng.choice(list(json_places(content)))
    parent[key] = rng.choice(WRONG)
    return as_json(content)


def _json_key(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    objects = [parent for parent, key in json_places(content) if isinstance(key, str)]
    chosen = rng.choice(objects) if objects else content
    key = rng.choice(list(chosen))
    value = chosen.pop(key)
    if rng.random() < 0.6:
        chosen[rng.choice(("", "x", key.upper(), key + " ", "__class__", "a" * 5000))] = value
    return as_json(content)


def _json_key_twice(data: bytes, rng: random.Random) -> bytes:
    keys = list(re.finditer(rb'"\w+": *', data))
    if not keys:
        return data
    chosen = rng.choice(keys)
    return data[: chosen.start()] + chosen[0] + as_json(rng.choice(WRONG)) + b", " + data[chosen.start() :]


def _json_nesting(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((50, 900, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    values = list(re.finditer(rb"[-\d.]+|null|true|false", data)) or [re.match(rb"", data)]
    chosen = rng.choice(values)
    assert chosen is not None
    return data[: chosen.start()] + opening * depth + b"1" + closing * depth + data[chosen.end() :]


def _json_item_again(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    lists = [parent for parent, key in json_places(content) if isinstance(key, int)]
    if lists:
        chosen = rng.choice(lists)
        chosen.extend([rng.choice(chosen)] * rng.choice((1, 3, 200)))
    return as_json(content)


def _json_other(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b"", b"null", b"[]", b"3", data + data, b"\xff\xfe")
    )


def json_places(content: Any) -> list[tuple[Any, Any]]:
    """Every container and key (or index) in it."""
    found = []
    items = list(content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ())
    for key, value in items:
        found += [(content, key), *json_places(value)]
    return found


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


JSON: tuple[Mutation, ...] = (
    _json_value,
    _json_value,
    _json_key,
    _json_key_twice,
    _json_nesting,
    _json_item_again,
    _json_other,
)
