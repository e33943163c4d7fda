"""Reading DICOM files from strangers: whatever is wrong with one ends in one message that names file and field."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.errors import InputError

EXPORT_AGAIN = "Export it again or leave it out"

_MAX_PIXELS = 2**31  # of a series or dose: 2048 x 2048 x 512; a header that claims more is damaged, or an attack on the memory
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_DEFLATED = "1.2.840.10008.1.2.1.99"


def load_pydicom() -> Any:
    """The module pydicom, made to keep patients' names to itself.

    Raises:
        InputError: when it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError("pydicom", "is needed to read DICOM files", "pip install 'monai_vmat[dicom]'") from error
    # Its warnings and log lines quote values, a patient's name among them.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pydicom


def read_dataset(path: Path, where: str, tags: Sequence[str] | None = None) -> Any:
    """A file's dataset; pixels are read only when ``tags`` is None.

    Args:
        path: the file.
        where: how messages call it.
        tags: keywords to read; all when None.

    Returns:
        a ``pydicom.Dataset``, or None when the file is no DICOM file.

    Raises:
        InputError: when it is damaged, cannot be opened, or pydicom is not installed.
    """
    pydicom = load_pydicom()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, a patient's name among them
            meta = pydicom.filereader.read_file_meta_info(path)
            # Inflating happens at once and without limit: ten megabytes may hold ten gigabytes.
            if meta.get("TransferSyntaxUID") == _DEFLATED:
                raise InputError(where, "deflated DICOM files are not read", "Export it in explicit VR little endian")
            with open(path, "rb") as file:
                dataset = pydicom.filereader.read_partial(
                    file,
                    stop_when=_until_the_pixels(included=tags is None),
                    specific_tags=None if tags is None else [pydicom.tag.Tag(keyword) for keyword in tags],
                )
            _require_whole(dataset, where)
            return dataset
    except InputError:
        raise
    except pydicom.errors.InvalidDicomError:
        return None
    except OSError as error:
        raise InputError(where, f"cannot be read ({error.strerror or 'it ends too early'})", EXPORT_AGAIN) from error
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(where, f"is a damaged DICOM file ({type(error).__name__})", EXPORT_AGAIN) from error


def _until_the_pixels(included: bool) -> Callable[..., bool]:
    """Where reading stops. Nothing matters that comes after the pixels, least of all what a disk has left behind them; group 0
    has no place in a file, and zeros would be elements of it without end."""
    read = False

    def stop(tag: int, *_: Any) -> bool:
        nonlocal read
        if read or tag >> 16 == 0:
            return True
        read = tag in _PIXELS
        return read and not included

    return stop


def text(dataset: Any, keyword: str) -> str:
    """A field as text; empty when it is missing or damaged."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom decodes a value when it is asked for
        return ""
    return "" if value is None else str(value).strip()


def numbers(dataset: Any, keyword: str, count: int, where: str) -> tuple[float, ...]:
    """A field of ``count`` finite numbers.

    Raises:
        InputError: when it is missing or anything else.
    """
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            raise InputError(where, f"{keyword} is missing", EXPORT_AGAIN)
        found = tuple(float(v) for v in (value if count > 1 else [value]))
    except InputError:
        raise
    except Exception as error:
        raise InputError(where, f"{keyword}: {count} number(s) were expected", EXPORT_AGAIN) from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise InputError(where, f"{keyword}: {count} finite number(s) were expected, got {list(found)[:6]}", EXPORT_AGAIN)
    return found


def sequence(dataset: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none when it is missing or damaged."""
    try:
        return list(dataset.get(keyword) or ())
    except Exception:
        return []


def frame_shape(dataset: Any, where: str, files: int = 1) -> tuple[int, int, int]:
    """Frames, rows and columns that a header claims, believed only when ``files`` of them would fit the memory.

    Raises:
        InputError: when fields are missing, below 1 or absurd, or pixels are not plain grey values.
    """
    rows, columns = (int(numbers(dataset, k, 1, where)[0]) for k in ("Rows", "Columns"))
    frames = int(numbers(dataset, "NumberOfFrames", 1, where)[0]) if text(dataset, "NumberOfFrames") else 1
    if min(frames, rows, columns) < 1 or frames * rows * columns * files > _MAX_PIXELS:
        problem = f"Rows, Columns, frames: {rows} x {columns} x {frames * files} is no size of a volume that can be read"
        raise InputError(where, problem, EXPORT_AGAIN)
    if text(dataset, "SamplesPerPixel") not in ("", "1"):
        raise InputError(where, f"SamplesPerPixel: 1 was expected, got {text(dataset, 'SamplesPerPixel')}", EXPORT_AGAIN)
    return frames, rows, columns


def read_pixels(dataset: Any, where: str) -> np.ndarray:
    """Stored values (frames, rows, columns), not yet scaled.

    Raises:
        InputError: when there are none, they are fewer than the header claims, or their compression has no decoder here.
    """
    shape = frame_shape(dataset, where)
    if not dataset.get("PixelData"):
        raise InputError(where, "PixelData is missing", EXPORT_AGAIN)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not getattr(syntax, "is_transfer_syntax", False):  # damaged, it may be anything
        raise InputError(where, "TransferSyntaxUID is missing or unknown: how PixelData is coded cannot be told", EXPORT_AGAIN)
    if syntax.is_compressed:
        mend = "Export it uncompressed, or pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        failure = f"PixelData: compressed as {syntax.name}, which cannot be decoded here"
    else:
        mend, failure = EXPORT_AGAIN, "PixelData: cannot be decoded"
        expected = math.prod(shape) * int(numbers(dataset, "BitsAllocated", 1, where)[0]) // 8
        if len(dataset.PixelData) < expected:
            problem = f"PixelData: {expected} bytes were expected, got {len(dataset.PixelData)}"
            raise InputError(where, problem, EXPORT_AGAIN)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dataset.pixel_array.reshape(shape)
    except Exception as error:  # decoders fail in many ways
        raise InputError(where, failure, mend) from error


def _require_whole(dataset: Any, where: str) -> None:
    """pydicom gives what is left of a truncated file without a word: half of the contours, say."""
    for tag in dataset.keys():
        element = dataset.get_item(tag)
        value, length = element.value, getattr(element, "length", 0)
        if isinstance(value, bytes) and length != _UNDEFINED_LENGTH and len(value) < length:
            raise InputError(where, f"is truncated: element {tag} has {len(value)} of {length} bytes", EXPORT_AGAIN)
