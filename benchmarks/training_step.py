#!/usr/bin/env python3
"""What a training step costs in bfloat16 and channels-last, against the plain float32 step and against plain autocast.

Forward, loss, backward and optimiser step of the bundle's network on one patch; ours as the bundle trains, which also keeps
freed memory (monai_vmat/memory.py). TFLOP/s count the multiplications and additions of convolutions and matrices (PyTorch's
counter: forward, and backward)."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import records
import torch
from torch.utils.flop_counter import FlopCounterMode

from monai_vmat.console import run_command
from monai_vmat.engines import DoseInferer, memory_format
from monai_vmat.memory import keep_freed_memory
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.protocol import load_protocol

CPU_TARGET, GPU_TARGET = 3.0, 1.5
# Dense bfloat16 of the data sheet, for the share of peak; other GPUs get none.
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
OURS = "bfloat16, channels-last"
# amp, channels_last, keep_memory, compiled: how memory is kept holds for a whole process.
VARIANTS = {
    "float32": (False, False, False, False),
    "autocast bfloat16": (True, False, False, False),
    OURS: (True, True, True, False),
    f"{OURS}, compiled": (True, True, True, True),
}
WARM_UP = 3  # steps until the memory that is kept is enough


def make_step(
    options: argparse.Namespace,
    amp: bool,
    channels_last: bool,
    keep_memory: bool,
    compiled: bool,
) -> Callable[[], None]:
    """A training step as a function."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    device, protocol, size = torch.device(options.device), load_protocol("prostate_sib"), (options.patch,) * 3
    image = torch.rand(options.batch, protocol.in_channels, *size, device=device)
    dose = torch.rand(options.batch, 1, *size, device=device)
    constraints = torch.rand(options.batch, protocol.constraint_dim, device=device)
    network = FiLMUNet(protocol.in_channels, protocol.constraint_dim, options.width)
    network = network.to(device, memory_format=memory_format(channels_last))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    inferer = DoseInferer(amp=amp, channels_last=channels_last)
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(inferer(image, forward, constraints=constraints), dose).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> int:
    parser = records.command_line(__doc__, "python benchmarks/training_step.py --threads 2", repeats=5)
    records.add_step_options(parser, patch=96)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    options = parser.parse_args()
    device = torch.device(options.device)

    steps = {
        label: records.elsewhere(make_step, options, *variant)
        for label, variant in VARIANTS.items()
        if options.compile or not variant[-1]
    }
    with FlopCounterMode(display=False) as counter:
        make_step(options, *VARIANTS["float32"])()
    tera = counter.get_total_flops() / 1e12
    seconds = records.interleaved(steps, options.repeats, warm_up=WARM_UP)
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    peak = next((value for key, value in PEAK_TFLOPS.items() if key in name), None)
    rows = [
        [
            label,
            statistics.median(s),
            min(s),
            max(s),
            tera / statistics.median(s),
            peak and 100 * tera / peak / statistics.median(s),
        ]
        for label, s in seconds.items()
    ]
    on_cpu = device.type == "cpu"
    found = [
        records.ratio(f"training step, float32 / {OURS}", seconds["float32"], seconds[OURS], CPU_TARGET if on_cpu else None),
        records.ratio(
            f"training step, autocast alone / {OURS}",
            seconds["autocast bfloat16"],
            seconds[OURS],
            None if on_cpu else GPU_TARGET,
        ),
    ]
    if options.compile:
        found.append(records.ratio(f"training step, {OURS} / compiled", seconds[OURS], seconds[f"{OURS}, compiled"]))
    records.leave(
        options,
        f"training_step_{device.type}",
        f"A training step of width {options.width} on {options.batch} x {options.patch}^3 voxels "
        f"({tera:.2f} TFLOP), {device.type}.",
        ["step", "median s", "least", "most", "TFLOP/s", "% of peak"],
        rows,
        found,
    )
    return 0


if __name__ == "__main__":
    run_command(main)
