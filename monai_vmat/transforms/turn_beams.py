"""A turned patient: where equidistant beams go all the way round, a turn by whole steps of theirs leaves the plan as good."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor

from monai_vmat.errors import InputError
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.protocol import Protocol


class RandBeamTurnd(Randomizable, MapTransform):
    """With probability ``prob`` turn the volumes about the superior-inferior axis by a multiple of the step between the beams.

    Nine beams 40 degrees apart see a patient who is turned by 40 degrees as each other's neighbours saw the first: the same
    fluences, and so the same dose, turned. The cohort grows ninefold, with plans as real as they were. (For arcs, and for beams
    that are not equidistant, this is no symmetry.) Use it on images that are cut to the dose region: the result is cut to the
    turned region. Intensities are interpolated linearly, structures (integer volumes) by nearest neighbour; what comes in from
    outside is as :func:`outside` says.

    Args:
        keys: volumes on one grid, (C, X, Y, Z); ``structures_key`` among them.
        protocol: says where the beams are and what the channels of ``image_key`` are.
        spacing_key: where the item holds its voxel size in mm (3,).

    Raises:
        InputError: where the protocol's beams are no symmetry.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        protocol: Protocol,
        prob: float = 0.5,
        image_key: str = "image",
        structures_key: str = "structures",
        spacing_key: str = "spacing_mm",
    ) -> None:
        super().__init__(keys)
        self.protocol = protocol
        self.prob = prob
        self.image_key = image_key
        self.structures_key = structures_key
        self.spacing_key = spacing_key
        self.steps = beam_steps(protocol)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        # All numbers are drawn whether used or not, so that the stream of randomness never depends on the outcome.
        turn, step = self.R.random() < self.prob, 1 + int(self.R.randint(self.steps - 1))
        if not turn:
            return item
        degrees = 360.0 * step / self.steps
        spacing = np.asarray(item[self.spacing_key], np.float64)
        structures = turned(item[self.structures_key], degrees, spacing, [0.0])
        window = extent(unpack_mask(structures, DOSE_REGION, self.protocol)[0])
        for key in self.key_iterator(item):
            if key == self.structures_key:
                item[key] = structures[(slice(None), *window)]
            else:
                volume = convert_to_tensor(item[key], track_meta=False)
                fill = outside(volume, self.protocol) if key == self.image_key else [0.0] * len(volume)
                item[key] = turned(volume[..., window[2]], degrees, spacing, fill, window[:2])
        return item


def beam_steps(protocol: Protocol) -> int:
    """Into how many equal steps the protocol's beams divide the full circle.

    Raises:
        InputError: when they are fewer than two or not equidistant.
    """
    angles = np.sort(np.mod(protocol.gantry_angles_deg, 360.0))
    gaps = np.diff(angles, append=angles[:1] + 360.0)
    if len(angles) < 2 or not np.allclose(gaps, 360.0 / len(angles), atol=1e-3):
        problem = f"turns need equidistant gantry_angles_deg all the way round, got {list(protocol.gantry_angles_deg)}"
        raise InputError(f"protocol {protocol.name}", problem, "Leave turn_probability at 0")
    return len(angles)


def outside(image: torch.Tensor, protocol: Protocol) -> list[float]:
    """What each channel of (C, X, Y, Z) is outside the volume: air, 50 mm or more from every structure, no dose."""
    fill = []
    for channel, name in zip(image, protocol.channel_names, strict=True):
        if name == "CT":
            fill.append(float(channel.min()))
        elif name in protocol.structure_names:
            constant = bool((channel == channel.flatten()[0]).all())  # an absent structure is absent outside, too
            fill.append(float(channel.flatten()[0]) if constant else 1.0)
        else:
            fill.append(0.0)
    return fill


def turned_shape(shape: Sequence[int], degrees: float, spacing_mm: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """X and Y of the smallest grid, of the same voxels, that holds (X, Y) turned about its centre."""
    cos, sin = abs(np.cos(np.deg2rad(degrees))), abs(np.sin(np.deg2rad(degrees)))
    x, y = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    # A tenth of a voxel less, so that rounding adds none at right angles.
    return tuple(int(np.ceil(n - 0.1)) for n in ((cos * x + sin * y) / spacing_mm[0], (sin * x + cos * y) / spacing_mm[1]))


def turned(
    volume: torch.Tensor,
    degrees: float,
    spacing_mm: Sequence[float] | np.ndarray,
    fill: Sequence[float],
    window: tuple[slice, ...] | None = None,
    shape: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Turn (C, X, Y, Z) about the Z axis through its centre, from X towards Y.

    Args:
        volume: integers are taken from the nearest voxel, others interpolated linearly.
        degrees: of the turn.
        spacing_mm: of a voxel, (3,): the turn is rigid in millimetres.
        fill: (C,) what each channel is outside.
        window: the part of the turned grid that is wanted, by default all.
        shape: X and Y of the turned grid, by default :func:`turned_shape`.

    Returns:
        (C, X', Y', Z), the type as it was.
    """
    old = volume.shape[1:3]
    new = turned_shape(old, degrees, spacing_mm) if shape is None else shape
    window = (slice(0, new[0]), slice(0, new[1])) if window is None else window
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x, y = (
        (torch.arange(n, dtype=torch.float64)[cut] - (n - 1) / 2) * float(size)
        for n, cut, size in zip(new, window, spacing_mm, strict=False)
    )
    x, y = x[:, None], y[None, :]
    source = [(cos * x + sin * y) / spacing_mm[0], (cos * y - sin * x) / spacing_mm[1]]
    # grid_sample counts from -1 to 1 between the outer faces of the first and last voxel, and the last axis first.
    places = [2 * place / n for place, n in zip(source, old, strict=True)]
    grid = torch.stack(places[::-1], -1)[None].to(volume.device, torch.float32)
    background = torch.tensor(list(fill), dtype=torch.float32, device=volume.device)[:, None, None, None]
    pixels = volume.float() - background
    slices = pixels.permute(0, 3, 1, 2).reshape(1, -1, *old)  # all channels and slices by one grid
    mode = "bilinear" if torch.is_floating_point(volume) else "nearest"
    sampled = F.grid_sample(slices, grid, mode=mode, padding_mode="zeros", align_corners=False)
    out = sampled.reshape(len(volume), -1, *grid.shape[1:3]).permute(0, 2, 3, 1)
    return (out + background).to(volume.dtype).contiguous()


def extent(mask: torch.Tensor) -> tuple[slice, ...]:
    """The smallest box around the voxels of (X, Y, Z); all, where there are none."""
    places = torch.nonzero(mask)
    if not len(places):
        return (slice(None),) * 3
    return tuple(slice(int(a), int(b) + 1) for a, b in zip(places.amin(0), places.amax(0), strict=True))
