#!/usr/bin/env python3
"""Time gamma against pymedphys, side by side in one run, on real plans.

For each plan three predictions are made up: smooth, the dose with a smooth error of 2 % (standard deviation); shift, the dose
moved by 2 mm; blurred, the dose after a Gaussian of 4 mm. Each is judged at 3 %/3 mm, global, cutoff 10 %, max_gamma 2 and
interp_fraction 10: once by pymedphys, and by each of our modes before and after it (the best of three runs each time, then
the mean of both), so that other load on the machine weighs on both sides. Everything is compiled before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pymedphys
from scipy import ndimage

from monai_vmat.case import read_case, read_metadata
from monai_vmat.console import run_command, say, table
from monai_vmat.datalist import natural_order
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole
from monai_vmat.metrics.gamma import gamma_map
from monai_vmat.protocol import load_protocol

EXAMPLE = """example:
  python benchmarks/gamma.py data/openkbp --cases 4 --json gamma.json"""

MODES: dict[str, dict[str, Any]] = {
    "sampled": {"mode": "sampled"},
    "exact": {"mode": "exact"},
    "exact 1e-3": {"mode": "exact", "tolerance": 1e-3},
    "pass_rate": {"mode": "pass_rate"},
}
TARGETS = {"sampled": "median 100", "exact": "median 40, least 15", "pass_rate": "median 400"}
LARGE_SHAPE, LARGE_SPACING_MM = (300, 300, 160), (1.0, 1.0, 2.0)
LARGE_TARGET = "5 s for 3.4 million voxels on two idle cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("data/cohort"), help="cases with dose (default: %(default)s)"
    )
    parser.add_argument("--protocol", metavar="NAME", help="name or JSON file (default: what the first case says)")
    parser.add_argument("--cases", type=int, default=4, help="how many, evenly spaced in the folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of numba, on both sides (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.cases < 1:
        parser.error(f"--cases: a number from 1 was expected, got {options.cases}")
    if not 1 <= options.threads <= numba.config.NUMBA_NUM_THREADS:
        parser.error(f"--threads: a number from 1 to {numba.config.NUMBA_NUM_THREADS} was expected, got {options.threads}")
    numba.set_num_threads(options.threads)

    paths = sorted(options.folder.glob("*.npz"), key=lambda path: natural_order(path.stem))
    if not paths:
        raise InputError(options.folder, "holds no cases", "Convert some first, e.g. with data_scripts/openkbp_to_npz.py")
    protocol = load_protocol(options.protocol or read_metadata(paths[0])["protocol"])
    compile_all()
    rows = []
    for place in np.unique(np.linspace(0, len(paths) - 1, options.cases).round().astype(int)):
        case = read_case(paths[place], protocol)
        if case.dose_gy is None:
            raise InputError(paths[place], "has no dose", "Name a folder of training cases")
        dose = case.dose_gy.astype(np.float32)
        for name, prediction in predictions(dose, case.spacing_mm):
            rows.append({"case": case.case_id, "prediction": name, **measure(dose, prediction, case.spacing_mm)})
            say(line(rows[-1]))
    summary: dict[str, Any] = {mode: ratios(rows, mode) for mode in MODES}
    say()
    listed = [(mode, found["median"], found["least"], TARGETS.get(mode)) for mode, found in summary.items()]
    say(table(("pymedphys / ours", "median", "least", "target"), listed))
    say()
    summary["large"] = large(resample(dose, LARGE_SHAPE))
    if options.json:
        record = {"threads": options.threads, "summary": summary, "rows": rows}
        with write_whole(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def predictions(dose: np.ndarray, spacing_mm: tuple[float, ...]) -> Iterator[tuple[str, np.ndarray]]:
    spacing = np.asarray(spacing_mm)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(dose.shape).astype(np.float32), 15 / spacing)
    yield "smooth", (dose * (1 + 0.02 * noise / noise.std())).astype(np.float32)
    yield "shift", ndimage.shift(dose, (2.0 / spacing[0], 0, 0), order=1, mode="nearest").astype(np.float32)
    yield "blurred", ndimage.gaussian_filter(dose, 4.0 / spacing).astype(np.float32)


def resample(dose: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The box around the dose, stretched to four fifths of each axis of a shape, with zeros around."""
    inside = np.argwhere(dose >= 0.1 * dose.max())
    box = dose[tuple(slice(a, b) for a, b in zip(inside.min(0), inside.max(0) + 1, strict=True))]
    box = ndimage.zoom(box, 0.8 * np.asarray(shape) / box.shape, order=1).astype(np.float32)
    return np.pad(box, [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(shape, box.shape, strict=True)])


def reference_gamma(dose: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    axes = tuple(np.arange(n) * float(s) for n, s in zip(dose.shape, spacing_mm, strict=True))
    settings = {"lower_percent_dose_cutoff": 10, "interp_fraction": 10, "max_gamma": 2.0}
    return pymedphys.gamma(axes, dose, axes, prediction, 3, 3, **settings)


def compile_all() -> None:
    dose = np.linspace(0, 70, 1000, dtype=np.float32).reshape(10, 10, 10)
    reference_gamma(dose, dose + 1, (3, 3, 3))
    for options in MODES.values():
        gamma_map(dose, dose + np.float32(2.1), (3, 3, 3), **options)


def timed(runs: int, dose: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    """Seconds of each of our modes, the best of some runs."""
    found = {}
    for mode, options in MODES.items():
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            gamma_map(dose, prediction, spacing_mm, **options)
            seconds.append(time.perf_counter() - start)
        found[mode] = min(seconds)
    return found


def measure(dose: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, Any]:
    before = timed(3, dose, prediction, spacing_mm)
    start = time.perf_counter()
    theirs = reference_gamma(dose, prediction, spacing_mm)
    reference_s = time.perf_counter() - start
    after = timed(3, dose, prediction, spacing_mm)
    ours_s = {mode: 0.5 * (before[mode] + after[mode]) for mode in MODES}
    maps = {"pymedphys": theirs} | {mode: gamma_map(dose, prediction, spacing_mm, **MODES[mode]) for mode in MODES}
    sampled, inner = maps["sampled"], (slice(1, -1),) * 3
    return {
        "voxels": int(np.count_nonzero(sampled == sampled)),
        "seconds": {"pymedphys": reference_s} | ours_s,
        "ratios": {mode: reference_s / ours_s[mode] for mode in MODES},
        "pass_rates_percent": {m: 100.0 * np.count_nonzero(g < 1) / np.count_nonzero(g == g) for m, g in maps.items()},
        "sampled_difference": float(np.nanmax(np.abs(sampled - theirs)[inner])),
        "sampled_flips": int(np.count_nonzero(((sampled < 1) != (theirs < 1))[inner])),
        "sampled_nan_differences": int(np.count_nonzero(np.isnan(sampled) != np.isnan(theirs))),
    }


def line(row: dict[str, Any]) -> str:
    times = ", ".join(f"{mode} {row['seconds'][mode]:.3f} s ({row['ratios'][mode]:.0f}x)" for mode in MODES)
    rates = ", ".join(f"{mode} {rate:.2f}" for mode, rate in row["pass_rates_percent"].items())
    return (
        f"{row['case']} {row['prediction']}, {row['voxels']:,} voxels: pymedphys {row['seconds']['pymedphys']:.1f} s, {times}; "
        f"sampled differs by {row['sampled_difference']:.0e} off the outer face, {row['sampled_flips']} flips, "
        f"{row['sampled_nan_differences']} NaN; pass rates in %: {rates}"
    )


def ratios(rows: list[dict[str, Any]], mode: str) -> dict[str, float]:
    found = [row["ratios"][mode] for row in rows]
    return {"median": float(np.median(found)), "least": min(found)}


def large(dose: np.ndarray) -> dict[str, Any]:
    """Seconds for one plan on the grid of a full-resolution prostate case, without pymedphys (about 20 minutes)."""
    found: dict[str, Any] = {"voxels": int(np.count_nonzero(dose >= 0.1 * dose.max()))}
    for name, prediction in predictions(dose, LARGE_SPACING_MM):
        found[name] = timed(1, dose, prediction, LARGE_SPACING_MM)
        times = ", ".join(f"{mode} {value:.2f} s" for mode, value in found[name].items())
        say(f"300 x 300 x 160 at 1 x 1 x 2 mm, {found['voxels']:,} voxels, {name}: {times} (target, exact: {LARGE_TARGET})")
    return found


if __name__ == "__main__":
    run_command(main)
