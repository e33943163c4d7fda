#!/usr/bin/env python3
"""Convert DICOM-RT exports (CT, RTSTRUCT, RTDOSE and, if there is one, RTPLAN) into case files."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from monai_vmat.case import write_case
from monai_vmat.console import run_command, say, table
from monai_vmat.dicom.convert import Conversion, match_study, require_usable, study_to_case
from monai_vmat.dicom.identity import Identity, identify, read_case_ids, read_salt
from monai_vmat.dicom.names import NameMatch, read_mapping
from monai_vmat.dicom.study import Study, find_studies
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.parallel import map_in_processes
from monai_vmat.protocol import Protocol, load_protocol

EXAMPLE = """example:
  pip install 'monai_vmat[dicom]'
  python data_scripts/dicom_to_npz.py export data/mine --protocol prostate_sib --dry-run    # which names match?
  python data_scripts/dicom_to_npz.py export data/mine --protocol prostate_sib --mapping names.json

SRC may have any folders and file names: files are put together by what they say of each other. Names of structures are
matched by the protocol's aliases; names.json says the rest: {"ROI name": "PTV70", "not to be used": null}.

Patients' names, ids, birth dates and UIDs stay out of the cases and of what is shown. A case's id is a hash with a secret
salt, OUT/.salt if not said otherwise: keep it to add cases later, never pass it on with the cases. A run that was stopped goes
on where it was. Exit status: 0 when OUT holds at least one case of SRC, 2 when not, 130 after Ctrl-C."""


@dataclass(frozen=True)
class Outcome:
    """What became of a study."""

    study: str
    case_id: str
    status: str  # converted, already there, refused; with --dry-run: usable, refused
    reason: str = ""
    remarks: Sequence[str] = ()
    found: Mapping[str, str] = field(default_factory=dict)
    ambiguous: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unmatched: Sequence[str] = ()


def main() -> int:
    options = parse()
    protocol = load_protocol(options.protocol)
    conversion = Conversion(
        protocol,
        mapping=read_mapping(options.mapping, protocol) if options.mapping else None,
        spacing_mm=tuple(options.spacing_mm) if options.spacing_mm else None,
        margin_mm=options.margin_mm,
        require_dose=not options.without_dose,
        keep_identifiers=options.keep_identifiers,
    )
    constraints = read_constraints(options.constraints, protocol) if options.constraints else {}
    case_ids = read_case_ids(options.case_ids) if options.case_ids else None
    studies = find_studies(options.source, keep_identifiers=options.keep_identifiers)
    # Nothing is written by a dry run: without a salt of their own its cases have no ids yet.
    salt_file = options.salt or options.out / ".salt"
    salt = read_salt(salt_file) if not options.dry_run or salt_file.exists() else b""
    named = [name_study(study, salt, case_ids) for study in studies]
    refuse_same_names(named)

    settled = [item for item in named if isinstance(item, Outcome)]
    waiting = [item for item in named if not isinstance(item, Outcome)]
    if options.dry_run:
        outcomes = settled + map_in_processes(partial(look, conversion=conversion), waiting, options.workers, "study")
    else:
        there = [item for item in waiting if not options.overwrite and (options.out / f"{item[1].case_id}.npz").exists()]
        settled += [Outcome(study.label, identity.case_id, "already there") for study, identity in there]
        waiting = [item for item in waiting if item not in there]
        work = partial(convert, conversion=conversion, constraints=constraints, out=options.out)
        outcomes = settled + map_in_processes(work, waiting, options.workers, "study")
    report(outcomes, protocol, show_ids=bool(salt))
    if all(outcome.status == "refused" for outcome in outcomes):
        raise InputError(options.source, "none of its studies can be converted", "See the reasons above")
    if not options.dry_run:
        unknown = sorted(set(constraints) - {outcome.case_id for outcome in outcomes})
        if unknown:
            raise InputError(options.constraints, f"no case is called {', '.join(unknown)}", "Correct it; see the ids above")
        say(f"\nnext: python data_scripts/make_splits.py {options.out} --seed 42")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", type=Path, help="folder of DICOM files, any nesting and names")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the case files")
    parser.add_argument("--protocol", required=True, metavar="NAME", help="treatment site: a name or a JSON file")
    parser.add_argument("--dry-run", action="store_true", help="only show which names match and what would be refused")
    parser.add_argument("--mapping", type=Path, metavar="JSON", help="structures of your ROI names")
    parser.add_argument("--spacing-mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="voxel size (default: the CT's)")
    parser.add_argument(
        "--margin-mm", type=float, metavar="M", help="crop to the targets and M mm around (default: to the body)"
    )
    parser.add_argument("--without-dose", action="store_true", help="convert studies that have no dose, too, for inference")
    parser.add_argument("--constraints", type=Path, metavar="JSON", help="the plans' own objectives: {case id: {name: value}}")
    parser.add_argument("--case-ids", type=Path, metavar="CSV", help="your own case ids: columns patient_id, case_id")
    parser.add_argument(
        "--salt", type=Path, metavar="FILE", help="secret of the case ids (default: OUT/.salt, made when missing)"
    )
    parser.add_argument("--keep-identifiers", action="store_true", help="write and show patients' identifiers")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="parallel processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="convert studies again that have their file already")
    options = parser.parse_args()
    if options.workers < 1:
        parser.error(f"--workers: a number from 1 was expected, got {options.workers}")
    if options.spacing_mm and not all(0 < s <= 50 for s in options.spacing_mm):
        parser.error(f"--spacing-mm: three numbers above 0 and at most 50 were expected, got {options.spacing_mm}")
    if options.margin_mm is not None and not 0 <= options.margin_mm < 10_000:
        parser.error(f"--margin-mm: a number from 0 was expected, got {options.margin_mm}")
    return options


def read_constraints(path: Path, protocol: Protocol) -> dict[str, dict[str, float]]:
    """The plans' own objectives by case id, checked against the protocol."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(stated, dict) for stated in content.values()):
        raise InputError(path, "an object was expected: {case id: {constraint: value}}", "Correct it")
    for stated in content.values():
        protocol.encode_constraints({}, stated)
    return content


def name_study(study: Study, salt: bytes, case_ids: dict[str, str] | None) -> tuple[Study, Identity] | Outcome:
    """The study with its names, or why it is refused."""
    try:
        if study.problem:
            raise study.problem
        return study, identify(study, salt, case_ids)
    except InputError as error:
        return Outcome(study.label, "-", "refused", str(error))


def refuse_same_names(named: list[tuple[Study, Identity] | Outcome]) -> None:
    """Refuse, in place, studies that would get one case id: several plans of a patient in the user's table, or copies."""
    counts = Counter(item[1].case_id for item in named if not isinstance(item, Outcome))
    for k, item in enumerate(named):
        if not isinstance(item, Outcome) and counts[item[1].case_id] > 1:
            study, identity = item
            reason = InputError(
                study.label,
                f"{counts[identity.case_id]} studies would be case {identity.case_id}: plans of one patient, or copies",
                "Leave one in SRC, or do without --case-ids",
            )
            named[k] = Outcome(study.label, identity.case_id, "refused", str(reason))


def look(item: tuple[Study, Identity], conversion: Conversion) -> Outcome:
    """What a conversion would find before it reads CT and dose."""
    study, identity = item
    outcome = Outcome(study.label, identity.case_id, "usable")
    try:
        match = match_study(study, conversion)
        outcome = with_names(outcome, match)
        require_usable(study, match, conversion)
    except InputError as error:
        return replace(outcome, status="refused", reason=str(error))
    return outcome


def convert(
    item: tuple[Study, Identity], conversion: Conversion, constraints: Mapping[str, dict[str, Any]], out: Path
) -> Outcome:
    """Convert one study."""
    study, identity = item
    outcome = look(item, conversion)
    if outcome.status == "refused":
        return outcome
    try:
        case, remarks = study_to_case(study, conversion, identity, constraints.get(identity.case_id))
    except InputError as error:
        return replace(outcome, status="refused", reason=str(error))
    write_case(case, out / f"{case.case_id}.npz")
    return replace(outcome, status="converted", remarks=remarks)


def with_names(outcome: Outcome, match: NameMatch) -> Outcome:
    found = {structure: roi.name for structure, roi in match.found.items()}
    return replace(outcome, found=found, ambiguous=match.ambiguous, unmatched=match.unmatched)


def report(outcomes: Sequence[Outcome], protocol: Protocol, show_ids: bool) -> None:
    """Names, cases, and what was refused and why."""
    read = [outcome for outcome in outcomes if outcome.found or outcome.unmatched or outcome.ambiguous]
    if read:
        structures = list(dict.fromkeys([*protocol.structure_names, *(s for o in read for s in (*o.found, *o.ambiguous))]))
        rows: list[tuple[object, ...]] = []
        for structure in structures:
            names = Counter(o.found[structure] for o in read if structure in o.found)
            unclear = Counter(" / ".join(o.ambiguous[structure]) for o in read if structure in o.ambiguous)
            rows.append((structure, sum(names.values()), counted(names), counted(unclear)))
        rows.append(("(no structure)", "", counted(Counter(name for o in read for name in o.unmatched)), ""))
        say(table(("structure", "studies", "ROI names", "ambiguous"), rows) + "\n")
    statuses = Counter(outcome.status for outcome in outcomes)
    say(table(("studies", "number"), list(statuses.items())))
    for title, chosen in (
        ("cases:", [o for o in outcomes if o.status != "refused"]),
        ("refused, and why:", [o for o in outcomes if o.status == "refused"]),
    ):
        if chosen:
            say(f"\n{title}")
        for outcome in chosen:
            case_id = f"{outcome.case_id} " if show_ids and outcome.status != "refused" else ""
            details = outcome.reason or "; ".join([outcome.status, *outcome.remarks])
            say(f"  {case_id}({outcome.study}): {details}")


def counted(names: Counter[str]) -> str:
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in names.most_common()) or "-"


if __name__ == "__main__":
    run_command(main)
