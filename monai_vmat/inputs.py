"""What inference is given: case files, DICOM-RT exports or NIfTI folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_vmat.case import Case, write_case
from monai_vmat.datalist import find_cases
from monai_vmat.errors import InputError
from monai_vmat.nifti import find_nifti_folders, read_nifti_case
from monai_vmat.protocol import Protocol

if TYPE_CHECKING:
    from monai_vmat.dicom.study import Study

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Items for inference, and where they come from DICOM the studies, by case id, that the doses go back to."""

    items: Sequence[Mapping[str, Any]]
    studies: Mapping[str, Study] = field(default_factory=dict)


def find_inputs(
    source: str | Path,
    protocol: Protocol,
    output_dir: str | Path,
    *,
    constraints: Mapping[str, float] | None = None,
    spacing_mm: Sequence[float] | None = None,
    mapping: str | Path | None = None,
) -> Inputs:
    """Find what is to be predicted, whatever its form; no dose is needed.

    DICOM-RT exports and NIfTI folders become cases first, in ``<output_dir>/cases``; those of them that cannot be used are
    named in the log.

    Args:
        source: a case file; a folder of them; a folder, with any subfolders, of DICOM-RT exports; or one of NIfTI files (see
            :func:`monai_vmat.nifti.read_nifti_case`), or of such folders.
        protocol: the protocol of the model.
        output_dir: where predictions go.
        constraints: objectives by name that replace the cases' own.
        spacing_mm: voxel size of v2.x files, which have none of their own; that which DICOM is resampled to.
        mapping: JSON file of the user's own structure names.

    Raises:
        InputError: when nothing is found, or nothing of it can be used.
    """
    source = Path(source)
    if source.is_file() or any(source.glob("*.npz")):
        return Inputs(find_cases(source, constraints, spacing_mm))
    cases = Path(output_dir) / "cases"
    folders = find_nifti_folders(source)
    if folders:
        found = dict(_convert(_from_nifti(folders, protocol, mapping), cases))
    else:
        found = dict(_convert(_from_dicom(source, protocol, Path(output_dir), spacing_mm, mapping), cases))
    if not found:
        raise InputError(source, "nothing in it can be predicted", "See the reasons above")
    items = [item for case_id in found for item in find_cases(cases / f"{case_id}.npz", constraints)]
    return Inputs(items, {case_id: study for case_id, study in found.items() if study is not None})


# What a case is made by, its name for messages, and the study that it comes from.
_Maker = tuple[Callable[[], Case], str, "Study | None"]


def _convert(makers: Iterable[_Maker], folder: Path) -> Iterable[tuple[str, Study | None]]:
    for make, label, study in makers:
        try:
            case = make()
        except InputError as error:
            logger.warning(f"{label} is left out. {error}")
            continue
        write_case(case, folder / f"{case.case_id}.npz")
        logger.info(f"{label} is case {case.case_id}")
        yield case.case_id, study


def _from_dicom(
    source: Path, protocol: Protocol, output_dir: Path, spacing_mm: Sequence[float] | None, mapping: str | Path | None
) -> Iterable[_Maker]:
    from monai_vmat.dicom.convert import Conversion, study_to_case
    from monai_vmat.dicom.identity import identify, read_salt
    from monai_vmat.dicom.names import read_mapping
    from monai_vmat.dicom.study import find_studies

    studies = find_studies(source)
    salt = read_salt(output_dir / ".salt")
    conversion = Conversion(
        protocol,
        mapping=read_mapping(mapping, protocol) if mapping else None,
        spacing_mm=None if spacing_mm is None else (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        require_dose=False,
    )

    def convert(study: Study) -> Case:
        if study.problem:
            raise study.problem
        return study_to_case(replace(study, doses=()), conversion, identify(study, salt))[0]

    for study in studies:
        yield partial(convert, study), study.label, study


def _from_nifti(folders: Sequence[Path], protocol: Protocol, mapping: str | Path | None) -> Iterable[_Maker]:
    from monai_vmat.dicom.names import read_mapping

    names = read_mapping(mapping, protocol) if mapping else None
    for folder in folders:
        yield partial(read_nifti_case, folder, protocol, names), folder.name, None
