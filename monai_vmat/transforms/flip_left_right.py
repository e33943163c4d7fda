"""A mirrored patient: as plausible as the original, because planning is nearly symmetric between left and right."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from monai_vmat.masks import swap_pairs
from monai_vmat.protocol import Protocol

# Cases are (X, Y, Z) with X along the patient's left-right axis (see monai_vmat.case), so with the channel in front:
_LEFT_RIGHT_AXIS = 1


def mirror_image(image: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """Flip (channels, X, Y, Z) along left-right and exchange the channels of paired structures."""
    order = list(range(len(protocol.channel_names)))
    for left, right in protocol.pairs:
        i, j = protocol.channel_names.index(left), protocol.channel_names.index(right)
        order[i], order[j] = order[j], order[i]
    mirrored = torch.empty_like(image)
    for channel, source in enumerate(order):  # one copy, where flip()[order] makes two
        mirrored[channel] = image[source].flip(0)
    return mirrored


def mirror_constraints(constraints: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """Constraint vectors (..., constraint_dim) of the mirrored patient: what limits a paired structure limits its partner."""
    partner = {name: other for pair in protocol.pairs for name, other in (pair, pair[::-1])}
    places = {(c.structure, c.metric): place for place, c in enumerate(protocol.constraints)}
    order = [
        places.get((partner.get(c.structure, c.structure), c.metric), place) for place, c in enumerate(protocol.constraints)
    ]
    return constraints[..., order]


class RandFlipLeftRightd(Randomizable, MapTransform):
    """With probability ``prob`` mirror the volumes along the patient's left-right axis.

    ``image_key`` has its paired channels exchanged and ``structures_key`` its paired bits, so that the left parotid stays on
    the left; the other keys are only flipped. The ``constraints`` of paired structures are exchanged, too. The grid's affine
    stays: the patient is mirrored, not the coordinates.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        protocol: Protocol,
        prob: float = 0.5,
        image_key: str = "image",
        structures_key: str = "structures",
    ) -> None:
        super().__init__(keys)
        self.protocol = protocol
        self.prob = prob
        self.image_key = image_key
        self.structures_key = structures_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        if self.R.random() >= self.prob:
            return item
        if "constraints" in item:
            item["constraints"] = mirror_constraints(item["constraints"], self.protocol)
        for key in self.key_iterator(item):
            volume = item[key]
            if key == self.image_key:
                item[key] = mirror_image(volume, self.protocol)
            elif key == self.structures_key:
                item[key] = swap_pairs(volume.flip(_LEFT_RIGHT_AXIS), self.protocol)
            else:
                item[key] = volume.flip(_LEFT_RIGHT_AXIS)
        return item
