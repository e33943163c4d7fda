#!/usr/bin/env python3
"""Turn a checkpoint of the earlier PyTorch Lightning project (*.ckpt) into weights for this one."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole
from monai_vmat.lightning_checkpoint import LightningCheckpoint, read_lightning_checkpoint

EXAMPLE = """example:
  python data_scripts/import_checkpoint.py old/best.ckpt models/imported.pt

Nothing in the checkpoint is executed: one that needs a class of another package is refused, naming the class. Optimiser,
schedule and loss weights are not taken over: the result predicts and evaluates, and is no run to go on with."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="checkpoint of the earlier project")
    parser.add_argument("out", metavar="OUT", type=Path, help="file for the weights (.pt)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    options = parser.parse_args()
    if options.out.exists() and not options.overwrite:
        raise InputError(options.out, "exists already", "Add --overwrite to replace it, or choose another name")

    found = read_lightning_checkpoint(options.checkpoint)
    content = {
        "network": found.network.state_dict(),
        "imported_from": options.checkpoint.name,
        "epoch": found.epoch,
        **found.sizes,
    }
    with write_whole(options.out) as temporary, open(temporary, "wb") as file:  # which tells when the disk is full
        torch.save(content, file)
    say(found_table(found))
    say(f"\nwritten: {options.out}")
    say("use it:")
    say("  python -m monai.bundle run inference --config_file bundles/dose/configs/inference.json \\")
    say(f"    --weights {options.out} --input CASE_OR_FOLDER --output_dir OUT")
    return 0


def found_table(found: LightningCheckpoint) -> str:
    """What was found, and where from."""
    tensors = found.network.state_dict().values()
    rows: list[tuple[str, object, str]] = [
        ("tensors of the network", len(tensors), "model.*"),
        ("parameters", f"{sum(p.numel() for p in tensors):,}", ""),
    ]
    rows += [
        (name, size, "hyper_parameters and weights" if name in found.stated else "weights")
        for name, size in found.sizes.items()
    ]
    rows += [("epoch", found.epoch, ""), ("global_step", found.global_step, "")]
    rows += [(f"left aside: {name}", count, "tensors") for name, count in sorted(found.left_aside.items())]
    return table(("found", "value", "from"), rows)


if __name__ == "__main__":
    run_command(main)
