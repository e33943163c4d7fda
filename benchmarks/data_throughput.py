#!/usr/bin/env python3
"""How fast patches come out of v2.x files, against the usual dataset class, which loads a case's archive for every patch.

Both give 128^3 patches of image (CT and distances) and dose from the same files of 300 x 300 x 160 voxels, 4 patches a case and
epoch; ours with the bundle's own transforms, keeping freed memory as it does. An epoch is timed as a training loop sees it,
from its first patch to its last; first epochs in new processes that have loaded what they need but no data. All files have been
read once and their writing has ended, so that neither waits for the disk."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import records
import torch
from large_case import large_cases, write_v2
from monai.bundle import ConfigParser
from torch.utils.data import DataLoader, Dataset

from monai_vmat.console import run_command, say
from monai_vmat.files import read_json
from monai_vmat.memory import keep_freed_memory
from monai_vmat.protocol import load_protocol

EXAMPLE = "python benchmarks/data_throughput.py --cases 3"
PATCH, PATCHES_PER_CASE = 128, 4
TARGET_LATER, TARGET_FIRST = 10.0, 1.0
CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "dose" / "configs" / "train.json"


class ArchivePerPatch(Dataset):
    """The usual class: open the archive, stack the channels, cut a random patch."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths) * PATCHES_PER_CASE

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        with np.load(self.paths[index]) as archive:
            image = np.concatenate([archive["ct"][None], archive["masks_sdf"]])
            dose, constraints = archive["dose"][None], archive["constraints"]
        first = [np.random.randint(n - PATCH + 1) for n in image.shape[1:]]
        cut = tuple(slice(f, f + PATCH) for f in first)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image[:, *cut])),
            "label": torch.from_numpy(np.ascontiguousarray(dose[:, *cut])),
            "constraints": torch.from_numpy(constraints),
        }


def main() -> int:
    parser = records.command_line(__doc__, EXAMPLE)
    parser.add_argument("--cases", type=int, default=3, help="files (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs after the first, of each (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="first epochs, of each (default: %(default)s)")
    parser.add_argument("--uncompressed", action="store_true", help="files by numpy.savez instead of savez_compressed")
    options = parser.parse_args()
    protocol = load_protocol("prostate_sib")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for case in large_cases(protocol, options.cases):
            say(f"writing {case.case_id} as a v2.x file")
            paths.append(Path(folder) / f"{case.case_id}.npz")
            write_v2(case, protocol, paths[-1], compressed=not options.uncompressed)
        megabytes = statistics.mean(path.stat().st_size for path in paths) / 1e6
        os.sync()
        for path in paths:
            path.read_bytes()
        first: dict[str, list[float]] = {"ours": [], "usual": []}
        for _ in range(options.starts):
            work = {"ours": records.elsewhere(make_ours, paths), "usual": records.elsewhere(make_usual, paths)}
            for name, found in records.interleaved(work, 1, warm_up=0).items():
                first[name] += found
        seconds = records.interleaved(work, options.epochs, warm_up=0)
        cached = work["ours"]()
    patches = len(paths) * PATCHES_PER_CASE
    rows = [
        [
            "archive for every patch",
            statistics.median(first["usual"]),
            statistics.median(seconds["usual"]),
            patches / statistics.median(seconds["usual"]),
        ],
        [
            "monai_vmat",
            statistics.median(first["ours"]),
            statistics.median(seconds["ours"]),
            patches / statistics.median(seconds["ours"]),
        ],
    ]
    kind = "numpy.savez" if options.uncompressed else "numpy.savez_compressed"
    suffix = "_uncompressed" if options.uncompressed else ""
    records.leave(
        options,
        f"data_throughput{suffix}",
        f"Patches of {PATCH}^3 out of {len(paths)} v2.x files by {kind} ({megabytes:.0f} MB each), {PATCHES_PER_CASE} a case.",
        ["dataset", "first epoch s", "later epochs s", "patches/s"],
        rows,
        [
            records.ratio(f"epoch from files by {kind}, usual / ours", seconds["usual"], seconds["ours"], TARGET_LATER),
            records.ratio(f"first epoch from files by {kind}, usual / ours", first["usual"], first["ours"], TARGET_FIRST),
        ],
        [f"A cached case takes {cached:.0f} MB of memory."],
    )
    return 0


def make_usual(paths: Sequence[Path]) -> Callable[[], None]:
    loader = DataLoader(ArchivePerPatch(paths), batch_size=1, shuffle=True)
    return lambda: run_epoch(loader, len(paths))


def make_ours(paths: Sequence[Path]) -> Callable[[], float]:
    """Epochs of the bundle's own training data, the first of which reads the cases; each tells a cached case's megabytes."""
    parser = ConfigParser(read_json(CONFIG))
    parser["train#dataset#data"] = [{"case": str(path), "case_id": path.stem} for path in paths]
    parser["patch_size"] = [PATCH] * 3
    parser["patches_per_case"] = PATCHES_PER_CASE
    parser.get_parsed_content("imports")
    parser.get_parsed_content("train#preprocessing")
    keep_freed_memory()

    def epoch() -> float:
        loader = parser.get_parsed_content("train#dataloader")  # made once
        run_epoch(loader, len(paths))
        held = sum(v.nbytes for item in loader.dataset._cache for v in item.values() if hasattr(v, "nbytes"))
        return held / len(paths) / 1e6

    return epoch


def run_epoch(loader: DataLoader, cases: int) -> None:
    patches = sum(len(batch["image"]) for batch in loader)
    assert patches == cases * PATCHES_PER_CASE, patches


if __name__ == "__main__":
    run_command(main)
