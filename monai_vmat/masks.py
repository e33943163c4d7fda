"""Many structures in one volume: bit k of a voxel says whether it lies in structure k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from monai_vmat.protocol import Protocol

if TYPE_CHECKING:  # command lines that need no torch start a second sooner without it
    import torch

BODY = "Body"
DOSE_REGION = "DoseRegion"
_BODY_THRESHOLD_HU = -400
_WITHIN_SLICE = ndimage.generate_binary_structure(3, 1) & [False, True, False]


def bit_names(protocol: Protocol) -> tuple[str, ...]:
    """What each bit stands for: the protocol's structures in channel order, then the body and the dose region."""
    return (*protocol.structure_names, BODY, DOSE_REGION)


def pack_masks(masks: Mapping[str, np.ndarray], protocol: Protocol) -> np.ndarray:
    """Pack boolean (X, Y, Z) masks into one int16 (int32 beyond 15 bits) volume; names that are not given stay empty."""
    names = bit_names(protocol)
    shape = next(iter(masks.values())).shape
    packed = np.zeros(shape, np.int16 if len(names) < 16 else np.int32)
    for bit, name in enumerate(names):
        if name in masks:
            packed |= masks[name].astype(packed.dtype) << bit
    return packed


def unpack_mask(packed, name: str, protocol: Protocol):
    """The boolean mask of ``name`` from a packed array or tensor of any shape."""
    return (packed >> bit_names(protocol).index(name)) & 1 == 1


def unpack_masks(packed: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """All masks that are not empty, by name."""
    masks = {name: unpack_mask(packed, name, protocol) for name in bit_names(protocol)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def swap_pairs(packed: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """Exchange the bits of paired (left and right) structures, as a mirror image demands."""
    names = bit_names(protocol)
    for left, right in protocol.pairs:
        i, j = names.index(left), names.index(right)
        differs = ((packed >> i) ^ (packed >> j)) & 1
        packed = packed ^ ((differs << i) | (differs << j))
    return packed


def body_from_ct(ct_hu: np.ndarray) -> np.ndarray:
    """The patient's outline from the CT: the largest piece denser than -400 HU, holes filled slice by slice.

    Args:
        ct_hu: (X, Y, Z) in Hounsfield units, Z along the patient.

    Returns:
        bool (X, Y, Z); empty when nothing is denser than the threshold.
    """
    dense = ct_hu > _BODY_THRESHOLD_HU
    body = np.zeros(ct_hu.shape, bool)
    if not dense.any():
        return body
    planes = [np.flatnonzero(dense.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(p[0], p[-1] + 1) for p in planes)  # the air around costs as much as the patient
    labels, _ = ndimage.label(dense[box])
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    air, count = ndimage.label(labels != sizes.argmax(), _WITHIN_SLICE)
    outside = np.zeros(count + 1, bool)
    outside[air[[0, -1]]] = outside[air[:, [0, -1]]] = True
    outside[0] = False  # the piece itself
    body[box] = ~outside[air]
    return body
