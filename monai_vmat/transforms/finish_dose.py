"""From the network's output to a dose: on the case's whole grid, nowhere negative, nothing where dose cannot be."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from monai_vmat.errors import InputError
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.protocol import Protocol


class FinishDosed(MapTransform):
    """Put the prediction (1 or 2, x, y, z) of the cropped image back onto the grid of the structures (1, X, Y, Z).

    Outside the crop the dose is 0, negative values become 0, and so does everything outside the protocol's dose region,
    where it names one. A second channel, the standard deviation, is put beside it under ``<key>_sd``. MONAI's CropForegroundd
    left the crop's first voxel under ``start_key``, and ``case_id`` says whose dose it is.

    Raises:
        InputError: when the prediction holds NaN or infinity.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        protocol: Protocol,
        structures_key: str = "structures",
        start_key: str = "foreground_start_coord",
    ) -> None:
        super().__init__(keys)
        self.protocol = protocol
        self.structures_key = structures_key
        self.start_key = start_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        structures = convert_to_tensor(item[self.structures_key], track_meta=False)
        start = [int(v) for v in item[self.start_key]]
        for key in self.key_iterator(item):
            cropped = convert_to_tensor(item[key], track_meta=False).clamp(min=0.0)
            if not torch.isfinite(cropped).all():
                mend = "Use other weights; a training goes wrong so when its --learning_rate is too high"
                raise InputError(f"case {item['case_id']}", "its predicted dose holds NaN or infinity", mend)
            dose = torch.zeros((len(cropped), *structures.shape[1:]), dtype=cropped.dtype, device=cropped.device)
            dose[(slice(None), *(slice(s, s + n) for s, n in zip(start, cropped.shape[1:])))] = cropped
            if self.protocol.dose_region is not None:
                dose *= unpack_mask(structures, DOSE_REGION, self.protocol).to(dose.device)
            item[key] = dose[:1]
            if len(dose) > 1:
                item[f"{key}_sd"] = dose[1:]
        return item
