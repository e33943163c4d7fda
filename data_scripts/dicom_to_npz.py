#!/usr/bin/env python3
"""Convert DICOM-RT exports (CT, RTSTRUCT, RTDOSE and, if there is one, RTPLAN) into case files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_vmat.case import Case
from monai_vmat.console import run_command, say
from monai_vmat.conversion import Outcome, conversion_parser, convert_all
from monai_vmat.dicom.convert import Conversion, match_study, require_usable, study_to_case
from monai_vmat.dicom.identity import Identity, identify, read_case_ids, read_salt
from monai_vmat.dicom.names import NameMatch, read_mapping
from monai_vmat.dicom.study import Study, find_studies
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.protocol import Protocol, load_protocol

EXAMPLE = """example:
  pip install 'monai_vmat[dicom]'
  python data_scripts/dicom_to_npz.py export data/mine --protocol prostate_sib --dry-run    # which names match?
  python data_scripts/dicom_to_npz.py export data/mine --protocol prostate_sib --mapping names.json

SRC may have any folders and file names: files are put together by what they say of each other. Names of structures are
matched by the protocol's aliases; names.json says the rest: {"ROI name": "PTV70", "not to be used": null}.

Patients' names, ids, birth dates and UIDs stay out of the cases and of what is shown. A case's id is a hash with a secret
salt, OUT/.salt if not said otherwise: keep it to add cases later, never pass it on with the cases. A run that was stopped goes
on where it was. Exit status: 0 when OUT holds at least one case of SRC, 2 when not, 130/143 after Ctrl-C/SIGTERM."""


@dataclass(frozen=True)
class StudySource:
    """A study as what may become a case, see :class:`monai_vmat.conversion.Source`."""

    study: Study
    identity: Identity
    conversion: Conversion
    stated: Mapping[str, float]

    @property
    def label(self) -> str:
        return self.study.label

    @property
    def case_id(self) -> str:
        return self.identity.case_id

    def match(self) -> NameMatch:
        return match_study(self.study, self.conversion)

    def require_usable(self, match: NameMatch) -> None:
        require_usable(self.study, match, self.conversion)

    def make(self) -> tuple[Case, list[str]]:
        return study_to_case(self.study, self.conversion, self.identity, self.stated)


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

    def name_study(study: Study) -> StudySource | Outcome:
        try:
            if study.problem:
                raise study.problem
            identity = identify(study, salt, case_ids)
        except InputError as error:
            return Outcome(study.label, "-", "refused", str(error))
        return StudySource(study, identity, conversion, constraints.get(identity.case_id, {}))

    sources = [name_study(study) for study in studies]
    outcomes = convert_all(sources, options, protocol, "study", "studies", show_ids=bool(salt))
    if not options.dry_run:
        unknown = sorted(set(constraints) - {outcome.case_id for outcome in outcomes})
        if unknown:
            raise InputError(options.constraints, f"no case is called {', '.join(unknown)}", "Correct it; see the ids above")
        say(f"\nnext: python data_scripts/make_splits.py {options.out} --seed 42")
    return 0


def parse() -> argparse.Namespace:
    parser = conversion_parser(__doc__, EXAMPLE, "folder of DICOM files, any nesting and names")
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
    options = parser.parse_args()
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


if __name__ == "__main__":
    run_command(main)
