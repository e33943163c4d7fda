#!/usr/bin/env python3
"""Split a folder of cases by patient into training, validation and test, and write the datalist.json that says so."""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from monai_vmat.case import read_metadata
from monai_vmat.console import run_command, say, table
from monai_vmat.datalist import DEFAULT_FRACTIONS, FILE_NAME, SECTIONS, build_datalist, patient_of
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.openkbp import publisher_split
from monai_vmat.protocol import load_protocol

EXAMPLE = """examples:
  python data_scripts/make_splits.py data/openkbp --openkbp
  python data_scripts/make_splits.py data/mine --fractions 0.8 0.1 0.1 --test-ids case_7 case_9
  python data_scripts/make_splits.py data/old --protocol prostate_sib --patient-pattern '(patient\\d+)_plan\\d+' \\
      --spacing-mm 1 1 2

A section whose ids are given gets exactly these, with all plans of their patients; the others share the rest by their
fractions. The same cases and seed always give the same split."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of *.npz cases")
    parser.add_argument("--out", type=Path, help=f"the file to write (default: FOLDER/{FILE_NAME})")
    parser.add_argument("--protocol", metavar="NAME", help="name or JSON file; needed where no case says it (v2.x files)")
    parser.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help=f"share of the patients (default: {' '.join(map(str, DEFAULT_FRACTIONS))})",
    )
    parser.add_argument("--seed", type=int, default=42, help="another seed, another split (default: %(default)s)")
    parser.add_argument("--openkbp", action="store_true", help="the publisher's split of the OpenKBP patients, by their ids")
    for section, option in (("training", "train"), ("validation", "validation"), ("test", "test")):
        parser.add_argument(
            f"--{option}-ids",
            dest=section,
            nargs="+",
            metavar="ID",
            help=f"case ids for {section}; @FILE reads them from a text file",
        )
    parser.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="for v2.x files: its one group, found in the file's name without .npz, says whose anatomy it is",
    )
    parser.add_argument("--spacing-mm", nargs=3, type=float, metavar=("X", "Y", "Z"), help="voxel size of v2.x files (1 1 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing list of other content")
    options = parser.parse_args()
    if options.spacing_mm and min(options.spacing_mm) <= 0:
        parser.error(f"--spacing-mm: three numbers above 0 were expected, got {options.spacing_mm}")

    out = options.out or options.folder / FILE_NAME
    files = find_cases(options.folder, out)
    metadata = {path: read_metadata(path) for path in files}
    cases = [(files[path], *identify(path, metadata[path], options.patient_pattern)) for path in files]
    explicit_ids = {section: read_ids(getattr(options, section)) for section in SECTIONS if getattr(options, section)}
    if options.openkbp:
        if explicit_ids or options.fractions:
            raise InputError("--openkbp", "cannot go with --fractions or ids: it says where each patient belongs", "Choose one")
        explicit_ids = {section: [c for _, c, _ in cases if publisher_split(c) == section] for section in SECTIONS}
    protocol = find_protocol(metadata, options.protocol)
    content = build_datalist(cases, protocol, options.fractions or DEFAULT_FRACTIONS, options.seed, explicit_ids)
    if options.spacing_mm:
        dialect_v2 = {case_id for path, (_, case_id, _) in zip(files, cases) if not metadata[path]}
        for item in (item for section in SECTIONS for item in content[section] if item["case_id"] in dialect_v2):
            item["spacing_mm"] = options.spacing_mm

    if out.exists() and not options.overwrite and read_json(out) != content:
        raise InputError(out, "exists already and says otherwise", "Add --overwrite to replace it, or choose another --out")
    write_json(out, content)
    rows = [(section, len(content[section]), len({item["patient"] for item in content[section]})) for section in SECTIONS]
    left_out = {(c, p) for _, c, p in cases} - {(i["case_id"], i["patient"]) for s in SECTIONS for i in content[s]}
    if left_out:
        rows.append(("left out", len(left_out), len({patient for _, patient in left_out})))
    say(table(("split", "cases", "patients"), rows))
    say(f"\nwritten: {out}")
    return 0


def find_cases(folder: Path, out: Path) -> dict[Path, str]:
    """The case files, and their paths as the list at ``out`` will have them."""
    if not folder.is_dir():
        raise InputError(folder, "is not a folder", "Give the folder that holds the *.npz cases")
    try:
        relative = Path(os.path.abspath(folder)).relative_to(Path(os.path.abspath(out)).parent)
    except ValueError as error:
        problem = f"{folder} was expected to lie in or below the list's folder {out.parent}"
        raise InputError("--out", problem, "Choose another place") from error
    files = {path: (relative / path.name).as_posix() for path in sorted(folder.glob("*.npz"))}
    if not files:
        mend = "Convert some first, e.g. with data_scripts/openkbp_to_npz.py"
        raise InputError(folder, "holds no *.npz cases", mend)
    return files


def identify(path: Path, metadata: dict[str, Any], pattern: str | None) -> tuple[str, str]:
    """Case id and patient: as a native file says, or from the name of a v2.x file."""
    if metadata:
        return metadata["case_id"], metadata["patient"]
    return path.stem, patient_of(path.stem, pattern)


def find_protocol(metadata: dict[Path, dict[str, Any]], wanted: str | None) -> str:
    """The one protocol that all cases belong to."""
    files_of = defaultdict(list)
    for path, content in metadata.items():
        if content:
            files_of[content["protocol"]].append(path)
    if wanted:
        name = load_protocol(wanted).name
        files_of[name] = files_of[name] or [Path("--protocol")]
    if not files_of:
        mend = "Say which, e.g. --protocol prostate_sib"
        raise InputError("--protocol", "the cases are v2.x files, which do not say what protocol they belong to", mend)
    if len(files_of) > 1:
        found = ", ".join(f"{name} ({paths[0]})" for name, paths in sorted(files_of.items()))
        raise InputError("--protocol", f"cases of one protocol were expected, found {found}", "Keep one folder per protocol")
    return next(iter(files_of))


def read_ids(words: list[str]) -> list[str]:
    """Case ids, those of ``@FILE`` taken from the file (separated by white space)."""
    ids: list[str] = []
    for word in words:
        try:
            ids += Path(word[1:]).read_text(encoding="utf-8").split() if word.startswith("@") else [word]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(word, f"ids cannot be read ({error})", "Check the path") from error
    return ids


if __name__ == "__main__":
    run_command(main)
