"""A predicted dose as DICOM RTDOSE, for planning systems.

DICOM PS3.3, RT Dose IOD (A.18) and RT Dose module (C.8.8.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, RTDoseStorage, generate_uid

from monai_vmat import __version__
from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.reading import EXPORT_AGAIN, read_dataset
from monai_vmat.dicom.resample import resample_dose
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole

COMMENT = "Predicted by monai_vmat: research only, not for clinical use"  # 64 characters at most
OUTSIDE_COMMENT = "UNLIKE THE TRAINING'S CASES: not to be trusted. Research only"
SERIES_DESCRIPTION = "PREDICTED DOSE, research only"
_LARGEST = np.iinfo(np.uint32).max
# What a dose shares with the CT that it was predicted on: whose it is, of which study, in which frame of reference.
_OF_THE_PATIENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)


def write_rtdose(
    path: str | Path,
    dose_gy: np.ndarray,
    affine: np.ndarray,
    study: Study,
    spacing_mm: Sequence[float] | None = None,
    comment: str = COMMENT,
) -> None:
    """Write a dose for the patient of a study, whole or not at all.

    Rows, columns and frames run as the CT's do, so that prone and feet-first patients look as they do in the planning system.
    Doses are 32-bit integers of one scaling: the error is at most half a step, about 1e-8 Gy.

    Args:
        path: the file.
        dose_gy: (X, Y, Z), not negative, towards the patient's left, posterior and superior.
        affine: (4, 4), voxel indices to RAS mm, as in a case.
        study: whose CT gives patient, study and frame of reference; its plan, or else its structure set, is referred to.
        spacing_mm: voxel size of the written grid, which covers the dose's; the dose's own when None.
        comment: what the file says of the dose, 64 characters at most.

    Raises:
        InputError: for a dose that is not finite or negative, and when the CT lacks what a dose needs or cannot be read again.
    """
    if not (np.isfinite(dose_gy).all() and dose_gy.min() >= 0):
        raise InputError("RTDOSE", f"expected finite doses of 0 Gy or more, got {dose_gy.min()}", "Check the prediction")
    if spacing_mm is not None:
        dose_gy, affine = _with_spacing(dose_gy, affine, spacing_mm)
    ct = _header(study, study.ct[0], *_OF_THE_PATIENT, "ImageOrientationPatient")
    now = datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTDoseStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the one that every DICOM application reads
    out = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    if ct.get("SpecificCharacterSet"):
        out.SpecificCharacterSet = ct.SpecificCharacterSet
    for keyword in _OF_THE_PATIENT:
        setattr(out, keyword, ct.get(keyword, ""))
    if not out.StudyInstanceUID or not out.FrameOfReferenceUID:
        raise InputError(study.names(study.ct[0]), "has no study or frame of reference UID", "Export the CT again")
    out.SOPClassUID = RTDoseStorage
    out.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    out.InstanceCreationDate = out.ContentDate = out.SeriesDate = now.strftime("%Y%m%d")
    out.InstanceCreationTime = out.ContentTime = out.SeriesTime = now.strftime("%H%M%S")
    out.Modality = "RTDOSE"
    out.SeriesInstanceUID = generate_uid()
    out.SeriesNumber = None
    out.InstanceNumber = 1
    out.SeriesDescription = SERIES_DESCRIPTION
    out.OperatorsName = ""
    out.Manufacturer = out.ManufacturerModelName = "monai_vmat"
    out.SoftwareVersions = __version__
    _set_pixels(out, dose_gy, affine, np.asarray(ct.ImageOrientationPatient, np.float64))
    out.DoseUnits = "GY"
    out.DoseType = "PHYSICAL"
    out.DoseSummationType = "PLAN"
    out.DoseComment = comment
    if study.plan:
        out.ReferencedRTPlanSequence = [_reference(study, study.plan)]
    elif study.structures:  # beside a plan the standard does not want it: the plan refers to it
        out.ReferencedStructureSetSequence = [_reference(study, study.structures)]
    with write_whole(path) as temporary:
        out.save_as(temporary, enforce_file_format=True)


def _with_spacing(dose_gy: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The dose on a grid of another voxel size with the same middle, and the grid's affine."""
    own = Grid.from_affine(affine, dose_gy.shape)
    dx, dy, dz = (float(step) for step in spacing_mm)
    extent = np.multiply(own.shape, own.spacing_mm)
    nx, ny, nz = (max(1, int(count)) for count in extent / (dx, dy, dz) + 1e-6)
    first = [own.edges_mm(axis)[0] for axis in range(3)] + (extent - np.multiply((nx - 1, ny - 1, nz - 1), (dx, dy, dz))) / 2
    grid = Grid((first[0], first[1], first[2]), (dx, dy, dz), (nx, ny, nz))
    return resample_dose(dose_gy, own, grid), grid.affine


def _set_pixels(out: Dataset, dose_gy: np.ndarray, affine: np.ndarray, orientation: np.ndarray) -> None:
    """Pixels, scaling and geometry: columns run along the first axis of ``orientation``, rows along the second."""
    directions = np.stack([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])])
    axes = np.abs(directions).argmax(1)  # the patient's axis, and so the dose's, that columns, rows and frames follow
    signs = np.sign(directions[np.arange(3), axes]).astype(int)
    grid = Grid.from_affine(affine, dose_gy.shape)
    spacing, position = grid.spacing_mm, np.array(grid.origin_mm)
    for axis, sign in zip(axes, signs, strict=True):
        if sign < 0:
            position[axis] = grid.centres_mm(axis)[-1]
    frames = dose_gy.transpose(axes[::-1])[tuple(slice(None, None, sign) for sign in signs[::-1])]

    # The step as it is written, so that nothing is lost to its rounding; never so small that the hottest voxel overflows.
    step = max(float(dose_gy.max()), 1.0) / _LARGEST
    text = f"{step * (1 + 1e-8):.9e}"
    out.DoseGridScaling = text
    pixels = np.rint(frames.astype(np.float64) / float(text)).astype("<u4")
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME2"
    out.NumberOfFrames, out.Rows, out.Columns = pixels.shape
    out.BitsAllocated = out.BitsStored = 32
    out.HighBit = 31
    out.PixelRepresentation = 0
    out.PixelData = pixels.tobytes()
    out["PixelData"].VR = "OW"
    out.ImageOrientationPatient = [f"{value:g}" for value in np.rint(orientation)]
    out.ImagePositionPatient = [f"{value:.10g}" for value in position]
    out.PixelSpacing = [f"{spacing[axes[1]]:.10g}", f"{spacing[axes[0]]:.10g}"]  # between rows, then between columns
    out.SliceThickness = f"{spacing[axes[2]]:.10g}"
    out.FrameIncrementPointer = 0x3004000C
    out.GridFrameOffsetVector = [f"{index * spacing[axes[2]]:.10g}" for index in range(len(pixels))]


def _header(study: Study, path: Path, *keywords: str) -> Dataset:
    header = read_dataset(path, study.names(path), keywords)
    if header is None:
        raise InputError(study.names(path), "is no DICOM file any more", EXPORT_AGAIN)
    return header


def _reference(study: Study, path: Path) -> Dataset:
    header = _header(study, path, "SOPClassUID", "SOPInstanceUID")
    item = Dataset()
    item.ReferencedSOPClassUID = UID(header.SOPClassUID)
    item.ReferencedSOPInstanceUID = UID(header.SOPInstanceUID)
    return item
