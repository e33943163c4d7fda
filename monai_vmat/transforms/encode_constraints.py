"""Objectives stated beside a case, written into its constraint vector."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_vmat.protocol import Protocol


class EncodeConstraintsd(MapTransform):
    """Overwrite entries of the constraint vector under ``keys`` with the objectives of ``stated_constraints``.

    ``stated_constraints`` maps a constraint's name to its value in the protocol's unit (for example
    ``{"Rectum_V50Gy": 0.35}``); it comes from the datalist or from the inference command. The vector stays float32
    (constraint_dim,).

    Raises:
        InputError: for an unknown name or a value that is not a finite number >= 0.
    """

    def __init__(self, keys: KeysCollection = "constraints", *, protocol: Protocol) -> None:
        super().__init__(keys)
        self.protocol = protocol

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        stated = item.pop("stated_constraints", {})
        if stated:
            encoded = torch.as_tensor(self.protocol.encode_constraints({}, stated))
            chosen = torch.tensor([c.name in stated for c in self.protocol.constraints])
            for key in self.key_iterator(item):
                item[key] = torch.where(chosen, encoded, item[key])
        return item
