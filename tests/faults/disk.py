"""Let programs run out of disk, into read-only folders, vanished inputs and stale locks, and see what they say and leave."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json

from . import crash_files as files
from . import crash_programs as programs
from .crash import about
from .crash_programs import Program
from .running import Running, preload

EXAMPLE = """example (as root, for the small disks are mounted):
  python -m tests.faults.disk --out docs/reliability/crash.json
  python -m tests.faults.disk --programs "reports evaluation" --faults "stale files" --out docs/reliability/crash.json

Each program runs on a disk that holds a half, and nine tenths, of what it writes; under a limit of file size (needs no root);
into a read-only folder; and with inputs that vanish while it works. It has to end with one line of error and an exit status
other than 0, unless it could do without the inputs or has named those that it could not read; what was there has to stay as it
was, and what it leaves has to be whole. It also runs where killed processes have left a temporary file of each file that it
writes, as long ago as locks can be stale: it has to finish, and to remove them.

Exit status: 0 when all did, 1 when not."""

STALE = "stale files"
FAULTS = ("half a disk", "most of a disk", "limit of file size", "read-only output", "vanished input", STALE)
LIMIT_S = 600.0
KEPT = "earlier.npz"  # a file that is there before
_LEFT = "left.part"  # how the names of temporary files end that were left before


@dataclass(frozen=True)
class Written:
    """The files that a program writes undisturbed, by their names in its folder, and their sizes in bytes."""

    sizes: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    @property
    def largest(self) -> int:
        return max(self.sizes.values())


@dataclass
class Result:
    """How a program took a fault; ``problem`` is what it ought not to have done, empty when all was well."""

    fault: str
    program: str
    result: str
    problem: str = ""


@contextlib.contextmanager
def disk(folder: Path, size: int, read_only: bool = False) -> Iterator[None]:
    """A disk of so many bytes at ``folder``, with an earlier file on it.

    Raises:
        InputError: when it cannot be mounted (who is not root cannot).
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(kind, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError("mount", f"no small disk can be made ({done.stderr.strip()})", "Run it as root")
    try:
        (folder / KEPT).write_bytes(b"kept")
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run(program: Program, fault: str, inputs: Path, written: Written, log: Path) -> Result:
    """Run a program under a fault.

    Args:
        program: it writes to ``program.out``.
        fault: one of FAULTS.
        inputs: what vanishes.
        written: what it writes undisturbed.
        log: where its output goes.
    """
    shutil.rmtree(program.out, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        program.out.mkdir(parents=True)
        if fault == "read-only output":
            stack.enter_context(disk(program.out, 2**20, read_only=True))
        elif "disk" in fault:
            stack.enter_context(disk(program.out, int(written.total * (0.5 if fault == "half a disk" else 0.9))))
        else:
            (program.out / KEPT).write_bytes(b"kept")
        if fault == "vanished input":
            stack.enter_context(_kept(inputs))
        if fault == STALE:
            _leave_stale(program.out, written)
        limit = written.largest // 2 if fault == "limit of file size" else None
        running = Running(program, log, limit_bytes=limit)
        if fault == "vanished input":
            _vanish(inputs, program, running)
        status = running.wait(LIMIT_S)
        said = log.read_text(errors="replace").strip().splitlines()
        last = next((line for line in reversed(said) if "error: " in line), said[-1] if said else "")
        last = last[last.index("error: ") :] if "error: " in last else last
        problems = []
        refused = [line.strip() for line in said if str(inputs) in line]
        if fault == "vanished input" and (status == 0 or status is not None and refused):
            last = "; ".join([f"exit status {status}", *refused])
        elif fault == STALE:
            problems += [f"does not finish: {last}"] if status != 0 else []
            last = f"exit status {status}"
        elif status is None or status <= 0 or not last.startswith("error: "):
            problems.append(f"exit status {status}, no clear error: " + " | ".join(said[-3:]))
        if any("Traceback" in line for line in said):
            problems.append("a traceback: " + " | ".join(said[-3:]))
        if (program.out / KEPT).read_bytes() != b"kept":
            problems.append("an earlier file was changed")
        (program.out / KEPT).unlink() if fault != "read-only output" else None
        problems += [f"{name} is not whole" for name in files.partial(program.out) if name != KEPT]
        problems += [f"{name} is left" for name in files.left_over(program.out) if _ought_to_go(program.out / name)]
    return Result(fault, program.name, last.replace(str(inputs), "IN").replace(str(program.out), "OUT"), "; ".join(problems))


@contextlib.contextmanager
def _kept(inputs: Path) -> Iterator[None]:
    """Put the inputs back in the end."""
    copy = inputs.with_name(f"{inputs.name}-copy")
    shutil.copytree(inputs, copy)
    try:
        yield
    finally:
        shutil.rmtree(inputs, ignore_errors=True)
        copy.rename(inputs)


def _vanish(inputs: Path, program: Program, running: Running) -> None:
    """Remove the inputs once the program has written its first file."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and running.lives():
        if any(path.name != KEPT for path in files.visible(program.out)):
            break
        time.sleep(0.002)
    shutil.rmtree(inputs, ignore_errors=True)


def _leave_stale(out: Path, written: Written) -> None:
    """Temporary files of killed processes, one of each file that the program writes; of TensorBoard's there are none."""
    for name in written.sizes:
        path = out / name
        if not path.name.startswith("events.out"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.{_LEFT}").write_bytes(b"half a fi")


def _ought_to_go(left: Path) -> bool:
    """Whether a temporary file is the program's own, or of a file that it has written: names may differ from run to run."""
    return not left.name.endswith(_LEFT) or left.with_name(left.name[1 : -len(_LEFT) - 1]).exists()


def make_programs(folder: Path, log: Path) -> list[tuple[Program, Path]]:
    """The programs with what they read: conversion, migration, training, evaluation, inference from DICOM, reports."""
    converting = {program.name: program for program in programs.conversions(folder)}
    made = [(converting["openkbp_to_npz"], folder / "openkbp"), (converting["migrate_npz"], folder / "v2")]
    training = programs.training(folder)
    finish(training, log)
    trained = folder / "trained"
    training.out.rename(trained)
    evaluating, inference = programs.after_training(folder, trained)
    finish(evaluating, log)
    evaluated = folder / "evaluated"
    evaluating.out.rename(evaluated)
    report = ["-m", "monai_vmat.reports", "evaluation", str(evaluated), "--dataset_dir", str(folder / "cases")]
    report += ["--out", str(folder / "out" / "report")]
    made += [(training, folder / "cases"), (evaluating, folder / "cases")]
    made += [(inference, folder / "nifti"), (programs.dicom_inference(folder, trained), folder / "dicom")]
    return [*made, (Program("reports evaluation", "", report, folder / "out" / "report"), evaluated)]


def finish(program: Program, log: Path) -> Written:
    """Run a program undisturbed."""
    shutil.rmtree(program.out, ignore_errors=True)
    status = Running(program, log).wait(LIMIT_S)
    if status != 0:
        raise RuntimeError(f"{program.name} ended with {status}: {log.read_text(errors='replace')[-3000:]}")
    paths = [path for path in program.out.rglob("*") if path.is_file()]
    return Written({str(path.relative_to(program.out)): path.stat().st_size for path in paths})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="JSON",
        help="the record; what is in it of the same faults and programs is replaced",
    )
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help="of: %(choices)s")
    parser.add_argument("--programs", nargs="+", metavar="NAME", help="only these (default: all)")
    options = parser.parse_args()
    preload()
    results = []
    with tempfile.TemporaryDirectory(prefix="disk-") as name:
        folder = Path(name)
        log = folder / "program.log"
        for program, inputs in make_programs(folder, log):
            if options.programs and program.name not in options.programs:
                continue
            written = finish(program, log)
            for fault in options.faults:
                results.append(run(program, fault, inputs, written, log))
                say(f"{fault}, {program.name}: {results[-1].problem or results[-1].result}")
                record(options.out, results[-1])
    say(table(("fault", "program", "well"), [(r.fault, r.program, "no" if r.problem else "yes") for r in results]))
    return 1 if any(result.problem for result in results) else 0


def record(path: Path, result: Result) -> None:
    """Put a result into the record, beside those of its program."""
    content = read_json(path) if path.exists() else {"kind": "crash", "programs": []}
    rows = [r for r in content.get("disk", []) if (r["fault"], r["program"]) != (result.fault, result.program)] + [
        asdict(result)
    ]
    order = list(dict.fromkeys(r["program"] for r in rows))
    rows.sort(key=lambda r: (order.index(r["program"]), FAULTS.index(r["fault"])))
    write_json(path, content | {"disk": rows} | about())


if __name__ == "__main__":
    run_command(main)
