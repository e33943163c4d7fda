#!/usr/bin/env python3
"""Damage valid files in thousands of ways and have every reader read them: each is read right or refused, and nothing else."""

from __future__ import annotations

import argparse
import gc
import os
import queue
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.parallel import add_workers_option

LIMIT_S = 10.0
MEMORY_FACTOR = 4.0
# Below this it is the interpreter that is measured, not what is read.
LEAST_CONTENT_BYTES = 4 * 1024**2
_ROOM_BYTES = 4 * 1024**3  # of addresses: what a bomb takes must show, not take the machine
_PATIENCE_S = 3 * LIMIT_S  # before a process is killed
_BEGUN = "begun"
_LONGEST_MESSAGE = 1000

EXAMPLE = f"""A file is a failure when anything but a checked result or the project's InputError comes of it;
when reading takes more than {LIMIT_S:g} s, or more memory than {MEMORY_FACTOR:g} times what the largest valid file holds:
its arrays as the reader returns them, or the files' bytes, whichever is more, at least 4 MiB; when the refusal is no
single short line. Memory is the growth of the process's resident set at its highest, as the kernel counts it. Time in which the
process has work, and others the processor, is not the reader's.

example:
  python -m tests.faults.fuzz --files 12000 --seed 1 --out fuzz.json
  python -m tests.faults.fuzz --repeat "DICOM:17" --seed 1 --out damaged     # the file, and what comes of it

A record OUT of the same seed is continued: what was tried of a reader on the same commit is not tried again, what was tried on
another one is forgotten. Exit status: 0 when nothing failed, 1 when something did, 2 for bad input, 130 after Ctrl-C."""


@dataclass
class Trial:
    """What came of a damaged file."""

    number: int
    file: str
    damage: str
    outcome: str  # read, refused or what failed
    told: str = ""
    seconds: float = 0.0
    grown_bytes: int = 0


@dataclass
class Tally:
    """What came of a reader's files so far."""

    reader: str
    commit: str | None
    content_bytes: int = 0
    intact_bytes: int = 0
    files: int = 0
    read: int = 0
    refused: int = 0
    most_bytes: int = 0
    most_by: str = ""
    slowest_s: float = 0.0
    slowest_by: str = ""
    damages: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.files += 1
        self.damages[trial.damage] = self.damages.get(trial.damage, 0) + 1
        name = f"{trial.number}: {trial.file}, {trial.damage}"
        if trial.grown_bytes > self.most_bytes:
            self.most_bytes, self.most_by = trial.grown_bytes, name
        if trial.seconds > self.slowest_s:
            self.slowest_s, self.slowest_by = round(trial.seconds, 3), name
        if trial.outcome in ("read", "refused"):
            setattr(self, trial.outcome, getattr(self, trial.outcome) + 1)
        else:
            self.failures.append({k: v for k, v in asdict(trial).items() if k not in ("seconds", "grown_bytes")})


def damage(reader: Any, template: Path, folder: Path, seed: int, number: int) -> tuple[Path, str]:
    """Copy a reader's valid files, one of them damaged; that one, and how."""
    from .damage import mutate

    rng = random.Random(f"{seed}/{reader.name}/{number}")
    chosen = rng.choice(reader.valid(template))
    target = _copy(template, folder) / chosen.relative_to(template)
    target.unlink()
    what, content = mutate(target.name, chosen.read_bytes(), rng)
    target.write_bytes(content)
    if rng.random() < 0.01:
        what = "hole of 4 GiB at its end"
        os.truncate(target, len(content) + 4 * 1024**3)
    return target, what


def _copy(template: Path, folder: Path) -> Path:
    return shutil.copytree(template, folder, copy_function=os.link)


def judge(read: Any, path: Path) -> tuple[str, str, Any]:
    """What comes of reading a file: the outcome, what was told, and the result."""
    try:
        return "read", "", read(path)
    except InputError as error:
        message, cause = str(error), error.__cause__
        if isinstance(cause, MemoryError):
            return "memory: it ran out", message, None
        if not (error.problem and error.mend and len(message) <= _LONGEST_MESSAGE and message.isprintable()):
            return "message that is no short line with what to do", message[:2000], None
        return "refused", message, None
    except AssertionError:
        return "wrong result", traceback.format_exc(limit=-2), None
    except BaseException as error:
        return f"traceback: {type(error).__name__}", traceback.format_exc(limit=-4), None


def _work(connection: Connection, templates: Path, seed: int) -> None:
    """A worker: reads the damaged file of each reader and number that come, and before a reader's first one the valid ones."""
    from .fuzz_readers import READERS

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)  # they are for the campaign, which ends its workers itself
    sys.stdout = sys.stderr = open(os.devnull, "w")  # what libraries say
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    measured: dict[str, tuple[int, int]] = {}
    while True:
        name, number = connection.recv()
        reader, template = READERS[name], templates / name
        if name not in measured:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            measured[name] = _measure_valid(reader, template)
            gc.collect()
            gc.freeze()
            resource.setrlimit(resource.RLIMIT_AS, (_status_bytes("VmSize") + _ROOM_BYTES, hard))
        with tempfile.TemporaryDirectory(dir=templates) as folder:
            path, what = damage(reader, template, Path(folder, "set"), seed, number)
            connection.send(_BEGUN)
            trial = _try(reader, path, number, what, measured[name][0])
            trial.file, trial.told = path.relative_to(Path(folder, "set")).as_posix(), trial.told.replace(folder, "")
            connection.send((trial, *measured[name]))


def _measure_valid(reader: Any, template: Path) -> tuple[int, int]:
    """What the largest valid file holds, and how far memory grows when it is read."""
    from .fuzz_readers import held_bytes

    content, grown = LEAST_CONTENT_BYTES, 0
    valid = reader.valid(template)[: 1 if reader.of_one_set else None]
    for again in (False, True):  # by the second time all is imported
        for path in valid:
            with tempfile.TemporaryDirectory(dir=template.parent) as folder:
                copied = _copy(template, Path(folder, "set")) / path.relative_to(template)
                before = _rss_from_now()
                outcome, told, result = judge(reader.read, copied)
                grown = max(grown * again, _peak_rss() - before)
            if outcome != "read":
                raise RuntimeError(f"{reader.name}: the valid file {path.name} is {outcome}: {told}")
            of_files = sum(p.stat().st_size for p in path.parent.iterdir() if p.is_file())
            content = max(content, held_bytes(result), of_files if reader.of_one_set else path.stat().st_size)
    return max(content, grown) if reader.computes else content, grown


def _try(reader: Any, path: Path, number: int, what: str, content: int) -> Trial:
    gc.collect()
    before, began = _rss_from_now(), _seconds()
    outcome, told, _ = judge(reader.read, path)
    seconds, grown = _seconds() - began, _peak_rss() - before
    if grown > MEMORY_FACTOR * content and outcome in ("read", "refused"):
        outcome, told = f"memory: more than {MEMORY_FACTOR:g} times the largest valid file", f"{outcome}: {told}"
    if seconds > LIMIT_S and outcome in ("read", "refused"):
        outcome, told = f"took more than {LIMIT_S:g} s", f"{outcome}: {told}"
    return Trial(number, path.name, what, outcome, told, seconds, grown)


def _seconds(process: int | str = "self") -> float:
    """A clock that stands while a process has work to do and no processor: on a busy machine, too, it shows who is slow."""
    with open(f"/proc/{process}/schedstat", encoding="ascii") as file:
        return time.perf_counter() - int(file.read().split()[1]) / 1e9


def _status_bytes(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def _rss_from_now() -> int:
    """The resident set's size, from which the kernel counts its peak again."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _status_bytes("VmRSS")


def _peak_rss() -> int:
    return _status_bytes("VmHWM")


class _Worker:
    """A process that reads damaged files; replaced when it dies or hangs."""

    def __init__(self, templates: Path, seed: int) -> None:
        self.arguments = (templates, seed)
        self.start()

    def start(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()

    def attempt(self, reader: str, number: int) -> tuple[Trial, int, int]:
        """What comes of a damaged file, and what is known of the valid ones: content and memory in bytes."""
        self.connection.send((reader, number))
        try:
            if self.connection.recv() == _BEGUN and self._answers():
                return self.connection.recv()
            outcome = f"took more than {LIMIT_S:g} s"
        except EOFError:
            outcome = "the process died"
        self.process.kill()
        self.process.join()
        self.start()
        return Trial(number, "?", "?", outcome), 0, 0

    def _answers(self) -> bool:
        assert self.process.pid is not None
        end = _seconds(self.process.pid) + _PATIENCE_S
        while not self.connection.poll(1):
            if _seconds(self.process.pid) > end:
                return False
        return True


def campaign(numbers: Mapping[str, Sequence[int]], seed: int, workers: int, done: Callable[..., None]) -> None:
    """Read the damaged files of these numbers, by reader; ``done(reader, trial, content, intact)`` hears of each."""
    from .fuzz_readers import READERS

    # What is freed goes back to the system at once: the next file's memory must show.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    # In turn: where a campaign is ended early, each reader has had its part.
    for _, name, number in sorted((k / len(each), name, n) for name, each in numbers.items() for k, n in enumerate(each)):
        waiting.put((name, number))
    failed: list[BaseException] = []
    lock = threading.Lock()

    def supervise(templates: Path) -> None:
        worker = _Worker(templates, seed)
        try:
            while not failed and not waiting.empty():
                try:
                    name, number = waiting.get_nowait()
                except queue.Empty:
                    break
                found = worker.attempt(name, number)
                with lock:
                    done(name, *found)
        except BaseException as error:
            failed.append(error)
        finally:
            worker.process.kill()
            worker.process.join()

    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        for name in numbers:
            Path(folder, name).mkdir()
            READERS[name].write(Path(folder, name))
        threads = [threading.Thread(target=supervise, args=(Path(folder),)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as error:
            failed.append(error)
            for thread in threads:
                thread.join()
    if failed:
        raise failed[0]


def shares(files: int, chosen: Sequence[str]) -> dict[str, int]:
    """How many files each reader gets."""
    from .fuzz_readers import READERS

    total = sum(READERS[name].share for name in chosen)
    counts = {name: files * READERS[name].share // total for name in chosen}
    counts[chosen[0]] += files - sum(counts.values())
    return counts


def main() -> int:
    options = parse()
    if options.repeat:
        return _repeat(options)
    from monai_vmat import provenance

    from .fuzz_readers import READERS

    chosen = options.readers or list(READERS)
    commit = provenance.git_commit(Path(__file__).resolve().parents[2])
    record: dict[str, Any] = {
        "kind": "fuzz",
        "seed": options.seed,
        "limits": {"seconds": LIMIT_S, "memory_factor": MEMORY_FACTOR, "least_content_bytes": LEAST_CONTENT_BYTES},
        "versions": provenance.versions(),
        "hardware": provenance.hardware() | {"cores": os.cpu_count()},
        "seconds": 0.0,
        "readers": [],
    }
    if options.out.exists():
        earlier = read_json(options.out)
        if earlier["seed"] != options.seed:
            raise InputError(options.out, f"is of seed {earlier['seed']}", "Name another file")
        record = earlier
    tallies = {entry["reader"]: Tally(**entry) for entry in record["readers"]}
    counts = shares(options.files, chosen)
    for name in counts:
        if name not in tallies or tallies[name].commit != commit:
            tallies[name] = Tally(name, commit)
    numbers = {name: range(tallies[name].files, tallies[name].files + count) for name, count in counts.items()}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was tried is recorded
    began = time.perf_counter()
    with tqdm(total=options.files, unit="file") as bar:

        def done(name: str, trial: Trial, content: int, intact: int) -> None:
            tally = tallies[name]
            tally.content_bytes, tally.intact_bytes = max(tally.content_bytes, content), max(tally.intact_bytes, intact)
            tally.add(trial)
            bar.set_description(name, refresh=False)
            bar.update()

        try:
            campaign(numbers, options.seed, options.workers, done)
        finally:
            record["seconds"] += time.perf_counter() - began
            record["readers"] = [asdict(tallies[name]) for name in READERS if name in tallies]
            write_json(options.out, record)
    say(_shown(list(tallies.values())))
    return 1 if any(tally.failures for tally in tallies.values()) else 0


def _shown(tallies: Sequence[Tally]) -> str:
    mib = 1024**2
    rows = [
        (t.reader, t.files, t.read, t.refused, len(t.failures), t.most_bytes / t.content_bytes, t.most_bytes / mib, t.slowest_s)
        for t in tallies
    ]
    text = table(("reader", "files", "read", "refused", "failed", "memory, x", "MiB", "slowest, s"), rows)
    for tally in tallies:
        for kind, several in Counter(failure["outcome"] for failure in tally.failures).items():
            first = next(failure for failure in tally.failures if failure["outcome"] == kind)
            text += f"\n{tally.reader}: {several} x {kind}, e.g. {first['number']} ({first['file']}, {first['damage']})"
    return text


def _repeat(options: argparse.Namespace) -> int:
    from .fuzz_readers import READERS

    name, _, number = options.repeat.rpartition(":")
    if name not in READERS or not number.isdecimal():
        raise InputError("--repeat", f"READER:NUMBER was expected, got {options.repeat}", f"Readers: {', '.join(READERS)}")
    if options.out.exists():
        raise InputError(options.out, "exists already", "Name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "valid")
        template.mkdir()
        READERS[name].write(template)
        path, what = damage(READERS[name], template, options.out, options.seed, int(number))
    outcome, told, _ = judge(READERS[name].read, path)
    say(f"{path}\n{what}\n{outcome}\n{told}")
    return 0 if outcome in ("read", "refused") else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.fuzz",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--files", type=int, default=1000, metavar="N", help="damaged files, shared out (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="another seed, other damage (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the record (JSON); with --repeat a new folder")
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="these only (default: all)")
    parser.add_argument("--repeat", metavar="READER:NUMBER", help="make this one damaged file and read it")
    add_workers_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
