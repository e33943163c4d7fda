#!/usr/bin/env python3
"""How fast gamma is against pymedphys, on plans as they are, and on the grid of a full-resolution prostate case.

For each plan three predictions are made up: smooth, the dose with a smooth error of 2 % (standard deviation); shift, the dose
moved by 2 mm; blurred, the dose after a Gaussian of 4 mm. Each is judged at 3 %/3 mm, global, cutoff 10 %, max_gamma 2 and
interp_fraction 10: once by pymedphys, and three times by each of our modes before and after it. Everything is compiled before.
The large grid is judged once by each of our modes; pymedphys would take some 20 minutes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pymedphys
import records
from scipy import ndimage

from monai_vmat.case import read_case, read_metadata
from monai_vmat.console import run_command, say
from monai_vmat.datalist import natural_order
from monai_vmat.errors import InputError
from monai_vmat.metrics.gamma import gamma_map
from monai_vmat.protocol import load_protocol

EXAMPLE = "python benchmarks/gamma.py data/openkbp --cases 4"
MODES: dict[str, dict[str, Any]] = {
    "sampled": {"mode": "sampled"},
    "exact": {"mode": "exact"},
    "exact 1e-3": {"mode": "exact", "tolerance": 1e-3},
    "pass_rate": {"mode": "pass_rate"},
}
TARGETS = {"sampled": 100.0, "exact": 40.0, "pass_rate": 400.0}
LEAST_TARGETS = {"exact": 15.0}
LARGE_SHAPE, LARGE_SPACING_MM = (300, 300, 160), (1.0, 1.0, 2.0)
LARGE_TARGET_S = 5.0  # exact, 3.4 million voxels, two idle cores


def main() -> int:
    parser = records.command_line(__doc__, EXAMPLE)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("data/cohort"), help="cases with dose (default: %(default)s)"
    )
    parser.add_argument("--protocol", metavar="NAME", help="name or JSON file (default: what the first case says)")
    parser.add_argument("--cases", type=int, default=4, help="how many, evenly spaced in the folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of numba, on both sides (default: %(default)s)")
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
    plans = []
    for place in np.unique(np.linspace(0, len(paths) - 1, options.cases).round().astype(int)):
        case = read_case(paths[place], protocol)
        if case.dose_gy is None:
            raise InputError(paths[place], "has no dose", "Name a folder of training cases")
        dose = case.dose_gy.astype(np.float32)
        for name, prediction in predictions(dose, case.spacing_mm):
            say(f"{case.case_id}, {name}")
            plans.append({"plan": f"{case.case_id}, {name}", **measure(dose, prediction, case.spacing_mm)})
    large_plans = list(large(resample(dose, LARGE_SHAPE)))
    records.leave(
        options,
        "gamma",
        f"Gamma of {len(plans)} predictions, {options.threads} threads of numba.",
        ["prediction", "voxels", *(f"{name} s" for name in ("pymedphys", *MODES)), "pymedphys %", "exact %"],
        [row(plan) for plan in plans + large_plans],
        [found for mode in MODES for found in ratios(plans, mode)],
        [*agreement(plans), large_note(large_plans)],
    )
    return 0


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


def measure(dose: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, Any]:
    """Seconds, pass rates and what the sampled map has otherwise than pymedphys."""
    maps: dict[str, np.ndarray] = {}

    def by_pymedphys() -> None:
        maps["pymedphys"] = reference_gamma(dose, prediction, spacing_mm)

    ours = our_modes(dose, prediction, spacing_mm, maps)
    before = records.interleaved(ours, 3, warm_up=0)
    theirs_s = records.interleaved({"pymedphys": by_pymedphys}, 1, warm_up=0)
    after = records.interleaved(ours, 3, warm_up=0)
    sampled, theirs, inner = maps["sampled"], maps["pymedphys"], (slice(1, -1),) * 3
    return {
        "voxels": int(np.count_nonzero(sampled == sampled)),
        "seconds": theirs_s | {mode: before[mode] + after[mode] for mode in MODES},
        "pass_rates_percent": {m: 100.0 * np.count_nonzero(g < 1) / np.count_nonzero(g == g) for m, g in maps.items()},
        "difference": float(np.nanmax(np.abs(sampled - theirs)[inner])),
        "flips": int(np.count_nonzero(((sampled < 1) != (theirs < 1))[inner])),
        "nan_differences": int(np.count_nonzero(np.isnan(sampled) != np.isnan(theirs))),
    }


def our_modes(
    dose: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...], maps: dict[str, np.ndarray]
) -> dict[str, Callable[[], None]]:
    """Our modes as work, which leaves its map in ``maps``."""

    def by(mode: str) -> Callable[[], None]:
        def run() -> None:
            maps[mode] = gamma_map(dose, prediction, spacing_mm, **MODES[mode])

        return run

    return {mode: by(mode) for mode in MODES}


def large(dose: np.ndarray) -> Iterator[dict[str, Any]]:
    """One plan on the grid of a full-resolution prostate case."""
    for name, prediction in predictions(dose, LARGE_SPACING_MM):
        say(f"{' x '.join(map(str, LARGE_SHAPE))}, {name}")
        maps: dict[str, np.ndarray] = {}
        seconds = records.interleaved(our_modes(dose, prediction, LARGE_SPACING_MM, maps), 1, warm_up=0)
        exact = maps["exact"]
        yield {
            "plan": f"{' x '.join(map(str, LARGE_SHAPE))}, {name}",
            "voxels": int(np.count_nonzero(exact == exact)),
            "seconds": seconds,
            "pass_rates_percent": {"exact": 100.0 * np.count_nonzero(exact < 1) / np.count_nonzero(exact == exact)},
        }


def median_s(plan: dict[str, Any], name: str) -> float | None:
    return statistics.median(plan["seconds"][name]) if name in plan["seconds"] else None


def row(plan: dict[str, Any]) -> list[Any]:
    rates = plan["pass_rates_percent"]
    seconds = [median_s(plan, name) for name in ("pymedphys", *MODES)]
    return [plan["plan"], plan["voxels"], *seconds, rates.get("pymedphys"), rates["exact"]]


def ratios(plans: Sequence[dict[str, Any]], mode: str) -> Iterator[dict[str, Any]]:
    """Over the plans; and of the plan that gains least, where that has a target of its own."""
    theirs, ours = ([statistics.median(plan["seconds"][name]) for plan in plans] for name in ("pymedphys", mode))
    yield records.ratio(f"gamma, pymedphys / {mode}", theirs, ours, TARGETS.get(mode))
    if mode in LEAST_TARGETS:
        slower, faster = min(zip(theirs, ours, strict=True), key=lambda pair: pair[0] / pair[1])
        what = f"gamma of the plan that gains least, pymedphys / {mode}"
        yield records.ratio(what, [slower], [faster], LEAST_TARGETS[mode])


def agreement(plans: Sequence[dict[str, Any]]) -> Iterator[str]:
    most, flips, nans, voxels = (
        fold(plan[key] for plan in plans)
        for key, fold in (("difference", max), ("flips", sum), ("nan_differences", sum), ("voxels", sum))
    )
    yield (
        f"The sampled map differs from pymedphys by at most {most:.0e} off the grid's outer face; {flips} of {voxels} voxels "
        f"pass in one and fail in the other, {nans} have a value in one alone."
    )
    apart = max(abs(p["pass_rates_percent"]["exact"] - p["pass_rates_percent"]["pass_rate"]) for p in plans)
    yield f"The pass rates of exact and pass_rate differ by at most {apart:.2g} percentage points."


def large_note(plans: Sequence[dict[str, Any]]) -> str:
    slowest = max(plan["seconds"]["exact"][0] for plan in plans)
    return f"On the large grid exact takes at most {slowest:.1f} s (target on two idle cores: {LARGE_TARGET_S:g} s)."


if __name__ == "__main__":
    run_command(main)
