"""Writes a case as the files of a DICOM-RT export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import contourpy
import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from monai_vmat.case import Case
from monai_vmat.protocol import Protocol

PATIENT_NAME = "SECRET^PATIENT"
PATIENT_ID = "SECRET-ID-4711"
BIRTH_DATE = "19470813"
UID_ROOT = "1.2.826.0.1.3680043.8.498."

# ImageOrientationPatient: the directions of a row and of a column in patient coordinates (left, posterior, superior).
ORIENTATIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "FFDR": (0, 1, 0, 1, 0, 0),
}
_SOP_CLASS = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "RTDOSE": "1.2.840.10008.5.1.4.1.1.481.2",
    "RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5",
}


def write_dicom_set(
    case: Case,
    folder: Path,
    protocol: Protocol,
    *,
    orientation: str = "HFS",
    reverse_slices: bool = False,
    dose_offset_mm: Sequence[float] = (0.0, 0.0, 0.0),
    dose_spacing_mm: Sequence[float] | None = None,
    plan: bool = True,
    beams: int = 1,
    beam_doses: bool = False,
    fractions: int | None = None,
    roi_names: Mapping[str, str] | None = None,
    dose_bits: int = 32,
    patient_id: str = PATIENT_ID,
    seed: str = "",
) -> Path:
    """Write ``case`` into ``folder``: ``ct_NNN.dcm``, ``rs.dcm``, ``rd.dcm`` (if it has a dose) and ``rp.dcm``.

    Args:
        orientation: how the patient lay: a key of ORIENTATIONS.
        reverse_slices: number CT slices from superior to inferior.
        dose_offset_mm: shift of the dose grid's first point from the CT's, inwards (it then ends before the CT does).
        dose_spacing_mm: of the dose grid; the CT's when None. The dose is interpolated onto it by cubic splines.
        plan: whether there is an RTPLAN.
        beams: of the plan.
        beam_doses: write one RTDOSE for each beam, ``rd_N.dcm``, in place of the plan's.
        fractions: of the plan; the protocol's when None.
        roi_names: names of structures in the RTSTRUCT where they are not the case's.
        dose_bits: 16 or 32, of a stored dose value.
        seed: another one for another set of UIDs.
    """
    writer = _Writer(case, folder, orientation, patient_id, seed or f"{case.case_id}/{patient_id}")
    writer.write_ct(reverse_slices)
    writer.write_structures(roi_names or {})
    if case.dose_gy is not None:
        spacing = case.spacing_mm if dose_spacing_mm is None else tuple(dose_spacing_mm)
        shares = np.arange(1, beams + 1) / np.arange(1, beams + 1).sum() if beam_doses else [1.0]
        for number, share in enumerate(shares, 1):
            writer.write_dose(share, spacing, np.asarray(dose_offset_mm), number if beam_doses else None, dose_bits)
    if plan:
        writer.write_plan(protocol.fractions if fractions is None else fractions, beams)
    return folder


class _Writer:
    def __init__(self, case: Case, folder: Path, orientation: str, patient_id: str, seed: str) -> None:
        self.case, self.folder, self.patient_id, self.seed = case, folder, patient_id, seed
        self.position = orientation
        self.orientation = ORIENTATIONS[orientation]
        self.spacing = np.asarray(case.spacing_mm)
        self.origin = case.affine[:3, 3] * (-1, -1, 1)
        self.roi_number = {name: n for n, name in enumerate(case.structures, 1)}
        folder.mkdir(parents=True, exist_ok=True)

    def uid(self, kind: str, number: int = 0) -> str:
        return generate_uid(UID_ROOT, entropy_srcs=[self.seed, kind, str(number)])

    def new(self, kind: str, number: int = 0) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = _SOP_CLASS[kind]
        meta.MediaStorageSOPInstanceUID = self.uid(kind, number)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = UID_ROOT + "1"
        d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = _SOP_CLASS[kind], self.uid(kind, number)
        d.Modality = kind
        d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = PATIENT_NAME, self.patient_id, BIRTH_DATE, "M"
        d.StudyInstanceUID, d.SeriesInstanceUID = self.uid("study"), self.uid(f"{kind} series")
        d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber = "20260102", "101500", "1", ""
        d.SeriesNumber, d.ReferringPhysicianName, d.Manufacturer = 1, "", "monai_vmat tests"
        d.FrameOfReferenceUID, d.PositionReferenceIndicator = self.uid("frame of reference"), ""
        if kind.startswith("RT"):
            d.OperatorsName, d.ManufacturerModelName = "", "none"
        return d

    def save(self, d: FileDataset, name: str) -> None:
        d.save_as(self.folder / name, enforce_file_format=True)

    def reference(self, kind: str, number: int = 0) -> Dataset:
        return _item(ReferencedSOPClassUID=_SOP_CLASS[kind], ReferencedSOPInstanceUID=self.uid(kind, number))

    def frames(
        self, volume: np.ndarray, origin: np.ndarray, spacing: np.ndarray
    ) -> tuple[np.ndarray, list[float], list[float]]:
        """(frames, rows, columns) from (X, Y, Z), position of the first pixel, PixelSpacing (rows, columns)."""
        first = origin.copy()
        dims = []
        for direction in (self.orientation[3:], self.orientation[:3]):
            axis = int(np.abs(direction).argmax())
            if direction[axis] < 0:
                volume = np.flip(volume, axis)
                first[axis] += spacing[axis] * (volume.shape[axis] - 1)
            dims.append(axis)
        return volume.transpose(2, *dims), first.tolist(), [spacing[a] for a in dims]

    def add_pixels(self, d: Dataset, frames: np.ndarray, bits: int) -> None:
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.Rows, d.Columns = frames.shape[-2:]
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = bits, bits, bits - 1, 0
        d.PixelData = np.ascontiguousarray(frames).astype(f"<u{bits // 8}").tobytes()
        d["PixelData"].VR = "OW"

    def write_ct(self, reverse: bool) -> None:
        frames, first, pixel_spacing = self.frames(self.case.ct_hu, self.origin, self.spacing)
        for k, frame in enumerate(frames):
            number = len(frames) - k if reverse else k + 1
            d = self.new("CT", k)
            d.ImageType, d.InstanceNumber, d.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], number, 1
            d.BodyPartExamined, d.KVP, d.SliceThickness = "PELVIS", 120, self.spacing[2]
            d.PatientPosition = self.position
            d.ImagePositionPatient = [first[0], first[1], first[2] + k * self.spacing[2]]
            d.ImageOrientationPatient, d.PixelSpacing = list(self.orientation), pixel_spacing
            d.RescaleSlope, d.RescaleIntercept, d.RescaleType = 1, -1024, "HU"
            self.add_pixels(d, frame.astype(np.int32) + 1024, 16)
            self.save(d, f"ct_{number:03d}.dcm")

    def write_structures(self, roi_names: Mapping[str, str]) -> None:
        d = self.new("RTSTRUCT")
        frame = d.FrameOfReferenceUID
        d.StructureSetLabel, d.StructureSetDate, d.StructureSetTime = "test", "20260102", "101500"
        series = _item(
            SeriesInstanceUID=self.uid("CT series"),
            ContourImageSequence=[self.reference("CT", k) for k in range(self.case.ct_hu.shape[2])],
        )
        study = _item(
            ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
            ReferencedSOPInstanceUID=self.uid("study"),
            RTReferencedSeriesSequence=[series],
        )
        d.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
        rois, contours, observations = [], [], []
        for name, number in self.roi_number.items():
            roi_name = roi_names.get(name, name)
            roi = _item(
                ROINumber=number, ReferencedFrameOfReferenceUID=frame, ROIName=roi_name, ROIGenerationAlgorithm="MANUAL"
            )
            rois.append(roi)
            planes = [self.contour(k, line) for k, line in outline(self.case.structures[name])]
            contours.append(_item(ROIDisplayColor=[255, 0, 0], ContourSequence=planes, ReferencedROINumber=number))
            observations.append(
                _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
            )
        d.StructureSetROISequence, d.ROIContourSequence, d.RTROIObservationsSequence = rois, contours, observations
        self.save(d, "rs.dcm")

    def contour(self, k: int, line: np.ndarray) -> Dataset:
        """One closed contour on slice ``k``; ``line`` (points, 2) in voxel indices along X and Y."""
        x, y = (self.origin[:2] + line * self.spacing[:2]).T
        points = np.stack([x, y, np.full(len(x), self.origin[2] + k * self.spacing[2])], axis=1)
        return _item(
            ContourImageSequence=[self.reference("CT", k)],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
            ContourData=[f"{v:.4f}" for v in points.ravel()],
        )

    def write_dose(self, share: float, spacing, offset: np.ndarray, beam: int | None, bits: int) -> None:
        dose = self.case.dose_gy.astype(np.float64) * share
        spacing = np.asarray(spacing, np.float64)
        extent = (np.asarray(dose.shape) - 1) * self.spacing
        shape = np.floor((extent - offset) / spacing + 1e-6).astype(int) + 1
        index = [(o + s * np.arange(n)) / t for o, s, n, t in zip(offset, spacing, shape, self.spacing, strict=True)]
        dose = ndimage.map_coordinates(dose, np.meshgrid(*index, indexing="ij"), order=3, mode="nearest").clip(0)
        frames, first, pixel_spacing = self.frames(dose, self.origin + offset, spacing)
        up = np.cross(self.orientation[:3], self.orientation[3:])[2] > 0
        if not up:  # offsets count along the cross product of row and column
            frames = frames[::-1]
            first[2] += spacing[2] * (len(frames) - 1)
        d = self.new("RTDOSE", beam or 0)
        d.InstanceNumber = beam or 1
        d.ImagePositionPatient, d.ImageOrientationPatient = first, list(self.orientation)
        d.PixelSpacing, d.SliceThickness = pixel_spacing, spacing[2]
        d.NumberOfFrames, d.FrameIncrementPointer = len(frames), 0x3004000C
        d.GridFrameOffsetVector = (spacing[2] * np.arange(len(frames))).tolist()
        d.DoseUnits, d.DoseType, d.DoseSummationType = "GY", "PHYSICAL", "PLAN" if beam is None else "BEAM"
        d.DoseGridScaling = f"{max(dose.max(), 1e-3) / (2**bits - 2):.10e}"
        self.add_pixels(d, np.rint(frames / float(d.DoseGridScaling)), bits)
        planned = self.reference("RTPLAN")
        if beam is not None:
            beams = [_item(ReferencedBeamNumber=beam)]
            planned.ReferencedFractionGroupSequence = [_item(ReferencedFractionGroupNumber=1, ReferencedBeamSequence=beams)]
        d.ReferencedRTPlanSequence = [planned]
        self.save(d, "rd.dcm" if beam is None else f"rd_{beam}.dcm")

    def write_plan(self, fractions: int, beams: int) -> None:
        d = self.new("RTPLAN")
        d.RTPlanLabel, d.RTPlanDate, d.RTPlanTime, d.RTPlanGeometry = "test", "20260102", "101500", "PATIENT"
        d.DoseReferenceSequence = [
            _item(
                DoseReferenceNumber=n,
                DoseReferenceStructureType="VOLUME",
                ReferencedROINumber=self.roi_number[name],
                DoseReferenceType="TARGET",
                TargetPrescriptionDose=dose_gy,
            )
            for n, (name, dose_gy) in enumerate(self.case.prescription_gy.items(), 1)
        ]
        d.FractionGroupSequence = [
            _item(
                FractionGroupNumber=1,
                NumberOfFractionsPlanned=fractions,
                NumberOfBeams=beams,
                NumberOfBrachyApplicationSetups=0,
                ReferencedBeamSequence=[_item(BeamMeterset=100, ReferencedBeamNumber=n) for n in range(1, beams + 1)],
            )
        ]
        d.PatientSetupSequence = [_item(PatientPosition=self.position, PatientSetupNumber=1)]
        d.BeamSequence = [self.beam(n) for n in range(1, beams + 1)]
        d.ReferencedStructureSetSequence = [self.reference("RTSTRUCT")]
        self.save(d, "rp.dcm")

    def beam(self, number: int) -> Dataset:
        jaws = [_item(RTBeamLimitingDeviceType=t, NumberOfLeafJawPairs=1) for t in ("X", "Y")]
        positions = [_item(RTBeamLimitingDeviceType=t, LeafJawPositions=[-50, 50]) for t in ("X", "Y")]
        still = {
            f"{part}{what}": value
            for part in ("BeamLimitingDevice", "PatientSupport", "TableTopEccentric")
            for what, value in (("Angle", 0), ("RotationDirection", "NONE"))
        }
        first = _item(
            ControlPointIndex=0,
            NominalBeamEnergy=6,
            BeamLimitingDevicePositionSequence=positions,
            GantryAngle=181,
            GantryRotationDirection="CW",
            TableTopVerticalPosition="",
            TableTopLongitudinalPosition="",
            TableTopLateralPosition="",
            IsocenterPosition=[0, 0, 0],
            CumulativeMetersetWeight=0,
            **still,
        )
        last = _item(ControlPointIndex=1, GantryAngle=179, GantryRotationDirection="NONE", CumulativeMetersetWeight=1)
        return _item(
            TreatmentMachineName="",
            PrimaryDosimeterUnit="MU",
            SourceAxisDistance=1000,
            BeamLimitingDeviceSequence=jaws,
            BeamNumber=number,
            BeamType="DYNAMIC",
            RadiationType="PHOTON",
            TreatmentDeliveryType="TREATMENT",
            NumberOfWedges=0,
            NumberOfCompensators=0,
            NumberOfBoli=0,
            NumberOfBlocks=0,
            FinalCumulativeMetersetWeight=1,
            NumberOfControlPoints=2,
            ReferencedPatientSetupNumber=1,
            ControlPointSequence=[first, last],
        )


def outline(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Slice and closed contour (points, 2; voxel indices) of each outer and inner boundary of a (X, Y, Z) mask."""
    contours = []
    for k in np.flatnonzero(mask.any((0, 1))):
        padded = np.pad(mask[..., k].astype(float), 1)
        lines = contourpy.contour_generator(z=padded).lines(0.5)
        contours += [
            (int(k), line[:-1, ::-1] - 1) for line in lines
        ]  # contourpy's x counts columns, and its last point is the first
    return contours


def _item(**fields) -> Dataset:
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item
