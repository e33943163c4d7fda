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


class RandFlipLeftRightd(Randomizable, MapTransform):
    """With probability ``prob`` mirror the volumes along the patient's left-right axis.

    ``image_key`` has its paired channels exchanged and ``structures_key`` its paired bits, so that the left parotid stays on
    the left; the other keys are only flipped. The grid's affine stays: the patient is mirrored, not the coordinates.
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
        for key in self.key_iterator(item):
            volume = item[key]
            if key == self.image_key:
                item[key] = mirror_image(volume, self.protocol)
            elif key == self.structures_key:
                item[key] = swap_pairs(volume.flip(_LEFT_RIGHT_AXIS), self.protocol)
            else:
                item[key] = volume.flip(_LEFT_RIGHT_AXIS)
        return item
