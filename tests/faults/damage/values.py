"""What damage is, and values that nobody expects."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

BIG = (0, 1, -1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 10**30)

NUMBERS = ("nan", "NaN", "inf", "-inf", "1e400", "-1", "0", "1e-300", "9" * 30, "9" * 5000, "0x10", "1,5", "", "None", "١٢")

WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 1e308, -1e308, 10**30, float("nan"), float("inf")),
    *("", "x", "NaN", "../../etc/passwd", "/etc/passwd", "\0", "\ud800", "$__import__('os').getcwd()", "@seed", "a" * 10_000),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3, 4], {"a": {"b": [0]}}),
)
