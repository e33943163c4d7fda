"""Signed distance channels: how far each voxel lies from each structure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import edt
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_vmat.case import SDF_CLIP_MM
from monai_vmat.masks import unpack_mask
from monai_vmat.protocol import Protocol


def signed_distance(
    mask: np.ndarray, spacing_mm: Sequence[float], clip_mm: float = SDF_CLIP_MM, absent: float = 0.0, threads: int = 1
) -> np.ndarray:
    """Signed Euclidean distance to a structure as a fraction of ``clip_mm``.

    Outside, the distance to the nearest voxel centre inside; inside, minus the distance to the nearest centre outside;
    clipped at ``clip_mm``. Only the structure's bounding box widened by ``clip_mm`` is computed: everything beyond is
    clipped anyway. The grid's own border does not count as outside.

    Args:
        mask: bool (X, Y, Z).
        spacing_mm: voxel size along X, Y, Z; may be anisotropic.
        clip_mm: distances beyond it are clipped.
        absent: value of the whole volume when ``mask`` is empty.
        threads: threads of the distance transform.

    Returns:
        float32 (X, Y, Z) in [-1, 1].
    """
    if not mask.any():
        return np.full(mask.shape, absent, np.float32)
    out = np.ones(mask.shape, np.float32)
    box = []
    for axis, step in enumerate(spacing_mm):
        hit = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(clip_mm / step)) + 1
        box.append(slice(max(hit[0] - margin, 0), hit[-1] + margin + 1))
    inside = np.ascontiguousarray(mask[tuple(box)])
    options = {"anisotropy": tuple(float(s) for s in spacing_mm), "black_border": False, "parallel": threads}
    distance = edt.edt(~inside, **options) - _finite(edt.edt(inside, **options))
    out[tuple(box)] = np.clip(distance / np.float32(clip_mm), -1.0, 1.0)
    return out


def _finite(distance: np.ndarray) -> np.ndarray:
    # A structure that fills its box has no outside to measure to: edt gives infinity there.
    return np.nan_to_num(distance, posinf=1e9)


class SignedDistanced(MapTransform):
    """Add ``signed_distances`` (S, X, Y, Z), a fraction of 50 mm and negative inside, for the protocol's structures.

    ``keys`` names the packed structures. Distances that came stored with the file (``stored_distances``) are used as they
    are. Absent structures get the protocol's ``absent_signed_distance`` everywhere. float16 keeps them to 0.03 mm at half
    the memory.
    """

    def __init__(self, keys: KeysCollection = "structures", *, protocol: Protocol, threads: int = 1) -> None:
        super().__init__(keys)
        self.protocol = protocol
        self.threads = threads

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            packed: MetaTensor = item[key]
            if "stored_distances" in item:
                item["signed_distances"] = item.pop("stored_distances")
            else:
                item["signed_distances"] = MetaTensor(self._compute(packed), affine=packed.affine)
        return item

    def _compute(self, packed: MetaTensor) -> torch.Tensor:
        bits = packed.numpy()[0]
        spacing = np.linalg.norm(packed.affine.numpy()[:3, :3], axis=0)
        protocol = self.protocol
        out = np.empty((len(protocol.structures), *bits.shape), np.float16)
        for channel, name in enumerate(protocol.structure_names):
            mask = unpack_mask(bits, name, protocol)
            out[channel] = signed_distance(mask, spacing, absent=protocol.absent_signed_distance, threads=self.threads)
        return torch.from_numpy(out)
