"""A CT's slices as one volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monai_vmat.case import lps_affine
from monai_vmat.dicom.ct import read_ct
from monai_vmat.dicom.study import find_studies

ORIENTATIONS = ("HFS", "FFS", "HFP", "FFP", "HFDL", "FFDR")


@pytest.mark.parametrize("reverse", (False, True))
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_position_of_the_patient_gives_the_same_volume(
    tmp_path, prostate, make_case, write_dicom_set, orientation, reverse
):
    case = make_case(prostate, shape=(12, 10, 8), spacing=(2.0, 3.0, 4.0))
    case = replace(case, affine=lps_affine(case.spacing_mm, (-110.5, -230.25, 871.0)))
    write_dicom_set(case, tmp_path, prostate, orientation=orientation, reverse_slices=reverse)
    (study,) = find_studies(tmp_path)
    hu, affine = read_ct(study)
    assert hu.dtype == np.int16 and np.array_equal(hu, np.maximum(case.ct_hu, -1024))
    assert np.allclose(affine, case.affine)
