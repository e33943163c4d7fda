#!/usr/bin/env python3
"""Where the seconds of a case go: conversion from DICOM, reading, distances, metrics; for a small and a large grid.

The small case is one of the embedded cohort; the large one the same anatomy on 300 x 300 x 160 voxels. One process and one
thread, as conversion and evaluation use for each case that they work on."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import records
import torch
from large_case import COHORT, SHAPE, enlarge, write_v2
from monai.data import MetaTensor
from scipy import ndimage

from monai_vmat.case import Case, read_case, write_case
from monai_vmat.console import run_command, say
from monai_vmat.datalist import read_datalist
from monai_vmat.dicom.convert import Conversion, study_to_case
from monai_vmat.dicom.identity import identify
from monai_vmat.dicom.study import find_studies
from monai_vmat.metrics.case_metrics import case_metrics, gamma_metrics
from monai_vmat.protocol import Protocol, load_protocol
from monai_vmat.transforms.compose_image import ComposeImaged
from monai_vmat.transforms.encode_constraints import EncodeConstraintsd
from monai_vmat.transforms.load_case import LoadCased, case_masks
from monai_vmat.transforms.signed_distance import SignedDistanced
from monai_vmat.transforms.stored import Stored

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from dicom_set import write_dicom_set  # noqa: E402  # the writer of DICOM exports belongs to the tests


def main() -> int:
    options = records.command_line(__doc__, "python benchmarks/preparation.py --repeats 3", repeats=3).parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    protocol = load_protocol("prostate_sib")
    small = read_case(read_datalist(COHORT / "datalist.json", "test")[0]["case"], protocol)
    found, notes = {}, []
    for size, case in (("small", small), ("large", enlarge(small))):
        with tempfile.TemporaryDirectory() as folder:
            work, note = steps(case, protocol, Path(folder))
            notes.append(f"The {size} case, prepared: {note}")
            say(f"{size}: {' x '.join(map(str, case.ct_hu.shape))}")
            found[size] = records.interleaved(work, options.repeats)
    rows = [
        [step, *(statistics.median(found[size][step]) for size in ("small", "large")), max(found["large"][step])]
        for step in found["small"]
    ]
    shapes = " and ".join(" x ".join(map(str, shape)) for shape in (small.ct_hu.shape, SHAPE))
    records.leave(
        options,
        "preparation",
        f"Seconds of one thread for one case, on {shapes} voxels.",
        ["step", "small s", "large s", "large, most"],
        rows,
        notes=notes,
    )
    return 0


def steps(case: Case, protocol: Protocol, folder: Path) -> tuple[dict[str, Callable[[], object]], str]:
    """What is done with a case, each step on what the one before it left; and how large the prepared case is."""
    export = write_dicom_set(case, folder / "dicom", protocol)
    native, old = folder / "native.npz", folder / "old.npz"
    write_case(case, native)
    write_v2(case, protocol, old, compressed=True)
    (study,) = find_studies(export)
    identity = identify(study, b"salt")
    loaded = LoadCased(protocol=protocol)({"case": str(native)})
    with_distances = SignedDistanced(protocol=protocol)(loaded)
    masks = case_masks(case, protocol)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(case.ct_hu.shape).astype(np.float32), 5)
    assert case.dose_gy is not None  # the cohort's cases are training cases
    predicted = (case.dose_gy * (1 + 0.03 * noise / noise.std())).astype(np.float32)

    transforms = [
        LoadCased(protocol=protocol),
        SignedDistanced(protocol=protocol),
        EncodeConstraintsd(protocol=protocol),
        ComposeImaged(protocol=protocol),
    ]
    stored = Stored(transforms, folder=folder / "cache")
    item = {"case": str(native), "case_id": case.case_id, "patient": case.patient}
    prepared = stored(item)
    memory = sum(v.nbytes for v in prepared.values() if hasattr(v, "nbytes")) / 1e6
    disk = sum(path.stat().st_size for path in (folder / "cache").iterdir()) / 1e6
    file = native.stat().st_size / 1e6
    note = f"{memory:.0f} MB in memory, {disk:.1f} MB in `cache_dir`, {file:.1f} MB as a native file."

    def compose() -> None:
        ComposeImaged(protocol=protocol)({k: v.clone() if isinstance(v, MetaTensor) else v for k, v in with_distances.items()})

    work: dict[str, Callable[[], object]] = {
        "DICOM: find the study": lambda: find_studies(export),
        "DICOM: study to case": lambda: study_to_case(study, Conversion(protocol), identity),
        "write the case": lambda: write_case(case, native),
        "read the case": lambda: read_case(native, protocol),
        "read the v2.x file": lambda: read_case(old, protocol),
        "read, scale, pack (LoadCased)": lambda: LoadCased(protocol=protocol)({"case": str(native)}),
        "signed distances": lambda: SignedDistanced(protocol=protocol)(dict(loaded)),
        "compose the image": compose,
        "all of this from cache_dir": lambda: stored(item),
        "all metrics": lambda: case_metrics(predicted, case.dose_gy, masks, case.spacing_mm, protocol),
        "  of which gamma, 3 criteria": lambda: gamma_metrics(predicted, case.dose_gy, masks, case.spacing_mm, protocol),
    }
    return work, note


if __name__ == "__main__":
    run_command(main)
