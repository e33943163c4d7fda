#!/usr/bin/env python3
"""What the losses cost: training steps with them and with the baseline's loss alone.

Forward, loss, backward and optimiser step of the bundle's network in bfloat16 and channels-last, on one patch full of
structures."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import records
import torch

from monai_vmat.console import run_command
from monai_vmat.engines import DoseInferer, memory_format
from monai_vmat.losses.asymmetric_target import AsymmetricTargetError
from monai_vmat.losses.composite import CompositeLoss
from monai_vmat.losses.dvh import DVHLoss
from monai_vmat.losses.gradient import GradientLoss
from monai_vmat.losses.mean_squared_error import MeanSquaredError
from monai_vmat.losses.negative_dose import NegativeDose
from monai_vmat.losses.perceptual import VGGPerceptualLoss
from monai_vmat.losses.structure_weighted import StructureWeightedError
from monai_vmat.masks import pack_masks
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.protocol import Protocol, load_protocol
from monai_vmat.transforms.signed_distance import signed_distance

SPACING_MM = (2.0, 2.0, 2.0)
BASELINE = "baseline"


def main() -> int:
    parser = records.command_line(__doc__, "python benchmarks/losses.py --threads 2", repeats=5)
    records.add_step_options(parser, patch=64)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    protocol = load_protocol("prostate_sib")
    image, reference, constraints = patch(protocol, options.patch, options.batch, device)
    network = FiLMUNet(protocol.in_channels, protocol.constraint_dim, base_channels=options.width)
    network = network.to(device, memory_format=memory_format(True))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    inferer = DoseInferer(amp=True, channels_last=True)

    def step_with(loss: CompositeLoss) -> Callable[[], None]:
        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss(inferer(image, network, constraints=constraints), reference).backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return step

    steps = {name: step_with(loss.to(device)) for name, loss in variants(protocol).items()}
    seconds = records.interleaved(steps, options.repeats)
    records.leave(
        options,
        f"losses_{device.type}",
        f"A training step of width {options.width} on {options.batch} x {options.patch}^3 voxels in bfloat16, {device.type}.",
        ["loss", "median s", "least", "most"],
        [[name, statistics.median(s), min(s), max(s)] for name, s in seconds.items()],
        [
            records.ratio(f"training step, {name} / {BASELINE}", found, seconds[BASELINE])
            for name, found in seconds.items()
            if name != BASELINE
        ],
        ["VGG16 has random weights: they cost the same."],
    )
    return 0


def variants(protocol: Protocol) -> dict[str, CompositeLoss]:
    """The baseline, and what is set beside it."""
    base = {"mse": MeanSquaredError(), "negative_dose": NegativeDose()}
    gradient = {"gradient": GradientLoss()}
    dvh = {"dvh": DVHLoss(protocol)}
    structure = {"structure": StructureWeightedError(protocol)}
    asymmetric = {"asymmetric": AsymmetricTargetError(protocol)}
    three = {**dvh, **structure, **asymmetric}
    chosen = {
        BASELINE: {},
        "gradient": gradient,
        "DVH + structure + asymmetric": three,
        "gradient + DVH + structure + asymmetric": {**gradient, **three},
        "gradient + VGG": {**gradient, "vgg": random_vgg()},
    }
    return {name: CompositeLoss({**base, **more}, dict.fromkeys({**base, **more}, 0.1)) for name, more in chosen.items()}


def random_vgg() -> VGGPerceptualLoss:
    widths = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
    weights = {f"features.{i}.weight": 0.05 * torch.randn(*w, 3, 3) for i, w in widths.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(weights | {f"features.{i}.bias": torch.zeros(w[0]) for i, w in widths.items()}, path)
        return VGGPerceptualLoss(path, hashlib.sha256(path.read_bytes()).hexdigest())


def patch(protocol: Protocol, n: int, batch: int, device: torch.device):
    """A patch full of structures: balls along its diagonals."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n),) * 3, indexing="ij")
    masks = {}
    for name in protocol.structure_names:
        center = np.zeros(3) if protocol.structure(name).role == "target" else rng.uniform(-0.6, 0.6, 3)
        masks[name] = sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)) < 0.35**2
    distances = np.stack([signed_distance(mask, SPACING_MM) for mask in masks.values()])
    image = torch.as_tensor(np.concatenate([rng.random((1, n, n, n), np.float32), distances]))[None].repeat(batch, 1, 1, 1, 1)
    structures = torch.as_tensor(pack_masks(masks, protocol))[None, None].repeat(batch, 1, 1, 1, 1)
    reference = {
        "dose": torch.as_tensor(rng.random((batch, 1, n, n, n), np.float32)),
        "structures": structures,
        "signed_distance_mm": image[:, 1:] * 50.0,
        "prescription_gy": torch.tensor([[70.0, 56.0]]).repeat(batch, 1),
        "spacing_mm": torch.tensor([SPACING_MM]).repeat(batch, 1),
    }
    constraints = torch.rand(batch, protocol.constraint_dim)
    return image.to(device), {k: v.to(device) for k, v in reference.items()}, constraints.to(device)


if __name__ == "__main__":
    run_command(main)
