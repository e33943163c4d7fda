"""Kill every program at random moments, start it again, and see that nothing is lost, repeated or half."""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monai_vmat import provenance
from monai_vmat.console import run_command, say, table
from monai_vmat.files import read_json, write_json

from . import crash_files as files
from . import crash_programs as programs
from .crash_hook import environment
from .crash_programs import EPOCHS, ROOT, Program
from .running import Running, preload

EXAMPLE = """example:
  python -m tests.faults.crash --kills 60 --seed 1 --out docs/reliability/crash.json
  python -m tests.faults.crash --kills 3 --seed 2 --programs sweep make_phantom_cohort --out docs/reliability/crash.json

Two kills of three hit a random moment of the program's work with files (Python's audit events, up to 50 ms later) and take the
whole process group, as the end of a machine does. The third one comes at a random time and takes the main process alone, whose
workers have to end by themselves. Programs of the bundle are forks of a process that has imported their libraries, so that the
kills fall into the work. A record that is there is added to: kills of a program add up.

Exit status: 0 when every kill was survived, 1 when not."""

LATER_S = 0.05
LIMIT_S = 240.0
QUICK = ("dicom_to_npz", "nifti_to_npz", "openkbp_to_npz", "migrate_npz", "training", "evaluating", "inference")
SLOW = ("make_phantom_cohort", "sweep")  # half a minute and more for each start


@dataclass
class Tally:
    """What the kills of a program have shown; lists name what went wrong, in which kill."""

    program: str
    unit: str
    kills: int = 0
    rerun_finished: int = 0
    identical: int = 0
    work_repeated: list[str] = field(default_factory=list)
    partial_files: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    processes_left: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        return [*self.work_repeated, *self.partial_files, *self.left_over, *self.processes_left]

    @property
    def survived(self) -> bool:
        return not self.wrong and self.kills == self.rerun_finished == self.identical


class Campaign:
    """Kills of programs, in a folder of their own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.log, self.counter = folder / "program.log", folder / "events"

    def run(self, program: Program, kills: int) -> Tally:
        """Kill a program so many times; before and in the end it runs undisturbed."""
        tally = Tally(program.name, program.unit)
        whole, events, seconds = self._undisturbed(program)
        if kills == 0:
            return tally
        for number in range(kills):
            self._kill(program, tally, whole, events, seconds, by_time=program.name == "sweep" or number % 3 == 2)
        return tally

    def _undisturbed(self, program: Program) -> tuple[dict[str, str], int, float]:
        self._prepare(program)
        began = time.monotonic()
        self._finish(program, environment(program.out, self.counter) if program.name != "sweep" else None)
        seconds = time.monotonic() - began
        return files.contents(program.out), self._events(), seconds

    def _prepare(self, program: Program) -> None:
        shutil.rmtree(program.out, ignore_errors=True)
        self.counter.unlink(missing_ok=True)
        program.begin()

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _events(self) -> int:
        return self.counter.stat().st_size if self.counter.exists() else 0

    def _finish(self, program: Program, events: Mapping[str, str] | None = None) -> None:
        running = Running(program, self.log, events)
        status = running.wait(LIMIT_S)
        if status is None:
            for pid in family(running.pid):
                _end(pid)
            running.wait(LIMIT_S)
            raise RuntimeError(f"{program.name} has not ended after {LIMIT_S:g} s: {self._said()}")
        if status != 0:
            raise RuntimeError(f"{program.name} ended with {status}: {self._said()}")

    def _kill(self, program: Program, tally: Tally, whole: dict[str, str], events: int, seconds: float, by_time: bool) -> None:
        self._prepare(program)
        for _ in range(20):  # until a kill comes before the end
            if by_time:
                moment = self.random.uniform(0.0, seconds)
                how = f"after {moment:.2f} s"
                running = Running(program, self.log)
                status = running.wait(moment)
                descendants = family(running.pid)
                if status is None:
                    os.kill(running.pid, signal.SIGKILL)
            else:
                number, later_s = self.random.randint(1, events), self.random.choice((0.0, self.random.uniform(0, LATER_S)))
                how = f"{1000 * later_s:.0f} ms after event {number} of {events}"
                running = Running(program, self.log, environment(program.out, self.counter, number, later_s))
                descendants = set()
                status = None
            status = status if status is not None else running.wait(LIMIT_S)
            if status == -signal.SIGKILL:
                break
            if status != 0:
                raise RuntimeError(
                    f"{program.name} ended with {status} ({how}): {self.log.read_text(errors='replace')[-3000:]}"
                )
            self._prepare(program)
        else:
            raise RuntimeError(f"{program.name} was never killed before its end")
        tally.kills += 1
        label = f"kill {tally.kills} ({how})"
        if lasting := outlive(descendants, 30.0):
            if program.name != "sweep":  # Ray's helpers take two minutes to see that they are of no use
                tally.processes_left.append(label)
            for pid in lasting:
                _end(pid)
        tally.partial_files += [f"{label}: {name}" for name in files.partial(program.out)]
        cases, epochs = files.finished_cases(program.out), files.epochs_done(program.out)
        try:
            self._finish(program)
        except RuntimeError as error:
            say(f"{program.name}, {label}: {error}")
            return
        tally.rerun_finished += 1
        if program.unit in ("a case", "an anatomy"):
            now = files.finished_cases(program.out)
            tally.work_repeated += [f"{label}: {name}" for name, identity in cases.items() if now.get(name) != identity]
        elif program.unit == "an epoch":
            last = EPOCHS if program.name == "training" else programs.SWEEP_EPOCHS
            tally.work_repeated += [f"{label}: {run}" for run in files.epochs_repeated(program.out, epochs, last)]
        tally.left_over += [f"{label}: {name}" for name in files.left_over(program.out)]
        again = files.contents(program.out)
        if again == whole:
            tally.identical += 1
        else:
            names = sorted(name for name in {*again, *whole} if again.get(name) != whole.get(name))
            say(f"{program.name}, {label}: differs in {', '.join(names)}")


def family(pid: int) -> set[int]:
    """A process and its descendants."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, more = {pid}, {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - found
        found |= more
    return found


def outlive(pids: set[int], limit_s: float) -> set[int]:
    """Those that are still there after so many seconds, zombies apart."""
    deadline = time.monotonic() + limit_s
    while (alive := {pid for pid in pids if _lives(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def _lives(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def make_programs(folder: Path, names: Sequence[str], campaign: Campaign) -> list[Program]:
    """The programs by name; those that need a trained network get one."""
    found = programs.conversions(folder) if {*names} & {*QUICK[:4]} or "inference" in names else []
    if {*names} & {*QUICK[4:], "sweep"}:
        trained = programs.training(folder)
        found.append(trained)
        if {*names} & {"evaluating", "inference"}:
            campaign.run(trained, 0)
            run = folder / "trained"
            trained.out.rename(run)
            found += programs.after_training(folder, run)
        found.append(programs.sweep(folder))
    found.append(programs.cohort(folder))
    return [program for program in found if program.name in names]


def shares(kills: int, number: int) -> list[int]:
    return [kills // number + (i < kills % number) for i in range(number)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="in all, the programs in turn (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="other moments (default: %(default)s)")
    parser.add_argument("--programs", nargs="+", choices=(*QUICK, *SLOW), default=QUICK, metavar="NAME", help="of: %(choices)s")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the record; added to where it is there")
    options = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        campaign = Campaign(Path(folder), options.seed)
        chosen = make_programs(Path(folder), options.programs, campaign)
        tallies = []
        for program, kills in zip(chosen, shares(options.kills, len(chosen)), strict=True):
            say(f"{program.name}: {kills} kills")
            tallies.append(campaign.run(program, kills))
            record(options.out, tallies[-1], options.seed)
    header = (
        "program",
        "kills",
        "rerun finished",
        "identical",
        "work repeated",
        "partial files",
        "left over",
        "processes left",
    )
    say(table(header, [_row(tally) for tally in tallies]))
    for tally in tallies:
        for wrong in tally.wrong:
            say(f"{tally.program}, {wrong}")
    return 0 if all(tally.survived for tally in tallies) else 1


def _row(tally: Tally) -> tuple[Any, ...]:
    wrong = (tally.work_repeated, tally.partial_files, tally.left_over, tally.processes_left)
    return (tally.program, tally.kills, tally.rerun_finished, tally.identical, *map(len, wrong))


def record(path: Path, tally: Tally, seed: int) -> None:
    """Add a program's kills to the record."""
    content = read_json(path) if path.exists() else {"kind": "crash", "programs": [], "disk": []}
    row = {**asdict(tally), "seeds": [seed], "runs": 1}
    row |= {key: len(value) for key, value in row.items() if isinstance(value, list) and key != "seeds"}
    for earlier in [p for p in content["programs"] if p["program"] == tally.program]:
        row |= {key: earlier[key] + value for key, value in row.items() if isinstance(value, (int, list)) and key in earlier}
        content["programs"].remove(earlier)
    content["programs"].append(row)
    content |= about()
    write_json(path, content)


def about() -> dict[str, Any]:
    """Where and on what the campaign ran."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": provenance.hardware(),
        "versions": provenance.versions(),
        "commit": provenance.git_commit(ROOT),
    }


if __name__ == "__main__":
    run_command(main)
