"""What an RTPLAN prescribes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monai_vmat.dicom.reading import EXPORT_AGAIN, numbers, read_dataset, sequence, text
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError


@dataclass(frozen=True)
class Plan:
    """What is prescribed.

    Args:
        fractions: number of fractions; None when there is no plan.
        prescription_gy: prescribed dose by ROI number.
        site_gy: the highest prescription that names no region.
        beams: numbers of the beams that treat.
    """

    fractions: int | None = None
    prescription_gy: Mapping[int, float] = field(default_factory=dict)
    site_gy: float | None = None
    beams: frozenset[int] = frozenset()


def read_plan(study: Study) -> Plan:
    """Read a study's RTPLAN; an empty plan when it has none.

    Raises:
        InputError: when it is damaged, has not exactly one fraction group, or prescribes two doses for one region.
    """
    if study.plan is None:
        return Plan()
    where = study.names(study.plan)
    dataset = read_dataset(study.plan, where)
    groups = sequence(dataset, "FractionGroupSequence")
    if len(groups) != 1:
        raise InputError(
            where, f"FractionGroupSequence: one group was expected, got {len(groups)}", "Export a plan of one phase"
        )
    (fractions,) = numbers(groups[0], "NumberOfFractionsPlanned", 1, where)
    if fractions < 1 or fractions != int(fractions):
        raise InputError(where, f"NumberOfFractionsPlanned: a number from 1 was expected, got {fractions:g}", EXPORT_AGAIN)
    prescription: dict[int, float] = {}
    site = []
    for item in sequence(dataset, "DoseReferenceSequence"):
        if text(item, "DoseReferenceType") != "TARGET" or not text(item, "TargetPrescriptionDose"):
            continue
        (dose,) = numbers(item, "TargetPrescriptionDose", 1, where)
        if not 0 < dose <= 200:
            raise InputError(where, f"TargetPrescriptionDose: Gy up to 200 were expected, got {dose:g}", EXPORT_AGAIN)
        if not text(item, "ReferencedROINumber"):
            site.append(dose)
            continue
        number = int(numbers(item, "ReferencedROINumber", 1, where)[0])
        if prescription.setdefault(number, dose) != dose:
            problem = f"two prescriptions for ROI {number}: {prescription[number]:g} and {dose:g} Gy"
            raise InputError(where, problem, "Leave one of them in the plan")
    setup = {text(b, "BeamNumber") for b in sequence(dataset, "BeamSequence") if text(b, "TreatmentDeliveryType") == "SETUP"}
    beams = {text(b, "ReferencedBeamNumber") for b in sequence(groups[0], "ReferencedBeamSequence")} - setup
    return Plan(int(fractions), prescription, max(site, default=None), frozenset(int(b) for b in beams if b.isdecimal()))
