"""A small pelvis as DICOM files, and ways to damage and convert them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from monai_vmat.case import Case, lps_affine
from monai_vmat.dicom.convert import Conversion, study_to_case
from monai_vmat.dicom.identity import Identity
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import InputError

ORIGIN_LPS_MM = (-110.5, -230.25, 871.0)


@pytest.fixture(scope="session")
def pelvis(make_case, prostate) -> Case:
    """A synthetic patient who does not lie at the origin."""
    case = make_case(prostate)
    return replace(case, affine=lps_affine(case.spacing_mm, ORIGIN_LPS_MM))


@pytest.fixture(scope="session")
def pelvis_files(tmp_path_factory, pelvis, prostate, write_dicom_set) -> Path:
    return write_dicom_set(pelvis, tmp_path_factory.mktemp("pelvis"), prostate)


@pytest.fixture
def export(tmp_path, pelvis_files) -> Path:
    """The pelvis' files (``ct_001.dcm`` to ``ct_016.dcm``, ``rs.dcm``, ``rd.dcm``, ``rp.dcm``), to be damaged."""
    return Path(shutil.copytree(pelvis_files, tmp_path / "export"))


@pytest.fixture(scope="session")
def edit() -> Callable[..., None]:
    """``edit(path, function)``: change a file's dataset in place. ``edit(path, Keyword=value)``: set fields (None: delete)."""

    def edit(path: Path, function: Callable | None = None, **fields) -> None:
        dataset = pydicom.dcmread(path)
        if function:
            function(dataset)
        for keyword, value in fields.items():
            delattr(dataset, keyword) if value is None else setattr(dataset, keyword, value)
        dataset.save_as(path)

    return edit


@pytest.fixture(scope="session")
def convert_all(prostate) -> Callable[..., list]:
    """``convert_all(folder, ...)``: the case, or the InputError, of each study; settings are those of Conversion."""

    def convert(folder: Path, protocol=prostate, **settings) -> list[Case | InputError]:
        results = []
        for study in find_studies(folder):
            try:
                case, _ = study_to_case(study, Conversion(protocol, **settings), Identity("case-1", "patient-1"))
                results.append(case)
            except InputError as error:
                results.append(error)
        return results

    return convert
