#!/usr/bin/env python3
"""Write a trained run's weights as one small file to ship, with what they are beside them."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.model_export import CHECKPOINTS, DTYPES, export_model

EXAMPLE = """example:
  python data_scripts/export_model.py runs/demo bundles/dose/models/model.pt --overwrite

The file holds the network that was evaluated (the average, where the run kept one), read again and compared before it takes
its place. Facts beside the tensors: protocol, settings of the network, run, commit, epochs, seed, numbers of cases, and the
ranges of the training cases' voxel sizes, prescriptions, volumes and constraints, by which inference tells cases that are
nothing like them; no path and no name of a machine or patient."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of a training run")
    parser.add_argument("out", metavar="OUT.pt", type=Path, help="file for the model")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored tensors (default: %(default)s)")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="best", help="whose weights (default: %(default)s, as in an evaluation)"
    )
    parser.add_argument(
        "--dataset_dir", type=Path, metavar="DIR", help="folder of the training's datalist (default: what the run recorded)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.pt if it is there")
    options = parser.parse_args()
    if options.out.exists() and not options.overwrite:
        raise InputError(options.out, "exists already", "Add --overwrite to replace it, or choose another name")

    facts = export_model(
        options.run, options.out, dtype=options.dtype, checkpoint=options.checkpoint, dataset_dir=options.dataset_dir
    )
    rows = [("protocol", facts["protocol"]), *facts["settings"].items(), *facts["training"].items()]
    rows += [(name, f"{low:.4g} to {high:.4g}") for name, (low, high) in facts["ranges"].items()]
    say(table(("fact", "value"), rows))
    say(f"\nwritten: {options.out} ({options.out.stat().st_size / 1e6:.2f} MB, {options.dtype}), read again and compared")
    return 0


if __name__ == "__main__":
    run_command(main)
