"""What an RTPLAN prescribes. Plans that are refused are in test_bad_files.py."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from monai_vmat.dicom.plan import Plan, read_plan
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import InputError


@pytest.fixture
def read(export, edit):
    """``read(change)``: the plan of the export, changed."""

    def read(change=None) -> Plan:
        if change:
            edit(export / "rp.dcm", change)
        return read_plan(find_studies(export)[0])

    return read


def reference(**fields) -> Dataset:
    item = Dataset()
    for keyword, value in ({"DoseReferenceType": "TARGET"} | fields).items():
        setattr(item, keyword, value)
    return item


def test_fractions_prescriptions_and_beams(read):
    plan = read()
    assert plan == Plan(28, {1: 70.0, 2: 56.0}, None, frozenset({1}))


def test_without_a_plan_nothing_is_prescribed(export):
    (export / "rp.dcm").unlink()
    assert read_plan(find_studies(export)[0]) == Plan(None, {}, None, frozenset())


def test_the_highest_dose_of_no_region_is_the_sites(read):
    doses = [reference(TargetPrescriptionDose=dose) for dose in (50.4, 70, 56)]
    plan = read(lambda d: setattr(d, "DoseReferenceSequence", [*doses, d.DoseReferenceSequence[1]]))
    assert plan.site_gy == 70.0 and plan.prescription_gy == {2: 56.0}


def test_only_targets_are_prescribed_to(read):
    """An organ's limit and a target without a dose are no prescriptions."""
    organ = reference(DoseReferenceType="ORGAN_AT_RISK", TargetPrescriptionDose=80, ReferencedROINumber=4)
    plan = read(lambda d: d.DoseReferenceSequence.extend([organ, reference(ReferencedROINumber=3)]))
    assert plan.prescription_gy == {1: 70.0, 2: 56.0} and plan.site_gy is None


def test_the_same_prescription_twice_is_one(read):
    again = reference(TargetPrescriptionDose=70, ReferencedROINumber=1)
    assert read(lambda d: d.DoseReferenceSequence.append(again)).prescription_gy == {1: 70.0, 2: 56.0}


def test_setup_beams_do_not_treat(tmp_path, pelvis, prostate, write_dicom_set, edit):
    write_dicom_set(pelvis, tmp_path, prostate, beams=3)
    edit(tmp_path / "rp.dcm", lambda d: setattr(d.BeamSequence[1], "TreatmentDeliveryType", "SETUP"))
    assert read_plan(find_studies(tmp_path)[0]).beams == frozenset({1, 3})


@pytest.mark.parametrize(("dose_gy", "usable"), [(0, False), (200, True), (200.1, False)])
def test_prescriptions_are_gy(read, dose_gy, usable):
    change = lambda d: setattr(d.DoseReferenceSequence[0], "TargetPrescriptionDose", dose_gy)  # noqa: E731
    if usable:
        assert read(change).prescription_gy[1] == dose_gy
    else:
        with pytest.raises(InputError, match="rp.dcm: TargetPrescriptionDose: Gy up to 200 were expected"):
            read(change)


def test_fractions_are_whole(read):
    with pytest.raises(InputError, match="NumberOfFractionsPlanned"):
        read(lambda d: setattr(d.FractionGroupSequence[0], "NumberOfFractionsPlanned", "2.5"))


def test_a_plan_of_two_phases_is_refused(read):
    with pytest.raises(InputError, match="FractionGroupSequence: one group was expected, got 2"):
        read(lambda d: d.FractionGroupSequence.append(d.FractionGroupSequence[0]))
