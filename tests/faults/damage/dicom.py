"""Damage to DICOM files."""

from __future__ import annotations

import io
import random
import zipfile
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from .archives import inflating
from .values import NUMBERS, Mutation


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
        number = rng.choice((*NUMBERS, "1e-30", "1e30", "-1e30", "65536", "2147483647", "100000")).encode()
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
        _raw(parent, tag, parent[tag].VR, rng.choice(NUMBERS).encode())
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
        texts[rng.randrange(len(texts))] = rng.choice(NUMBERS)
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
    squeezed, _ = inflating(zipfile.ZIP_DEFLATED, b"", b"\0")
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


DICOM: tuple[Mutation, ...] = (
    *(_dcm_numbers, _dcm_numbers, _dcm_element, _dcm_element, _dcm_pixels, _dcm_contours, _dcm_nesting, _dcm_deflated),
)
