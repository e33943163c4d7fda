"""A sweep's folder: which trials it has, kept from session to session, and one session at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.sweeps.hold import hold
from monai_vmat.sweeps.space import Space

FILE_NAME = "sweep.json"
SCRATCH = "ray"  # of the engine, in the shared folder; what counts is in the runs

_LOCK = ".lock"
_TEMPORARY = "monai_vmat-sweep-"
_MAY_CHANGE = ("trials", "cpus_per_trial", "gpus_per_trial")


@contextmanager
def only_session(out: Path) -> Iterator[Path]:
    """Hold a sweep's folder; gives a temporary folder, with a short path, that is removed in the end.

    What a killed session has left (its temporary folder on this machine, scratch files in ``out``) is removed first.

    Raises:
        InputError: when another session holds the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / _LOCK, "a+", encoding="utf-8") as lock:
        if not hold(lock):
            raise InputError(out, "is held by another session of the sweep", "Wait for its end, or use another --out FOLDER")
        lock.seek(0)
        left = Path(lock.read().strip() or ".")
        if left.name.startswith(_TEMPORARY):
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(out / SCRATCH, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        lock.truncate(0)  # after which the file's end, where "a" writes, is its beginning
        lock.write(str(temporary))
        lock.flush()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(out / SCRATCH, ignore_errors=True)
            lock.truncate(0)


def keep_plan(space: Space, out: Path, resume: bool) -> None:
    """Write ``sweep.json``; of a sweep that goes on, see that it is the same one.

    More trials than before may be asked for, and other resources for each.

    Raises:
        InputError: when ``out`` holds a sweep and ``resume`` is off, or another sweep.
    """
    path = out / FILE_NAME
    plan: dict[str, Any] = {
        "space": dict(space.content),
        "trials": [{"trial": trial.name, "settings": dict(trial.settings)} for trial in space.trials],
    }
    if path.exists():
        if not resume:
            raise InputError(out, "holds a sweep already", "Go on with --resume, or choose another --out FOLDER")
        earlier = read_json(path)
        changed = [key for key in plan["space"] if key not in _MAY_CHANGE and plan["space"][key] != earlier["space"].get(key)]
        if changed:
            mend = "Resume with the sweep's own space file, or choose another --out FOLDER"
            raise InputError(space.path, f"'{changed[0]}' is not what the sweep in {out} began with", mend)
        begun = len(earlier["trials"])
        if plan["trials"][:begun] != earlier["trials"]:
            problem = f"{len(plan['trials'])} trials, but the sweep in {out} has {begun}"
            raise InputError(space.path, problem, f"Resume with --trials {begun} or more")
    write_json(path, plan)
