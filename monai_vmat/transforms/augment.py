"""Small movements of the patient and noise on the CT, by TorchIO, the same for CT, dose and structures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from monai_vmat.case import lps_affine
from monai_vmat.protocol import Protocol
from monai_vmat.transforms.turn_beams import outside


class RandPatientMotiond(Randomizable, MapTransform):
    """Rotate about the superior-inferior axis and shift, and add Gaussian noise to the CT.

    The patient is never turned upside down or back to front: dose depends on where couch and gantry are. Intensities are
    interpolated linearly, structures (integer volumes) by nearest neighbour. What comes in from outside is air on the CT,
    50 mm or more from every structure, no structure and no dose.

    Args:
        keys: volumes on one grid, (C, X, Y, Z).
        protocol: says what the channels of ``image_key`` are.
        max_degrees: largest rotation either way.
        max_shift_voxels: largest shift either way, along each axis.
        ct_noise_std: standard deviation of the noise on the scaled CT (0.02 is 80 HU).
        prob: probability of moving, and of adding noise.
        spacing_key: where the item holds its voxel size in mm (3,): rotations must be rigid in millimetres.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        protocol: Protocol,
        max_degrees: float = 5.0,
        max_shift_voxels: float = 16.0,
        ct_noise_std: float = 0.02,
        prob: float = 0.5,
        image_key: str = "image",
        spacing_key: str = "spacing_mm",
    ) -> None:
        super().__init__(keys)
        self.protocol = protocol
        self.max_degrees = max_degrees
        self.max_shift_voxels = max_shift_voxels
        self.ct_noise_std = ct_noise_std
        self.prob = prob
        self.image_key = image_key
        self.spacing_key = spacing_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        # All numbers are drawn whether used or not, so that the stream of randomness never depends on the outcome.
        degrees = float(self.R.uniform(-self.max_degrees, self.max_degrees))
        shift_voxels = self.R.uniform(-self.max_shift_voxels, self.max_shift_voxels, 3)
        noise_seed = int(self.R.randint(2**31))
        move, add_noise = self.R.random(2) < self.prob
        if move:
            spacing = np.asarray(item[self.spacing_key], np.float64)
            for key in self.key_iterator(item):
                volume = item[key]
                fill = outside(volume, self.protocol) if key == self.image_key else [0.0] * len(volume)
                item[key] = moved(volume, fill, spacing, degrees, shift_voxels * spacing)
        if add_noise and self.image_key in item:
            image = item[self.image_key].clone()
            generator = torch.Generator().manual_seed(noise_seed)
            image[0] += torch.randn(image[0].shape, generator=generator) * self.ct_noise_std  # the CT comes first
            item[self.image_key] = image
        return item


def moved(
    volume: torch.Tensor,
    fill: Sequence[float],
    spacing_mm: Sequence[float] | np.ndarray,
    degrees: float,
    shift_mm: Sequence[float] | np.ndarray,
) -> torch.Tensor:
    """Rotate (C, X, Y, Z) about the Z axis through its centre and shift it; ``fill`` holds the outside of each channel."""
    floating = torch.is_floating_point(volume)
    image = tio.ScalarImage if floating else tio.LabelMap
    out = torch.empty_like(volume)
    for value in sorted(set(fill)):
        channels = [i for i, f in enumerate(fill) if f == value]
        motion = tio.Affine(
            scales=(1.0, 1.0, 1.0),
            degrees=(0.0, 0.0, degrees),
            translation=(float(shift_mm[0]), float(shift_mm[1]), float(shift_mm[2])),
            default_pad_value=value,
            image_interpolation="linear",
        )
        subject = tio.Subject(volume=image(tensor=volume[channels], affine=lps_affine(list(spacing_mm))))
        out[channels] = motion(subject).get_images(intensity_only=False)[0].data.to(volume.dtype)
    return out
