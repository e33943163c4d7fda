"""A case's volumes in a web page: bytes on a stated scale, without loss beyond it, small.

An 8-bit volume travels as base64 text of zlib data. A browser undoes both exactly (``DecompressionStream``), which an image in
a canvas does not promise: colour management and protection against fingerprinting change pixels.

Smooth volumes pack better as differences from the neighbours in the slice. So each volume is packed as it is and as
differences modulo 256 along X, then Y, and the smaller text is kept.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from monai_vmat.reports.evaluation import CaseVolumes
from monai_vmat.reports.planes import CT_WINDOW_HU, LEAST_DIFFERENCE_GY, SHOWN_FROM, difference_limit

CT_STEP_HU = 4.0
GAMMA_STEPS = 20  # to a gamma of 1
_MARGIN_VOXELS = 3


def pack_case(volumes: CaseVolumes, primary: str) -> dict[str, Any]:
    """The volumes of a case, cropped to where there is dose or a structure, with the scales to read them by.

    A stored byte b means ``low + b * step``:

    * ``ct``: in HU, cut off at the window's ends;
    * ``reference``: in Gy, 255 being its maximum;
    * ``difference``: predicted - reference in Gy, 128 being zero; the prediction is the sum of the two;
    * ``gamma``: 0 where not evaluated; otherwise gamma lies from (b - 1) * step up to b * step, the latter left out, so that
      pass (below 1) or fail is exact.

    Bit k of a voxel's byte in plane j of ``masks`` says whether it lies in structure 8 * j + k of ``structures``.

    Args:
        volumes: the case.
        primary: the structure in whose middle to begin; without it, the middle of the volume.

    Returns:
        a JSON-ready dict: ``shape``, ``spacing`` (mm) and ``first`` (index on the case's grid) along X, Y, Z, ``start`` (the
        voxel to begin with), ``structures`` (names),
        ``dose_top`` and ``difference_limit`` (Gy, ends of the colour scales: the difference's is the 99th percentile),
        ``volumes`` (``low``, ``step``, ``delta``, ``data`` of each) and ``masks`` (``delta``, ``data`` of each byte plane).
    """
    reference, predicted, masks = volumes.reference_gy, volumes.predicted_gy, volumes.masks
    box = _box(np.logical_or.reduce([reference > SHOWN_FROM * reference.max(), *masks.values()]))
    difference = (predicted - reference)[box]
    difference_step = max(float(np.abs(difference).max()), LEAST_DIFFERENCE_GY) / 127
    irradiated = reference[box] > SHOWN_FROM * reference.max()
    gamma = volumes.gamma[box].astype(np.float64)
    middle = masks[primary][box] if primary in masks else np.ones(gamma.shape, bool)
    planes = [np.zeros(gamma.shape, np.uint8) for _ in range(-(-len(masks) // 8))]
    for index, mask in enumerate(masks.values()):
        planes[index // 8] |= mask[box].astype(np.uint8) << (index % 8)
    return {
        "shape": gamma.shape,
        "first": [cut.start for cut in box],
        "spacing": volumes.spacing_mm,
        "start": [round(float(indices.mean())) for indices in np.nonzero(middle)],
        "structures": list(masks),
        "dose_top": float(max(reference.max(), predicted.max())),
        "difference_limit": difference_limit(difference[irradiated]),
        "volumes": {
            "ct": _quantised(np.clip(volumes.ct_hu[box], *CT_WINDOW_HU), CT_WINDOW_HU[0], CT_STEP_HU),
            "reference": _quantised(reference[box], 0.0, float(reference.max()) / 255),
            "difference": _quantised(difference, -128 * difference_step, difference_step),
            "gamma": {
                "low": 0.0,
                "step": 1 / GAMMA_STEPS,
                **pack(np.where(np.isnan(gamma), 0, 1 + np.floor(gamma * GAMMA_STEPS))),
            },
        },
        "masks": [pack(plane) for plane in planes],
    }


def pack(codes: np.ndarray) -> dict[str, Any]:
    """Whole numbers 0 to 255, (X, Y, Z), as text: ``data``, and ``delta``: whether it holds differences. X runs fastest."""
    plain = codes.astype(np.uint8)
    texts = []
    for values in (plain, _differences(plain)):
        texts.append(base64.b64encode(zlib.compress(values.transpose(2, 1, 0).tobytes(), 9)).decode())
    delta = len(texts[1]) < len(texts[0])
    return {"delta": delta, "data": texts[delta]}


def _quantised(values: np.ndarray, low: float, step: float) -> dict[str, Any]:
    return {"low": low, "step": step, **pack(np.rint((values - low) / step))}


def _differences(values: np.ndarray) -> np.ndarray:
    """Each voxel less its neighbour before it along X, then along Y, modulo 256; the first ones as they are."""
    for axis in (0, 1):
        values = np.diff(values, axis=axis, prepend=np.zeros_like(values.take([0], axis)))
    return values


def _box(region: np.ndarray) -> tuple[slice, ...]:
    """The slices around all voxels of the region, with a margin inside the volume."""
    box = []
    for axis in range(3):
        used = np.flatnonzero(region.any(tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(used[0]) - _MARGIN_VOXELS), int(used[-1]) + 1 + _MARGIN_VOXELS))
    return tuple(box)
