#!/usr/bin/env python3
"""Convert NIfTI folders (ct.nii.gz, dose.nii.gz and one mask per structure) into case files for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from monai_vmat.case import Case
from monai_vmat.console import run_command, say
from monai_vmat.conversion import conversion_parser, convert_all
from monai_vmat.datalist import patient_of
from monai_vmat.dicom.names import NameMatch, read_mapping
from monai_vmat.errors import InputError
from monai_vmat.nifti import find_nifti_folders, match_masks, read_nifti_case, require_usable
from monai_vmat.protocol import Protocol, load_protocol

EXAMPLE = """example:
  python data_scripts/nifti_to_npz.py volumes data/mine --protocol prostate_sib --dry-run    # which names match?
  python data_scripts/nifti_to_npz.py volumes data/mine --protocol prostate_sib --mapping names.json

Every folder in SRC with a ct.nii.gz is a case. In it are: ct.nii.gz in HU; dose.nii.gz in Gy, on any grid along the patient's
axes; a mask per structure on the CT's grid; and, if you like, plan.json:
{"prescription_gy": {"PTV56": 50.4}, "constraints": {"Rectum_V50Gy": 0.3}}. The masks' file names are matched by the
protocol's aliases; names.json says the rest: {"file name without .nii.gz": "PTV70", "not to be used": null}.

The folder's name is the case id, and its path is shown: let it name nobody. A run that was stopped goes on where it was.
To predict, cases are not needed: inference takes the folders as they are. Exit status: 0 when OUT holds at least one case of
SRC, 2 when not, 130/143 after Ctrl-C/SIGTERM."""


@dataclass(frozen=True)
class FolderSource:
    """A folder as what may become a case, see :class:`monai_vmat.conversion.Source`."""

    folder: Path
    label: str
    protocol: Protocol
    mapping: Mapping[str, str | None] | None
    patient_pattern: str | None

    @property
    def case_id(self) -> str:
        return self.folder.name

    def match(self) -> NameMatch:
        return match_masks(self.folder, self.protocol, self.mapping)

    def require_usable(self, match: NameMatch) -> None:
        patient_of(self.folder.name, self.patient_pattern)  # refused now rather than after the volumes have been read
        require_usable(self.folder, match, self.protocol, require_dose=True)

    def make(self) -> tuple[Case, list[str]]:
        case = read_nifti_case(self.folder, self.protocol, self.mapping, require_dose=True)
        shown = ", ".join(f"{name} {dose_gy:g} Gy" for name, dose_gy in case.prescription_gy.items())
        return replace(case, patient=patient_of(self.folder.name, self.patient_pattern)), [shown]


def main() -> int:
    parser = conversion_parser(__doc__, EXAMPLE, "folder of NIfTI folders, any nesting")
    parser.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="its one group, found in a folder's name, says whose anatomy it is (default: the whole name)",
    )
    options = parser.parse_args()
    protocol = load_protocol(options.protocol)
    mapping = read_mapping(options.mapping, protocol) if options.mapping else None
    source = options.source.resolve()
    folders = find_nifti_folders(source)
    if not folders:
        raise InputError(options.source, "holds no folder with a ct.nii.gz", "Name the folder of the NIfTI folders")
    sources = [
        FolderSource(folder, folder.relative_to(source.parent).as_posix(), protocol, mapping, options.patient_pattern)
        for folder in folders
    ]
    convert_all(sources, options, protocol, "folder", "folders")
    say(f"\nnext: python data_scripts/make_splits.py {options.out} --seed 42")
    return 0


if __name__ == "__main__":
    run_command(main)
