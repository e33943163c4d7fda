"""Read a case file into the arrays that the other transforms work on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_vmat.case import Case, read_case
from monai_vmat.errors import InputError
from monai_vmat.masks import BODY, DOSE_REGION, body_from_ct, pack_masks
from monai_vmat.protocol import Protocol

# The scaling of CT numbers that v2.x files were stored and trained with.
CT_RANGE_HU = (-1000.0, 3000.0)


def scale_ct(ct_hu: np.ndarray) -> np.ndarray:
    """Hounsfield units to the network's scale: ``clip(HU, -1000, 3000) / 4000 + 0.5``, float32."""
    return np.clip(ct_hu.astype(np.float32), *CT_RANGE_HU) / np.float32(CT_RANGE_HU[1] - CT_RANGE_HU[0]) + np.float32(0.5)


def unscale_ct(scaled: np.ndarray) -> np.ndarray:
    """The reverse of :func:`scale_ct`, within its range."""
    return (scaled - np.float32(0.5)) * np.float32(CT_RANGE_HU[1] - CT_RANGE_HU[0])


def case_masks(case: Case, protocol: Protocol) -> dict[str, np.ndarray]:
    """All masks of a case by name, with ``Body`` (found on the CT when not drawn) and ``DoseRegion`` (the body, when the
    protocol names none).

    Raises:
        InputError: when the dose region that the protocol names is not there.
    """
    masks = dict(case.structures)
    if protocol.dose_region is not None and protocol.dose_region not in masks:
        raise InputError(
            case.source,
            f"structure '{protocol.dose_region}', the dose region, is missing",
            "Convert the case again from its source",
        )
    body = masks.get(BODY)
    masks[BODY] = body_from_ct(case.ct_hu) if body is None else body
    masks[DOSE_REGION] = masks[BODY] if protocol.dose_region is None else masks[protocol.dose_region]
    if not masks[DOSE_REGION].any():
        raise InputError(case.source, "the dose region is empty: no body on the CT", "Check that the CT is in Hounsfield units")
    return masks


class LoadCased(MapTransform):
    """Read the case file named under ``keys``.

    Adds to the item: ``ct`` (1, X, Y, Z) scaled CT; ``structures`` (1, X, Y, Z) bits, see :mod:`monai_vmat.masks`;
    ``label`` (1, X, Y, Z) dose as a fraction of the primary prescription, when the file has one; ``constraints`` (N,);
    ``prescription_gy`` (targets,), 0 where absent; ``stored_distances`` (S, X, Y, Z) float16, only from v2.x files. Volumes are
    MetaTensors with the case's affine. Objectives stated in the item itself (``constraints``: name to value) move to
    ``stated_constraints``; ``spacing_mm``, which a
    datalist gives for v2.x files, becomes the voxel size (3,).

    Args:
        keys: where the item has the path.
        protocol: the protocol.
        require_dose: refuse cases without a dose.

    Raises:
        InputError: when the file, its dose or the protocol's dose region in it is not usable.
    """

    def __init__(self, keys: KeysCollection = "case", *, protocol: Protocol, require_dose: bool = False) -> None:
        super().__init__(keys)
        self.protocol = protocol
        self.require_dose = require_dose

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item |= self._load(item, str(item[key]))
        return item

    def _load(self, item: dict, path: str) -> dict[Hashable, Any]:
        protocol = self.protocol
        case = read_case(path, protocol, item.get("spacing_mm"))
        if self.require_dose and case.dose_gy is None:
            raise InputError(
                path, "array 'dose' is missing", "Training and evaluation need it: take the case out of the datalist"
            )
        affine = torch.as_tensor(case.affine)

        def volume(array: np.ndarray) -> MetaTensor:
            return MetaTensor(torch.as_tensor(array), affine=affine)

        out: dict[Hashable, Any] = {
            "case_id": item.get("case_id", case.case_id),
            "patient": item.get("patient", case.patient),
            "ct": volume(scale_ct(case.ct_hu)[None]),
            "structures": volume(pack_masks(case_masks(case, protocol), protocol)[None]),
            "constraints": torch.as_tensor(case.constraints),
            "stated_constraints": item.get("constraints") or {},
            "spacing_mm": torch.tensor(case.spacing_mm),
            "prescription_gy": torch.tensor([case.prescription_gy.get(t.name, 0.0) for t in protocol.targets]),
        }
        if case.dose_gy is not None:
            out["label"] = volume(case.dose_gy[None] / np.float32(protocol.rx_gy))
        if case.signed_distances is not None:
            stored = torch.empty((len(protocol.structures), *case.ct_hu.shape), dtype=torch.float16)
            for channel, name in zip(stored, protocol.structure_names, strict=True):
                # by torch, which rounds to float16 as NumPy does, but several times as fast
                channel[:] = torch.as_tensor(case.signed_distances.get(name, protocol.absent_signed_distance))
            out["stored_distances"] = MetaTensor(stored, affine=affine)
        return out
