"""The network's input image, put together as the protocol says."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_vmat.beams import beam_doses
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.protocol import Protocol
from monai_vmat.transforms.load_case import unscale_ct


class ComposeImaged(MapTransform):
    """Concatenate the protocol's ``inputs`` to ``image`` (channels, X, Y, Z), float16, and drop the pieces.

    ``ct``: the scaled CT (``keys``). ``signed_distances``: one channel a structure. ``prescribed_dose``: the highest
    prescription of the targets that a voxel lies in, as a fraction of the primary one. ``dose_region``: 1 where dose may be
    non-zero. ``beam_doses``: what open beams, and beams of the best fluence, give from the protocol's gantry angles, as
    fractions of the primary prescription (:func:`monai_vmat.beams.beam_doses`).
    """

    def __init__(self, keys: KeysCollection = "ct", *, protocol: Protocol) -> None:
        super().__init__(keys)
        self.protocol = protocol

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            ct: MetaTensor = item.pop(key)
            distances = item.pop("signed_distances")
            structures = item["structures"].as_tensor()
            pieces = {
                "ct": lambda: ct.as_tensor(),
                "signed_distances": lambda: distances.as_tensor(),
                "prescribed_dose": lambda: self._prescribed_dose(structures, item["prescription_gy"]),
                "dose_region": lambda: unpack_mask(structures, DOSE_REGION, self.protocol),
                "beam_doses": lambda: self._beam_doses(ct, structures, item["prescription_gy"]),
            }
            image = torch.cat([pieces[name]().to(torch.float16) for name in self.protocol.inputs])
            item["image"] = MetaTensor(image, affine=ct.affine)
        return item

    def _prescribed_dose(self, structures: torch.Tensor, prescription_gy: torch.Tensor) -> torch.Tensor:
        dose = torch.zeros(structures.shape)
        for target, gy in zip(self.protocol.targets, prescription_gy.tolist(), strict=True):
            inside = unpack_mask(structures, target.name, self.protocol)
            dose = torch.maximum(dose, inside * (gy / self.protocol.rx_gy))
        return dose

    def _beam_doses(self, ct: MetaTensor, structures: torch.Tensor, prescription_gy: torch.Tensor) -> torch.Tensor:
        organs = torch.zeros(structures.shape, dtype=torch.bool)
        for organ in self.protocol.organs:
            organs |= unpack_mask(structures, organ.name, self.protocol)
        doses = beam_doses(
            unscale_ct(ct.numpy()[0]),
            ct.affine.numpy(),
            unpack_mask(structures, DOSE_REGION, self.protocol).numpy()[0],
            self._prescribed_dose(structures, prescription_gy).numpy()[0],
            organs.numpy()[0],
            self.protocol.gantry_angles_deg,
        )
        return torch.from_numpy(doses)
