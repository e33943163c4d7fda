"""What a program has left: whether each file is whole, what is in it, and what of the work is finished."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from pydicom import dcmread

from monai_vmat.datalist import load_datalist
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.handlers.run_record import read_metrics
from monai_vmat.npz import NpzArchive
from monai_vmat.sweeps.plan import SCRATCH
from monai_vmat.weights import load_checkpoint

# What two runs of the same work may differ in: how long it took, and how often and on what it was begun.
MAY_DIFFER = {"seconds", "sessions", "first_epoch", "job"}


def visible(out: Path) -> list[Path]:
    """The files that readers may take; TensorBoard's, whose reader stops at a cut end, and logs apart, and what Ray keeps for
    itself, which the next session deletes unread."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return [p for p in paths if not any(_is_private(part) for part in p.relative_to(out).parts) and not _grows(p)]


def _is_private(name: str) -> bool:
    return name.startswith(".") or name == SCRATCH


def _grows(path: Path) -> bool:
    return path.name.startswith("events.out") or path.suffix == ".log"


def partial(out: Path) -> list[str]:
    """The files among those that their readers refuse."""
    return [str(path.relative_to(out)) for path in visible(out) if not _reads(path)]


def _reads(path: Path) -> bool:
    try:
        if path.suffix == ".npz":
            with NpzArchive(path) as archive:
                for name in archive.names:
                    archive.read(name)
        elif path.suffix == ".pt":
            load_checkpoint(path)
        elif path.name == "datalist.json":
            load_datalist(path)
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".csv":
            read_metrics(path)
        elif path.name.endswith(".nii.gz"):
            np.asanyarray(nib.load(path).dataobj)
        elif path.suffix == ".dcm":
            dcmread(path).pixel_array.sum()
        elif path.suffix in (".pdf", ".html"):
            return path.read_bytes().rstrip().endswith((b"%%EOF", b"</html>"))
        elif path.suffix == ".png":
            return path.read_bytes().endswith(b"IEND\xaeB`\x82")
        else:
            return path.read_bytes().endswith(b"\n")  # texts
    except (InputError, OSError, EOFError, ValueError):
        return False
    return True


def left_over(out: Path) -> list[str]:
    """Temporary files."""
    return [str(path.relative_to(out)) for path in out.rglob("*.part")]


def contents(out: Path) -> dict[str, str]:
    """A checksum of what each file says, without what may differ."""
    return {str(path.relative_to(out)): hashlib.sha256(_said(path)).hexdigest() for path in visible(out)}


def _said(path: Path) -> bytes:
    if path.suffix == ".pt":
        return b"".join(_flat(load_checkpoint(path)))
    if path.suffix == ".json":
        return json.dumps(_without(read_json(path)), sort_keys=True).encode()
    if path.name == "metrics.csv":
        rows = csv.DictReader(path.read_text().splitlines())
        return json.dumps([_without(row) for row in rows]).encode()
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())  # its header has the time
    return path.read_bytes()


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(v) for key, v in value.items() if key not in MAY_DIFFER}
    return [_without(v) for v in value] if isinstance(value, list) else value


def _flat(value: Any) -> Iterable[bytes]:
    if isinstance(value, torch.Tensor):
        yield str(value.dtype).encode() + value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _flat(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield repr(value).encode()


def finished_cases(out: Path) -> dict[str, tuple[int, int]]:
    """Identity of the case files: written again, a file has another."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("*.npz")}


def epochs_done(out: Path) -> dict[str, int]:
    """By run in ``out`` (or ``out`` itself), after which epoch its checkpoint is."""
    return {str(p.parents[1].relative_to(out)): load_checkpoint(p)["epoch"] for p in out.rglob("checkpoints/last.pt")}


def epochs_repeated(out: Path, before: dict[str, int], epochs: int) -> list[str]:
    """The runs whose last session did not begin right after the epoch that was done."""
    wrong = []
    for run, done in before.items():
        sessions = read_json(out / run / "training_config.json")["sessions"]
        expected = done + 1 if done < epochs else None  # a run that is done gets no other session
        if expected is not None and sessions[-1]["first_epoch"] != expected:
            wrong.append(run)
    return wrong
