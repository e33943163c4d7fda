#!/usr/bin/env python3
"""Do the tests of metrics and losses bite? Change one thing at a time, in a copy, and see whether its own tests notice."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tqdm import tqdm

from monai_vmat import provenance
from monai_vmat.console import run_command, say
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json

from . import conftest  # noqa: F401  what it imports

ROOT = Path(__file__).resolve().parents[1]

EXAMPLE = """A change is caught when the tests that mirror its file fail: tests/metrics/test_dvh.py for metrics/dvh.py.

example:
  python -m tests.mutations --out docs/reliability/mutations.json
  python -m tests.mutations --only metrics/gamma --out gamma.json

A record OUT of the same commit is continued.
Exit status: 0 when all were caught, 1 when one survived, 2 for bad input, 130 after Ctrl-C."""


class Mutation(NamedTuple):
    file: str  # in monai_vmat, without .py
    old: str  # exactly once in the file
    new: str


MUTATIONS = [
    Mutation("metrics/dvh", "np.percentile(dose_gy, 100.0 - percent)", "np.percentile(dose_gy, percent)"),
    Mutation("metrics/dvh", "round(volume_cc / voxel_cc)), dose", "round(volume_cc / voxel_cc) + 1), dose"),
    Mutation("metrics/dvh", "dose_gy >= threshold_gy", "dose_gy > threshold_gy"),
    Mutation("metrics/dvh", "percent / 100.0 * dose_gy.size * voxel_cc", "percent * dose_gy.size * voxel_cc"),
    Mutation("metrics/dvh_curve", 'side="left"', 'side="right"'),
    Mutation("metrics/dvh_metric", "gap = predicted - reference", "gap = reference - predicted"),
    Mutation("metrics/dvh_metric", "np.prod(spacing)) / 1000.0", "np.prod(spacing)) / 100.0"),
    Mutation("metrics/dose_metric", "torch.where(counted > 0,", "torch.where(counted >= 0,"),
    Mutation("metrics/dose_metric", "spacing[:, :3, :3], axis=1", "spacing[:, :3, :3], axis=2"),
    Mutation("metrics/case_metrics", '"gap": gap}', '"gap": None if gap is None else abs(gap)}'),
    Mutation("metrics/case_metrics", "dose_gy >= percent / 100.0", "pred_gy >= percent / 100.0"),
    Mutation("metrics/case_metrics", "if dose >= prescribed]", "if dose == prescribed]"),
    Mutation("metrics/case_metrics", "margin_mm / spacing)", "margin_mm)"),
    Mutation("metrics/case_metrics", 'g["predicted_met"] == g["reference_met"]', 'g["predicted_met"]'),
    Mutation("metrics/conformity", "isodose_volume) if", "volume) if"),
    Mutation("metrics/conformity", "(d2 - d98) / d50", "(d2 - d98) / d2"),
    Mutation("metrics/isodose_dice", "return found", "return {level: dice and dice / 2 for level, dice in found.items()}"),
    Mutation("metrics/openkbp", "np.count_nonzero(possible_dose_mask)", "possible_dose_mask.size"),
    Mutation("metrics/openkbp", "max(1.0, np.round(0.1 / voxel_cc))", "np.round(0.1 / voxel_cc)"),
    Mutation("metrics/openkbp", "abs(error) for patient", "error for patient"),
    Mutation("metrics/gamma", "cutoff_percent / 100 * norm", "cutoff_percent / 100 * reference.max()"),
    Mutation("metrics/gamma", "counts = reference >= cutoff", "counts = reference > cutoff"),
    Mutation("metrics/gamma", "np.count_nonzero(gamma < 1)", "np.count_nonzero(gamma <= 1)"),
    Mutation("metrics/gamma", "norm = dose if task.local else", "norm = dose if not task.local else"),
    Mutation("metrics/gamma", "_exact(task, dose, dose_percent / 100 * norm", "_exact(task, dose, dose_percent / 50 * norm"),
    Mutation("metrics/gamma3d", "for dose in (y, y_pred))", "for dose in (y_pred, y))"),
    Mutation("metrics/gamma_grid", "np.asarray(evaluation_shape) - 1", "np.asarray(evaluation_shape)"),
    Mutation("metrics/gamma_exact", "s * ix * iy * (e6 - e4 - e2 + e0),", "s * ix * iy * (e6 - e4 + e2 + e0),"),
    Mutation("metrics/gamma_sampled", "low[2] <= z <= high[2]", "low[2] <= z < high[2]"),
    Mutation("losses/mean_squared_error", ".square().mean()", ".abs().mean()"),
    Mutation("losses/negative_dose", "(-pred).relu()", "pred.relu()"),
    Mutation("losses/asymmetric_target", "error < 0", "error > 0"),
    Mutation("losses/asymmetric_target", "inside.sum().clamp(min=1)", "inside.numel()"),
    Mutation("losses/gradient", "* 0.25 + here * 0.5", "* 0.25 + here * 0.25"),
    Mutation("losses/gradient", "z.abs().mean()) / 3", "y.abs().mean()) / 3"),
    Mutation("losses/structure_weighted", ".abs() <= self.boundary_mm", " <= self.boundary_mm"),
    Mutation("losses/structure_weighted", "(*protocol.organs, *protocol.targets)", "(*protocol.targets, *protocol.organs)"),
    Mutation("losses/structure_loss", "voxels < self.min_voxels", "voxels <= self.min_voxels"),
    Mutation("losses/soft_dvh", "share = 1.0 - percent / 100.0", "share = percent / 100.0"),
    Mutation("losses/soft_dvh", "(n - 1) * share", "n * share"),
    Mutation("losses/soft_dvh", "where(distance < 0, below, above)", "where(distance < 0, above, below)"),
    Mutation("losses/dvh", "limit / 100.0 if unit", "limit if unit"),
    Mutation("losses/dvh", "(vx - self._limit(share, reached))", "(self._limit(share, reached) - vx)"),
    Mutation("losses/dvh", "volume_weight: float = 2.0", "volume_weight: float = 1.0"),
    Mutation("losses/dvh", "reached.clamp(min=goal)", "reached.clamp(max=goal)"),
    Mutation("losses/region_absolute_error", ".abs() * region)", ".abs())"),
    Mutation("losses/dvh_error", "(ours - theirs).abs()", "(theirs - ours).relu()"),
    Mutation("losses/dvh_error", "max(1, len(counted) - 1)", "max(1, len(counted))"),
    Mutation("losses/soft_gamma", "square / (1 + square)", "square"),
    Mutation("losses/soft_gamma", "self.distance_mm**2 * steep", "self.distance_mm * steep"),
    Mutation("losses/soft_gamma", "slope / step[:, axis]", "slope / step[:, 0]"),
    Mutation("losses/soft_gamma", "<= TARGET_RIM_MM", "<= 0.0"),
    Mutation("losses/soft_gamma", " & high[sample, 0]", ""),
    Mutation("losses/perceptual", "- self.mean) / self.std", "- self.mean) * self.std"),
    Mutation("losses/adversarial", "target_is_real=True", "target_is_real=False"),
    Mutation("losses/composite", "return self.weights[name] * value", "return value"),
    Mutation("losses/uncertainty_weighted", "torch.exp(-s)", "torch.exp(s)"),
    Mutation("losses/uncertainty_weighted", "s * (value.detach() != 0)", "s"),
]


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__, epilog=EXAMPLE, formatter_class=raw)
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose name has this text, such as losses/dvh")
    parser.add_argument(
        "--coverage", type=Path, metavar="FILE", help="what 'coverage json' wrote (make coverage), for the record"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the record (JSON)")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.file]
    if not chosen:
        raise InputError(f"--only {options.only}", "no change is in such a file", "Give a part of a name, such as losses/dvh")
    for mutation in chosen:
        mutated(mutation)
    coverage = _coverage(options.coverage) if options.coverage else None
    commit = provenance.git_commit(ROOT)
    record: dict[str, Any] = {
        "kind": "mutations",
        "commit": commit,
        "versions": provenance.versions(),
        "seconds": 0.0,
        "changes": [],
        "coverage": coverage,
    }
    if options.out.exists() and (earlier := read_json(options.out)).get("commit") == commit:
        record |= {"seconds": earlier["seconds"], "changes": earlier["changes"]}
    done = {(change["file"], change["old"], change["new"]) for change in record["changes"]}
    sound: set[str] = set()
    for mutation in tqdm([mutation for mutation in chosen if mutation not in done], unit="change", disable=None):
        began, tests = time.perf_counter(), mirror(mutation.file)
        if tests not in sound and (failed := failing_test(tests)):
            raise InputError(failed, "fails without any change", "Mend that first")
        sound.add(tests)
        failed = failing_test(tests, mutation)
        record["changes"].append(mutation._asdict() | {"caught_by": failed})
        record["seconds"] += time.perf_counter() - began
        write_json(options.out, record)
        tqdm.write(f"{'caught  ' if failed else 'SURVIVED'}  {mutation.file}: {mutation.old} -> {mutation.new}")
    survived = sum(change["caught_by"] is None for change in record["changes"])
    say(f"{len(record['changes'])} changes, {survived} survived; written: {options.out}")
    return 1 if survived else 0


def mirror(file: str) -> str:
    """The tests of a file."""
    folder, name = file.split("/")
    return f"tests/{folder}/test_{name}.py"


def mutated(mutation: Mutation) -> str:
    """The file's text with the change.

    Raises:
        InputError: when the text that is to be changed is not there exactly once.
    """
    text = (ROOT / "monai_vmat" / f"{mutation.file}.py").read_text()
    if (times := text.count(mutation.old)) != 1:
        problem = f"{mutation.old!r} is there {times} times, expected once"
        raise InputError(f"monai_vmat/{mutation.file}.py", problem, "Adapt it in tests/mutations.py")
    return text.replace(mutation.old, mutation.new)


def failing_test(tests: str, mutation: Mutation | None = None) -> str | None:
    """The first test that fails in a copy of the project with the change, None when all pass.

    Raises:
        InputError: when the tests could not run at all: that would prove nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ROOT.iterdir():
            if part.name in (
                "monai_vmat",
                "tests",
            ):  # what numba compiled lies beside it, and is left where the file is changed
                shutil.copytree(part, copy / part.name)
            elif part.is_dir() and not part.name.startswith("."):
                (copy / part.name).symlink_to(part)
        shutil.copy(ROOT / "setup.cfg", copy)
        if mutation:
            (copy / "monai_vmat" / f"{mutation.file}.py").write_text(mutated(mutation))
        # A fork has the libraries in memory already, which take longer to import than most tests take.
        fork = get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_run_tests, args=(copy, tests, sender))
        process.start()
        sender.close()
        try:
            status, failed = receiver.recv()
        except EOFError:
            status, failed = None, None
        process.join()
        if status not in (0, 1) or (status == 1) != (failed is not None):
            problem = f"pytest ended with {status}: {(copy / 'output').read_text()[-500:]}"
            raise InputError(tests, problem, "A change has to leave a program that runs")
    return failed


def _run_tests(copy: Path, tests: str, sender: Connection) -> None:
    """Send pytest's status and the first failure."""
    with open(copy / "output", "w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("monai_vmat", "tests")]:
        del sys.modules[name]  # the copy's are wanted
    failures = _Failures()
    options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    status = pytest.main([*options, tests], plugins=[failures])
    assert Path(sys.modules["monai_vmat"].__file__ or "").is_relative_to(copy)
    sender.send((int(status), failures.first))


class _Failures:
    """Remembers the first failing test."""

    first: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.first is None:
            self.first = report.nodeid


def _coverage(path: Path) -> dict[str, Any]:
    try:
        totals = read_json(path)["totals"]
        keys = ("num_statements", "covered_lines", "num_branches", "covered_branches")
        return {key: int(totals[key]) for key in keys}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"no totals of branches ({error!r})", "Give what 'coverage json' wrote with --branch") from error


if __name__ == "__main__":
    run_command(main)
