#!/usr/bin/env python3
"""What doses can be guessed without a network: the best constant, and the best fall-off with the distance from the targets.

Both are fitted to the training cases (medians, which minimise the absolute error) and judged on the test cases by the mean
absolute error inside the body, the mean over cases. With --results, a model's own error stands beside them, as a ratio."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import edt
import numpy as np
from tqdm import tqdm

from monai_vmat.case import Case, read_case
from monai_vmat.console import run_command, say, table
from monai_vmat.datalist import load_datalist
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.masks import body_from_ct
from monai_vmat.protocol import Protocol, load_protocol

EXAMPLE = """example:
  python benchmarks/baselines.py data/cohort --results predictions/demo_test/evaluation_results.json"""
_BIN_MM = 3.0
_NEAREST_MM, _FARTHEST_MM = -30.0, 240.0
_BINS = int((_FARTHEST_MM - _NEAREST_MM) / _BIN_MM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with the cases and their datalist.json")
    parser.add_argument("--results", type=Path, help="evaluation_results.json of a model on the same test cases")
    options = parser.parse_args()

    content = load_datalist(options.folder)
    protocol = load_protocol(content["protocol"])
    targets = [t.name for t in protocol.targets if t.required or protocol.name == "prostate_sib"]
    training = [body_voxels(i["case"], protocol, targets) for i in tqdm(content["training"], desc="training", unit="case")]
    test = [body_voxels(i["case"], protocol, targets) for i in tqdm(content["test"], desc="test", unit="case")]

    median = float(np.median(np.concatenate([dose for dose, _ in training])))
    guesses: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"constant ({median:.1f} Gy)": lambda bins: np.full(len(bins), median)
    }
    for columns in [[i] for i in range(len(targets))] + [list(range(len(targets)))] * (len(targets) > 1):
        name = " and ".join(targets[i] for i in columns)
        guesses[f"distance from {name}"] = fall_off(training, columns, median)
    errors = {
        name: float(np.mean([np.abs(guess(bins) - dose).mean() for dose, bins in test])) for name, guess in guesses.items()
    }
    rows: list[tuple[object, ...]] = [(name, error) for name, error in errors.items()]
    header: tuple[str, ...] = ("baseline", "body MAE Gy")
    if options.results:
        results = read_json(options.results)
        if results["n_cases"] != len(test):
            problem = f"{results['n_cases']} cases, the test split has {len(test)}"
            raise InputError(options.results, problem, "Evaluate the model on the test split of this folder")
        mae = results["aggregate_metrics"]["mae_body_gy_mean"]
        header += ("model is better by %",)
        rows = [(name, error, 100 * (1 - mae / error)) for name, error in errors.items()]
        rows.append((f"model {results['experiment']}", mae, None))
    say(table(header, rows))
    return 0


def body_voxels(path: str, protocol: Protocol, targets: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(voxels,) dose in Gy inside the body, and (voxels, targets) bins of the signed distance from each target."""
    case: Case = read_case(path, protocol)
    if case.dose_gy is None:
        raise InputError(path, "has no dose", "Leave it out of the datalist")
    body = body_from_ct(case.ct_hu)
    bins = [
        np.digitize(distance_mm(case, t)[body], np.arange(_BINS) * _BIN_MM + _NEAREST_MM).clip(1, _BINS) - 1 for t in targets
    ]
    return case.dose_gy[body], np.stack(bins, axis=1)


def distance_mm(case: Case, name: str) -> np.ndarray:
    """Signed distance from a structure, negative inside."""
    mask = np.ascontiguousarray(case.structures[name])
    return edt.edt(~mask, anisotropy=case.spacing_mm) - edt.edt(mask, anisotropy=case.spacing_mm)


def fall_off(
    training: Sequence[tuple[np.ndarray, np.ndarray]], columns: list[int], empty_gy: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The median training dose in every bin of distance (or of several distances); ``empty_gy`` where there was none."""

    def flat(bins: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(tuple(bins[:, c] for c in columns), (_BINS,) * len(columns))

    dose = np.concatenate([d for d, _ in training])
    index = np.concatenate([flat(b) for _, b in training])
    order = np.lexsort((dose, index))  # by bin, and by dose within a bin
    bins, first, count = np.unique(index[order], return_index=True, return_counts=True)
    medians = np.full(_BINS ** len(columns), empty_gy, np.float32)
    medians[bins] = dose[order][first + count // 2]
    return lambda bins: medians[flat(bins)]


if __name__ == "__main__":
    run_command(main)
