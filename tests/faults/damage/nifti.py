"""Damage to NIfTI files."""

from __future__ import annotations

import gzip
import math
import random
import struct
import zipfile

from .any_bytes import ANY
from .archives import BOMB_BYTES, inflating
from .values import Mutation


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
    return gzip.compress(rng.choice(ANY)(gzip.decompress(data), rng), 1)


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
    squeezed, crc = inflating(zipfile.ZIP_DEFLATED, bytes(content), b"\0")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + squeezed + struct.pack("<II", crc, (len(content) + BOMB_BYTES) % 2**32)


NIFTI: tuple[Mutation, ...] = (_nii_header, _nii_header, _nii_inside, _nii_extension, _nii_bomb)
