#!/usr/bin/env python3
"""Turn v2.x files (ct, dose, masks_sdf, constraints, ...) into native cases: smaller, with an affine, nothing pickled."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from monai_vmat.case import DOSE_STEP_GY, SDF_CLIP_MM, V2_SPACING_MM, Case, read_case, write_case
from monai_vmat.console import run_command, say, table
from monai_vmat.datalist import natural_order, patient_of
from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive
from monai_vmat.parallel import add_workers_option, map_in_processes
from monai_vmat.pickled_metadata import read_pickled_metadata
from monai_vmat.plain_facts import plain_facts, stated_spacing
from monai_vmat.protocol import load_protocol

EXAMPLE = """example:
  python data_scripts/migrate_npz.py data/old data/migrated --spacing 1 1 2.5

v2.x files have no voxel size of their own. Taken is, in this order: what a file's metadata state, where their order of axes is
beyond doubt; --spacing; 1 x 1 x 2 mm. The report says which was used. The metadata's pickle is read without executing any
of it. Single facts are kept; whatever may say who the patient is stays behind, and its name is reported.

A run that was stopped goes on where it was: files that are there already are skipped. Exit status: 0 when every file has its
case, 1 when some were refused, 2 when OUT holds none of them, 130/143 after Ctrl-C/SIGTERM."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file; ``refused`` says why it was not converted."""

    refused: str = ""
    spacing: str = ""
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", type=Path, help="folder of v2.x files (*.npz)")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the native cases, of the same names")
    parser.add_argument("--protocol", metavar="NAME", default="prostate_sib", help="name or JSON file (default: %(default)s)")
    parser.add_argument(
        "--spacing",
        "--spacing-mm",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help="voxel size in mm of files whose metadata state none",
    )
    parser.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="its one group, found in a file's name without .npz, says whose anatomy it is (default: the whole name)",
    )
    parser.add_argument("--without-metadata", action="store_true", help="leave the files' own metadata aside, unread")
    add_workers_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="convert files again that have their case already")
    options = parser.parse_args()
    if options.out.resolve() == options.source.resolve():
        parser.error("OUT: another folder than SRC was expected; the v2.x files stay as they are")
    load_protocol(options.protocol)  # a wrong name is told once, not for every file
    if options.spacing and min(options.spacing) <= 0:
        parser.error(f"--spacing: three numbers above 0 were expected, got {options.spacing}")

    files = sorted(options.source.glob("*.npz"), key=lambda path: natural_order(path.stem))
    if not files:
        raise InputError(options.source, "holds no .npz files", "Give the folder of the v2.x files")
    waiting = [path for path in files if options.overwrite or not (options.out / path.name).exists()]
    work = partial(
        migrate,
        out=options.out,
        protocol_name=options.protocol,
        spacing_mm=options.spacing,
        patient_pattern=options.patient_pattern,
        with_metadata=not options.without_metadata,
    )
    outcomes = dict(zip(waiting, map_in_processes(work, waiting, options.workers, "file"), strict=True))
    report(outcomes, there=len(files) - len(waiting))
    refused = sum(bool(outcome.refused) for outcome in outcomes.values())
    if refused == len(files):
        raise InputError(options.source, "none of its files could be converted", "See the reasons above")
    say(f"\nnext: python data_scripts/make_splits.py {options.out}")
    return 1 if refused else 0


def migrate(
    path: Path,
    out: Path,
    protocol_name: str,
    spacing_mm: Sequence[float] | None,
    patient_pattern: str | None,
    with_metadata: bool,
) -> Outcome:
    """Convert one file, or say why not.

    Raises:
        InputError: when the case cannot be written.
    """
    try:
        with NpzArchive(path) as archive:
            if "structure_names" in archive:
                raise InputError(path, "is a native case already", "Copy it as it is")
            metadata = read_pickled_metadata(archive) if with_metadata else {}
        facts, left_out = plain_facts(metadata)
        spacing, where = choose_spacing(path, *stated_spacing(metadata), spacing_mm)
        case = read_case(path, load_protocol(protocol_name), spacing)
        notes = look_at(case)
        kept = {"spacing_from": where, **({"v2_metadata": facts} if facts else {})}
        patient = patient_of(path.stem, patient_pattern)
    except InputError as error:
        return Outcome(refused=str(error))
    write_case(replace(case, patient=patient, metadata={**case.metadata, **kept}), out / path.name)
    return Outcome(spacing=f"{' x '.join(f'{s:g}' for s in spacing)} mm ({where})", left_out=left_out, notes=notes)


def choose_spacing(
    path: Path, stated: Sequence[float] | None, where: str, given: Sequence[float] | None
) -> tuple[Sequence[float], str]:
    """The voxel size (X, Y, Z) to use and where it is from.

    Raises:
        InputError: when the metadata state one that cannot be understood and nothing else was given, or the two differ.
    """
    if stated is None and given is None:
        if where != "no metadata state it":
            raise InputError(path, f"{where}, so its voxel size is not known", "Give it with --spacing X Y Z")
        return V2_SPACING_MM, "the v2.x default"
    if stated is None or given is None:
        return (given, "--spacing") if given is not None else (stated or (), where)
    if not np.allclose(stated, given, rtol=1e-3):
        text = " x ".join(f"{s:g}" for s in stated)
        raise InputError(path, f"{where} says {text} mm, --spacing differs", "Leave --spacing out, or add --without-metadata")
    return stated, where


def look_at(case: Case) -> list[str]:
    """What deserves a look: distances that were measured with another voxel size, and doses below zero."""
    notes = []
    measured = measured_spacing(case)
    if measured is not None and not np.allclose(measured, case.spacing_mm, rtol=0.02):
        text = " x ".join(f"{s:.3g}" for s in measured)
        notes.append(f"its signed distances fit voxels of {text} mm. If that is their size, give it with --spacing")
    lowest = 0.0 if case.dose_gy is None else float(case.dose_gy.min())
    if lowest < -DOSE_STEP_GY / 2:
        notes.append(f"doses below zero (down to {lowest:.3f} Gy) were set to zero")
    return notes


def measured_spacing(case: Case) -> tuple[float, ...] | None:
    """The voxel size (X, Y, Z) in mm by which the stored distances were computed; None when they do not show it.

    Straight away from a structure (the first is looked at) a distance grows by the voxel's size from voxel to voxel, and never
    by more; where it is clipped, by less.
    """
    distances = next(iter((case.signed_distances or {}).values()), np.ones((2, 2, 2), np.float32))
    steps = []
    for axis in range(3):
        near, far = np.moveaxis(distances, axis, 0)[:-1], np.moveaxis(distances, axis, 0)[1:]
        outside = (near > 0) & (far > 0)
        steps.append(float(np.abs(far[outside] - near[outside]).max(initial=0.0)) * SDF_CLIP_MM)
    return tuple(steps) if all(steps) else None


def report(outcomes: dict[Path, Outcome], there: int) -> None:
    """Say what became of the files."""
    done = {path: outcome for path, outcome in outcomes.items() if not outcome.refused}
    refused = {path: outcome for path, outcome in outcomes.items() if outcome.refused}
    say(table(("files", "number"), [("converted", len(done)), ("already there", there), ("refused", len(refused))]))
    if done:
        say("\nvoxel size X x Y x Z, and where it is from:")
        for text, count in Counter(outcome.spacing for outcome in done.values()).most_common():
            say(f"  {text}: {count}")
    names = Counter(name for outcome in done.values() for name in dict.fromkeys(outcome.left_out))
    if names:
        say("\nmetadata that may say who the patient is, or are no plain facts, stay behind:")
        for name, count in names.most_common():
            say(f"  {ascii(name[:80])[1:-1]}: {count}")
    if any(outcome.notes for outcome in done.values()):
        say("\nlook at:")
        for path, outcome in done.items():
            for note in outcome.notes:
                say(f"  {path.name}: {note}")
    if refused:
        say("\nrefused, and why:")
        for outcome in refused.values():
            say(f"  {outcome.refused}")


if __name__ == "__main__":
    run_command(main)
