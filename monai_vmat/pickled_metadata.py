"""The pickled ``metadata`` of v2.x files, read without unpickling.

Python's unpickler calls whatever a file names. Here is an interpreter for the few instructions that plain values consist of:
it imports nothing and calls nothing that a file names. The names that NumPy's pickles need (NumPy 1 and 2 call some modules
differently) stand for functions of this module; every other name is refused.
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive

# A plan's facts take some kilobytes. These limits keep time and memory small whatever a file asks for: what a pickle mentions
# once it can refer to a million times.
MAX_BYTES = 4 * 1024**2
MAX_INSTRUCTIONS = 200_000
MAX_SIZE = 300_000  # values and characters of texts, each time they appear
MAX_DEPTH = 32
MAX_KEY = 256
_MAX_ENCODED = 4096

_FIELD = "array 'metadata'"
_MEND = "Migrate the file with --without-metadata, or save its metadata again as plain values"
_TYPE = re.compile(r"b1|[iu][1248]|f[248]|U[1-9]\d{0,5}|O8?")


def read_pickled_metadata(archive: NpzArchive) -> dict[str, Any]:
    """The metadata of a v2.x file; ``{}`` where it has none.

    Returns:
        nothing but dict (keys are text), list, str, int (64 bits), float, bool and None: tuples and arrays become lists,
        NumPy's scalars the numbers that they are.

    Raises:
        InputError: for a class, function or instruction that plain values do not need, naming it; for more than 4 MiB,
            200,000 instructions, 300,000 values and characters or 32 levels; for damaged data; for no dictionary.
    """
    if "metadata" not in archive:
        return {}
    data = archive.read_pickle("metadata", MAX_BYTES)
    try:
        plain = _Plain()(_run(data))
    except _Refused as refused:
        raise InputError(archive.path, f"{_FIELD} {refused}", _MEND) from refused
    except Exception as error:  # a damaged pickle fails in many ways
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise InputError(archive.path, f"{_FIELD} is no whole pickle ({reason})", _MEND) from error
    content = plain[0] if isinstance(plain, list) and len(plain) == 1 else None  # the object array that NumPy saved it in
    if not isinstance(content, dict):
        raise InputError(archive.path, f"{_FIELD}: one dictionary was expected", _MEND)
    return content


class _Refused(ValueError):
    """The pickle asks for what is not allowed; the text goes on a message about the field."""


def _refuse(problem: str) -> NoReturn:
    raise _Refused(problem)


def _shown(text: str) -> str:
    """A stranger's text for a message: short, one line, plain ASCII."""
    return ascii(text[:80])[1:-1] + ("..." if len(text) > 80 else "")


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names. Nothing is imported for it."""

    module: str
    name: str


@dataclass
class _Type:
    """A NumPy type in the making: its code, then its byte order."""

    code: str
    order: str = "="

    def build(self, state: tuple) -> None:
        _, order, *of_records = state[:5]
        if order not in ("<", ">", "|", "=") or of_records != [None] * 3:
            _refuse(f"holds the NumPy type {self.code} with fields")
        self.order = order

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order.replace("|", "=") + self.code)


@dataclass
class _Array:
    """A NumPy array (or scalar) in the making; ``content`` looks at the pickle's own bytes or items."""

    content: np.ndarray | list | None = None

    def build(self, state: tuple) -> None:
        _, shape, kind, fortran, raw = state
        self._fill(shape, kind, raw, "F" if fortran else "C")

    def _fill(self, shape: Any, kind: Any, raw: Any, order: str) -> _Array:
        if not isinstance(kind, _Type) or not isinstance(shape, tuple) or len(shape) > 8:
            _refuse("holds an array of no known type")
        if not all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape):
            _refuse("holds an array of an impossible shape")
        if kind.code.startswith("O"):
            if not isinstance(raw, list) or len(raw) != math.prod(shape) or len(shape) > 1:
                _refuse("holds an object array whose shape is not that of its items")
            self.content = raw
        else:
            if not isinstance(raw, (bytes, bytearray)) or len(raw) != math.prod(shape) * kind.dtype.itemsize:
                _refuse("holds an array whose shape is not that of its bytes")
            self.content = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if order == "F" else "C")
        return self


def _new_array(kind: Any, shape: Any, code: Any) -> _Array:
    if kind != _Name("numpy", "ndarray"):
        _refuse("holds an array of an unknown class")
    return _Array()


def _array_of_bytes(raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array()._fill(shape, kind, raw, order)


def _scalar(kind: Any, raw: Any) -> _Array:
    return _Array()._fill((), kind, raw, "C")


def _new_type(code: Any, align: Any, copy: Any) -> _Type:
    if not isinstance(code, str) or not _TYPE.fullmatch(code):
        _refuse(f"holds the NumPy type {_shown(code) if isinstance(code, str) else type(code).__name__}")
    return _Type(code)


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1" or len(text) > _MAX_ENCODED:
        _refuse(f"holds bytes that are not latin1 text of at most {_MAX_ENCODED}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes none."""
    return b""


# Every name that a pickle of plain values and arrays has: exact pairs, no module as a whole.
_MEANINGS: dict[_Name, Callable[..., Any] | None] = {
    _Name("numpy", "ndarray"): None,  # an argument, never called
    _Name("numpy", "dtype"): _new_type,
    _Name("_codecs", "encode"): _encode,
    _Name("__builtin__", "bytes"): _no_bytes,
    **{_Name(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{_Name(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{_Name(f"numpy.{core}.numeric", "_frombuffer"): _array_of_bytes for core in ("core", "_core")},
}

_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IDLE = {"PROTO", "FRAME"}


def _run(data: bytes) -> Any:
    """What the pickle's instructions make; :class:`_Plain` turns it into plain values."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_from_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if count >= MAX_INSTRUCTIONS:
            _refuse(f"has more than {MAX_INSTRUCTIONS} instructions")
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name == "TUPLE":
            stack.append(tuple(pop_from_mark()))
        elif name == "LIST":
            stack.append(pop_from_mark())
        elif name == "DICT":
            stack.append(_set_items({}, pop_from_mark()))
        elif name == "APPEND":
            _add_items(stack[-2], [stack.pop()])
        elif name == "APPENDS":
            items = pop_from_mark()
            _add_items(stack[-1], items)
        elif name == "SETITEM":
            items = [stack.pop(), stack.pop()][::-1]
            _set_items(stack[-1], items)
        elif name == "SETITEMS":
            items = pop_from_mark()
            _set_items(stack[-1], items)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "INST"):  # INST would make an object of a class: no known name is one
            stack.append(_known(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_known(module, attribute))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            meaning = _MEANINGS.get(function) if isinstance(function, _Name) else None
            if meaning is None or not isinstance(arguments, tuple):
                _refuse("calls what is no function")
            stack.append(meaning(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], (_Type, _Array)) or not isinstance(state, tuple):
                _refuse("builds an object of an unknown class")
            stack[-1].build(state)
        elif name == "STOP":
            return stack.pop()
        elif name not in _IDLE:
            _refuse(f"uses the instruction {name}, which plain values do not need")
    _refuse("is cut short")


def _known(module: Any, attribute: Any) -> _Name:
    if not isinstance(module, str) or not isinstance(attribute, str):
        _refuse("names what is no text")
    name = _Name(module, attribute)
    if name not in _MEANINGS:
        _refuse(f"needs '{_shown(f'{module}.{attribute}')}', which is never loaded (plain values and arrays of numbers are)")
    return name


def _add_items(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        _refuse("appends to what is no list")
    target.extend(items)


def _set_items(target: Any, items: list[Any]) -> dict[str, Any]:
    if type(target) is not dict:
        _refuse("sets items of what is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, _Array):  # a NumPy text or number
            key = _Plain(MAX_KEY)(key)
        if not isinstance(key, (str, int, float)) and key is not None:
            _refuse(f"has a key of type {type(key).__name__}")
        if isinstance(key, str) and len(key) > MAX_KEY or isinstance(key, int) and key.bit_length() > 64:
            _refuse(f"has a key of more than {MAX_KEY} characters")
        target[str(key)] = value
    return target


class _Plain:
    """Turns what :func:`_run` made into plain values; ``room`` is for so many values and characters."""

    def __init__(self, room: int = MAX_SIZE) -> None:
        self.room = room

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            _refuse(f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, _Array) and value.content is not None:
            value = value.content
        if isinstance(value, np.ndarray):
            return self._array(value)
        self._take(1 + len(value) if isinstance(value, str) else 1)
        if isinstance(value, dict):
            self._take(sum(map(len, value)))
            return {key: self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, int) and value.bit_length() > 64:
            _refuse("holds a whole number beyond 64 bits")
        if isinstance(value, (str, int, float)) or value is None:  # a bool is an int
            return value
        _refuse("holds bytes" if isinstance(value, (bytes, bytearray)) else "holds what is no plain value")

    def _array(self, array: np.ndarray) -> Any:
        characters = array.dtype.itemsize // 4 if array.dtype.kind == "U" else 0
        self._take((1 + characters) * array.size)
        if characters:
            codes = np.ascontiguousarray(array).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
            if (codes > sys.maxunicode).any():
                _refuse("holds bytes that are no characters")
        return array.tolist()

    def _take(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            _refuse("holds more values and characters than are allowed")
