"""What the bundle's trainer and evaluators need besides MONAI: batches, the conditioned inferer, the learning rate."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import PrepareBatch
from monai.inferers import Inferer, sliding_window_inference
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_vmat.case import SDF_CLIP_MM
from monai_vmat.errors import InputError
from monai_vmat.interruption import Interrupted
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.protocol import Protocol

logger = logging.getLogger(__name__)


def flag(value: bool | str) -> bool:
    """A switch as configurations and command lines give it: true, false or their texts.

    Raises:
        InputError: for anything else.
    """
    text = str(value).lower()
    if text not in ("true", "false"):
        raise InputError(f"setting {value!r}", "true or false was expected", "Correct it")
    return text == "true"


def memory_format(channels_last: bool | str) -> torch.memory_format:
    """The memory format of the network's weights."""
    return torch.channels_last_3d if flag(channels_last) else torch.contiguous_format


@functools.cache
def computes_bfloat16(device_type: str) -> bool:
    """Whether a device computes bfloat16 itself: GPUs do, CPUs from AVX-512 on.

    On other CPUs PyTorch falls back on plain loops: a training step (width 24, 112 x 64 x 96 voxels folded by 2) took 104 s in
    bfloat16 and 0.97 s in float32 there (AMD EPYC of family 25, model 1; two threads).
    """
    native = device_type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not native:
        logger.info("This CPU has no AVX-512, and no bfloat16 worth using: networks run in float32")
    return native


class PrepareDoseBatch(PrepareBatch):
    """Split a collated batch into the network's input and the reference that losses and metrics use.

    Returns ``(image, reference, args, kwargs)`` as MONAI's trainers expect: ``image`` (B, C, X, Y, Z) float32; ``reference``
    a dict of ``dose`` (B, 1, X, Y, Z) float32 fraction of the prescription (absent at inference), ``structures`` (B, 1, X, Y,
    Z) bits, ``region`` likewise bool, ``prescription_gy`` (B, targets), ``spacing_mm`` (B, 3); ``kwargs`` holds
    ``constraints`` (B, N), ``spacing_mm`` and ``region``, cut like the image.

    Args:
        protocol: the protocol.
        signed_distances: add ``signed_distance_mm`` (B, S, X, Y, Z) to the reference, on the grid of the structures: the
            image's distance channels in mm, 50 (where distances are clipped) wherever a cropped image has none.

    Raises:
        InputError: when distances are wanted and the protocol's image has none.
    """

    def __init__(self, protocol: Protocol, signed_distances: bool | str = False) -> None:
        self.protocol = protocol
        self.signed_distances = flag(signed_distances)
        if self.signed_distances and "signed_distances" not in protocol.inputs:
            where, problem = f"protocol {protocol.name}", "its inputs have no signed_distances, which this loss needs"
            raise InputError(where, problem, "Add them to the protocol's inputs")

    def __call__(
        self, batchdata: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor], tuple, dict[str, Tensor]]:
        def take(key: str, dtype: torch.dtype | None = None) -> Tensor:
            return batchdata[key].to(device=device, dtype=dtype, non_blocking=non_blocking, **kwargs)

        structures = convert_to_tensor(take("structures"), track_meta=False)
        reference = {
            "structures": structures,
            "region": unpack_mask(structures, DOSE_REGION, self.protocol),
            "prescription_gy": take("prescription_gy"),
            "spacing_mm": take("spacing_mm"),
        }
        if "label" in batchdata:
            reference["dose"] = convert_to_tensor(take("label", torch.float32), track_meta=False)
        image = take("image", torch.float32)
        cuts: list[tuple[slice, ...]] = [(slice(None),) * 4] * len(image)
        if image.shape[2:] != structures.shape[2:]:  # MONAI's CropForegroundd left the crop's first voxel
            cuts = [self._cut(start, image.shape[2:]) for start in batchdata["foreground_start_coord"]]
        if self.signed_distances:
            reference["signed_distance_mm"] = self._distances(convert_to_tensor(image, track_meta=False), structures, cuts)
        region = torch.stack([mask[cut] for mask, cut in zip(reference["region"], cuts, strict=True)])
        conditions = {
            "constraints": take("constraints", torch.float32),
            "region": region,
            "spacing_mm": reference["spacing_mm"],
        }
        return image, reference, (), conditions

    @staticmethod
    def _cut(start: Any, shape: Sequence[int]) -> tuple[slice, ...]:
        return (slice(None), *(slice(int(first), int(first) + n) for first, n in zip(start, shape, strict=True)))

    def _distances(self, image: Tensor, structures: Tensor, cuts: Sequence[tuple[slice, ...]]) -> Tensor:
        first = self.protocol.channel_names.index(self.protocol.structure_names[0])
        distances = image[:, first : first + len(self.protocol.structures)]
        if distances.shape[2:] != structures.shape[2:]:
            whole = distances.new_ones((*distances.shape[:2], *structures.shape[2:]))
            for sample, cut in enumerate(cuts):
                whole[sample][cut] = distances[sample]
            distances = whole
        return distances * SDF_CLIP_MM


class DoseInferer(Inferer):
    """Run the network on the whole image or on sliding windows, each window with its own patient's constraints.

    MONAI's SlidingWindowInferer hands keyword arguments on whole, so that a batch of two images would break; here every
    window gets the constraint vector of the image it was cut from. Windows without a voxel that may have dose (``region``) are
    left out, their dose 0. The network runs under bfloat16 autocast if ``amp`` is set and the device computes it
    (:func:`computes_bfloat16`); the result is float32.

    Args:
        roi_size: window (X, Y, Z); a component of -1 takes the image's own extent. -1 alone: the image in one piece, which
            is what training patches want. A call may state another.
        sw_batch_size: windows per forward pass.
        overlap: share of overlap between windows; they are blended with Gaussian weights.
        amp: run the network in bfloat16 where that is safe, and faster.
        channels_last: hand images over in channels-last format (faster convolutions on most machines).
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int = -1,
        *,
        sw_batch_size: int = 1,
        overlap: float = 0.25,
        amp: bool | str = False,
        channels_last: bool | str = False,
    ) -> None:
        super().__init__()
        self.roi_size = roi_size
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.amp = flag(amp)
        self.channels_last = flag(channels_last)

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        constraints: Tensor,
        region: Tensor | None = None,
        roi_size: Sequence[int] | int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        image = convert_to_tensor(inputs, track_meta=False)
        window = self.roi_size if roi_size is None else roi_size
        if window == -1:
            return self._forward(network, image, constraints)
        wanted = torch.ones_like(image[:, :1]) if region is None else region.to(image.dtype)

        def predict(windows: Tensor, positions: list[list[slice]]) -> Tensor:
            if not windows[:, -1].any():
                return torch.zeros_like(windows[:, :1], dtype=torch.float32)
            owners = [position[0].start for position in positions]
            return self._forward(network, windows[:, :-1], constraints[owners])

        blended = sliding_window_inference(
            torch.cat([image, wanted], 1),
            window,
            self.sw_batch_size,
            predict,
            self.overlap,
            mode="gaussian",
            padding_mode="replicate",
            with_coord=True,
        )
        return convert_to_tensor(blended, track_meta=False)

    def _forward(self, network: Callable[..., Tensor], image: Tensor, constraints: Tensor) -> Tensor:
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        device = image.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.amp and computes_bfloat16(device)):
            return network(image, constraints).float()


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate at a step: a linear rise over ``warmup`` steps, then half a cosine to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def train(trainer: Engine, saved: object, complete: Callable[[Engine], None]) -> None:
    """Run the trainer; a run that has reached its last epoch already is left as it is (Ignite would begin it again).

    Args:
        trainer: the trainer.
        saved: says (``str``) what an interrupted training goes on from.
        complete: is called with a trainer that has reached its last epoch already, for what may still be missing.
    """
    if trainer.state.epoch >= trainer.state.max_epochs:
        logger.info(f"The run has finished its {trainer.state.max_epochs} epochs already")
        complete(trainer)
        return
    try:
        trainer.run()
    except Interrupted as interruption:
        interruption.add_note(str(saved))
        raise
