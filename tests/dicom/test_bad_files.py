"""Whatever is wrong with an export ends in one message that names file and field."""

from __future__ import annotations

import random
import re
import shutil

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless

from monai_vmat.case import Case
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import InputError

OBLIQUE = [0.9848, 0.1736, 0, -0.1736, 0.9848, 0]
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"


def truncate(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def each_slice(folder, edit, **fields):
    for path in folder.glob("ct_*.dcm"):
        edit(path, **fields)


def compress(dataset):
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"\xff\xd8 never looked at \xff\xd9"])


def recode(path, syntax):
    """Damage the file's transfer syntax, explicit VR little endian."""
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", syntax, 1))


def smaller(dataset):
    dataset.Rows //= 2
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


def move(height_mm):
    def damage(dataset):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, z + height_mm]

    return damage


def shift(dataset):
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y + 0.5, z]


def second_scan(folder, edit):
    for path in folder.glob("ct_*.dcm"):
        shutil.copy(path, folder / f"b_{path.name}")
        edit(folder / f"b_{path.name}", SeriesInstanceUID="1.2.3.4.5", SOPInstanceUID=f"1.2.3.4.5.{path.stem[3:]}")
    edit(folder / "rs.dcm", lambda d: delattr(d.ReferencedFrameOfReferenceSequence[0], "RTReferencedStudySequence"))


def drawn_elsewhere(dataset):
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4.5"


def other_frame(dataset):
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3.4.5"


def contours(roi, items):
    return lambda dataset: setattr(dataset.ROIContourSequence[roi], "ContourSequence", items)


def rename(roi, name):
    return lambda dataset: setattr(dataset.StructureSetROISequence[roi], "ROIName", name)


def contour_kind(kind):
    def damage(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = kind

    return damage


def first_point(axis, value):
    def damage(dataset):
        contour = dataset.ROIContourSequence[0].ContourSequence[0]
        coordinates = [str(v) for v in contour.ContourData]
        coordinates[axis] = value
        contour.ContourData = coordinates

    return damage


def cut_contour(dataset):
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = contour.ContourData[:-1]


def second_dose(folder, edit):
    shutil.copy(folder / "rd.dcm", folder / "rd_again.dcm")
    edit(folder / "rd_again.dcm", SOPInstanceUID="1.2.3.4.5")


def per_fraction(dataset):
    dataset.DoseGridScaling = float(dataset.DoseGridScaling) / 28


def move_offsets(height_mm):
    return lambda d: setattr(d, "GridFrameOffsetVector", [v + height_mm for v in d.GridFrameOffsetVector])


def fractions(number):
    return lambda dataset: setattr(dataset.FractionGroupSequence[0], "NumberOfFractionsPlanned", number)


def prescribe(item, dose_gy, number=None):
    def damage(dataset):
        reference = dataset.DoseReferenceSequence[item]
        reference.TargetPrescriptionDose = dose_gy
        reference.ReferencedROINumber = number or reference.ReferencedROINumber

    return damage


# name: how to damage the export (folder, edit), and what the message must say
BAD = {
    # files
    "truncated slice": (
        lambda f, edit: truncate(f / "ct_005.dcm", 0.7),
        r"ct_005.dcm: is truncated: element \(7FE0,0010\) has \d+ of 960 bytes",
    ),
    "truncated dose": (lambda f, edit: truncate(f / "rd.dcm", 0.7), "rd.dcm: is truncated"),
    "compressed without decoder": (
        lambda f, edit: edit(f / "ct_005.dcm", compress),
        "ct_005.dcm: PixelData: compressed as JPEG-LS",
    ),
    "unknown coding": (
        lambda f, edit: recode(f / "ct_005.dcm", b"1.2.840.10708.1.2.1\0"),
        "ct_005.dcm: TransferSyntaxUID is missing or unknown",
    ),
    "two codings": (
        lambda f, edit: recode(f / "ct_005.dcm", b"1.2.840.10008\\1.2.1\0"),
        "ct_005.dcm: TransferSyntaxUID is missing or unknown",
    ),
    # CT
    "no slope": (lambda f, edit: edit(f / "ct_005.dcm", RescaleSlope=None), "ct_005.dcm: RescaleSlope is missing"),
    "zero slope": (lambda f, edit: edit(f / "ct_005.dcm", RescaleSlope=0), "ct_005.dcm: RescaleSlope: a number above 0"),
    "no position": (
        lambda f, edit: edit(f / "ct_005.dcm", ImagePositionPatient=None),
        "ct_005.dcm: ImagePositionPatient is missing",
    ),
    "no frame of reference": (
        lambda f, edit: each_slice(f, edit, FrameOfReferenceUID=None),
        "ct_001.dcm: FrameOfReferenceUID is mis",
    ),
    "no spacing": (lambda f, edit: edit(f / "ct_005.dcm", PixelSpacing=None), "ct_005.dcm: PixelSpacing is missing"),
    "zero spacing": (
        lambda f, edit: each_slice(f, edit, PixelSpacing=[0, 3]),
        r"PixelSpacing: numbers above 0 .* \[0.0, 3.0\]",
    ),
    "fewer pixels than claimed": (
        lambda f, edit: each_slice(f, edit, Rows=40),
        "ct_001.dcm: PixelData: 1920 bytes were expected, got 960",
    ),
    "no pixels": (lambda f, edit: edit(f / "ct_005.dcm", PixelData=None), "ct_005.dcm: PixelData is missing"),
    "giant rows": (
        lambda f, edit: edit(f / "ct_005.dcm", Rows=60000, Columns=60000),
        "ct_005.dcm: Rows, Columns, frames: 60000 x",
    ),
    "colour": (lambda f, edit: edit(f / "ct_005.dcm", SamplesPerPixel=3), "ct_005.dcm: SamplesPerPixel: 1 was expected, got 3"),
    "other size": (
        lambda f, edit: edit(f / "ct_005.dcm", smaller),
        r"ct_005.dcm: Rows, Columns: \[10, 24\], but \[20, 24\] in",
    ),
    "other spacing": (
        lambda f, edit: edit(f / "ct_005.dcm", PixelSpacing=[2, 2]),
        r"ct_005.dcm: PixelSpacing: \[2.0, 2.0\], but",
    ),
    "missing slice": (lambda f, edit: (f / "ct_005.dcm").unlink(), "missing slice: 1 of 3.00 mm between 880.00 and 886.00 mm"),
    "missing last slices": (
        lambda f, edit: [(f / f"ct_{k:03d}.dcm").unlink() for k in range(13, 17)],
        r"rs.dcm: '\w+': contours from .* along Z, the CT reaches from 869.5 to 905.5",
    ),
    "doubled slice": (lambda f, edit: edit(f / "ct_005.dcm", move(-3)), "doubled slice: two are at 880.00 mm"),
    "uneven slices": (lambda f, edit: edit(f / "ct_005.dcm", move(1.3)), "slices are not evenly spaced"),
    "one slice": (lambda f, edit: [(f / f"ct_{k:03d}.dcm").unlink() for k in range(2, 17)], "CT: one slice only"),
    "oblique": (lambda f, edit: each_slice(f, edit, ImageOrientationPatient=OBLIQUE), r"ImageOrientationPatient .*: oblique"),
    "sagittal": (
        lambda f, edit: each_slice(f, edit, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "axial images were expected",
    ),
    "tilted gantry": (lambda f, edit: edit(f / "ct_005.dcm", shift), "ct_005.dcm: ImagePositionPatient across the slice"),
    "enhanced": (lambda f, edit: edit(f / "ct_005.dcm", SOPClassUID=ENHANCED), r"ct_005.dcm: a multi-frame \(enhanced\) CT"),
    "multi-frame slice": (
        lambda f, edit: edit(f / "ct_005.dcm", NumberOfFrames=2),
        "ct_005.dcm: NumberOfFrames: 1 was expected",
    ),
    "MR among the slices": (
        lambda f, edit: edit(f / "ct_005.dcm", Modality="MR"),
        "ct_005.dcm: is MR in a series of CT slices",
    ),
    "two CTs": (lambda f, edit: second_scan(f, edit), "rs.dcm: RTSTRUCT that belongs to 2 CT series"),
    # structures
    "no RTSTRUCT": (
        lambda f, edit: [(f / n).unlink() for n in ("rs.dcm", "rd.dcm", "rp.dcm")],
        "no RTSTRUCT refers to its CT of 16",
    ),
    "CT not there": (lambda f, edit: edit(f / "rs.dcm", drawn_elsewhere), "rs.dcm: RTSTRUCT whose CT series is not here"),
    "drawn on MR": (lambda f, edit: each_slice(f, edit, Modality="MR"), "rs.dcm: RTSTRUCT drawn on MR, not on CT"),
    "structures in another frame": (
        lambda f, edit: edit(f / "rs.dcm", other_frame),
        "rs.dcm: RTSTRUCT has another frame of ref",
    ),
    "no regions": (
        lambda f, edit: edit(f / "rs.dcm", StructureSetROISequence=None),
        "rs.dcm: StructureSetROISequence is missing",
    ),
    "required not drawn": (lambda f, edit: edit(f / "rs.dcm", contours(0, [])), "'PTV70': ROI 'PTV70' has no contours"),
    "required absent": (
        lambda f, edit: edit(f / "rs.dcm", rename(3, "colon")),
        "are absent: Rectum; names without a match: 'colon'",
    ),
    "ambiguous": (lambda f, edit: edit(f / "rs.dcm", rename(2, "PTV_7000")), "'PTV70' is ambiguous: 'PTV70', 'PTV_7000'"),
    "points only": (lambda f, edit: edit(f / "rs.dcm", contour_kind("POINT")), r"'PTV70' has no closed contour \(\d+ POINT\)"),
    "oblique contour": (lambda f, edit: edit(f / "rs.dcm", first_point(2, "900")), "'PTV70': a contour from .* is not axial"),
    "contour outside the CT": (lambda f, edit: edit(f / "rs.dcm", first_point(0, "-500")), "'PTV70': contours from -500.0 to"),
    "contour of words": (
        lambda f, edit: edit(f / "rs.dcm", first_point(0, "NaN")),
        "ContourData: finite numbers were expected",
    ),
    "contour cut short": (lambda f, edit: edit(f / "rs.dcm", cut_contour), "ContourData: numbers in threes were expected"),
    # dose
    "no dose": (lambda f, edit: (f / "rd.dcm").unlink(), "export: no RTDOSE belongs to it"),
    "two doses": (lambda f, edit: second_dose(f, edit), r"export: 2 plan doses \(r.*.dcm, r.*.dcm\)"),
    "dose of one fraction group": (
        lambda f, edit: edit(f / "rd.dcm", DoseSummationType="FRACTION"),
        "rd.dcm: DoseSummationType: PLAN",
    ),
    "beam dose of no beam": (
        lambda f, edit: edit(f / "rd.dcm", DoseSummationType="BEAM"),
        "rd.dcm: BEAM dose that does not say",
    ),
    "dose in another frame": (
        lambda f, edit: edit(f / "rd.dcm", FrameOfReferenceUID="1.2.3.4.5"),
        "rd.dcm: RTDOSE has another frame",
    ),
    "cGy": (lambda f, edit: edit(f / "rd.dcm", DoseUnits="CGY"), "rd.dcm: DoseUnits: GY was expected, got 'CGY'"),
    "relative dose": (
        lambda f, edit: edit(f / "rd.dcm", DoseUnits="RELATIVE"),
        "rd.dcm: DoseUnits: GY was expected, got 'RELAT",
    ),
    "error dose": (
        lambda f, edit: edit(f / "rd.dcm", DoseType="ERROR"),
        "rd.dcm: DoseType: PHYSICAL or EFFECTIVE was expected",
    ),
    "zero scaling": (lambda f, edit: edit(f / "rd.dcm", DoseGridScaling=0), "rd.dcm: DoseGridScaling: a number above 0"),
    "no scaling": (lambda f, edit: edit(f / "rd.dcm", DoseGridScaling=None), "rd.dcm: DoseGridScaling is missing"),
    "dose of one fraction": (
        lambda f, edit: edit(f / "rd.dcm", per_fraction),
        "mean dose of PTV70: about 70 Gy were expected, got 2.5",
    ),
    "no offsets": (lambda f, edit: edit(f / "rd.dcm", GridFrameOffsetVector=None), "rd.dcm: GridFrameOffsetVector is missing"),
    "strange offsets": (lambda f, edit: edit(f / "rd.dcm", move_offsets(7)), "rd.dcm: GridFrameOffsetVector: begins with 7"),
    "oblique dose": (
        lambda f, edit: edit(f / "rd.dcm", ImageOrientationPatient=OBLIQUE),
        "rd.dcm: ImageOrientationPatient .*: obl",
    ),
    "small dose grid": (lambda f, edit: edit(f / "rd.dcm", move(15)), "rd.dcm: the dose grid leaves out part of PTV"),
    # plan
    "no fractions": (
        lambda f, edit: edit(f / "rp.dcm", FractionGroupSequence=None),
        "rp.dcm: FractionGroupSequence: one group",
    ),
    "no number of fractions": (
        lambda f, edit: edit(f / "rp.dcm", fractions(None)),
        "rp.dcm: NumberOfFractionsPlanned is missing",
    ),
    "zero fractions": (lambda f, edit: edit(f / "rp.dcm", fractions(0)), "rp.dcm: NumberOfFractionsPlanned: a number from 1"),
    "prescription in cGy": (
        lambda f, edit: edit(f / "rp.dcm", prescribe(0, 7000)),
        "rp.dcm: TargetPrescriptionDose: Gy up to 200",
    ),
    "two prescriptions": (
        lambda f, edit: edit(f / "rp.dcm", prescribe(1, 60, number=1)),
        "rp.dcm: two prescriptions for ROI 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_message(export, edit, convert_all, name):
    damage, message = BAD[name]
    damage(export, edit)
    (error,) = convert_all(export)
    assert isinstance(error, InputError) and re.search(message, str(error)), error


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="holds no CT, RTSTRUCT, RTDOSE or RTPLAN .no DICOM files, 0 others"):
        find_studies(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_studies(tmp_path / "missing")


def test_no_dicom_at_all(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="no DICOM files, 2 others"):
        find_studies(tmp_path)


def test_other_images_only(export, edit):
    for path in export.glob("r*.dcm"):
        path.unlink()
    each_slice(export, edit, Modality="PT")
    with pytest.raises(InputError, match="16 PT DICOM files, 0 others"):
        find_studies(export)


@pytest.mark.parametrize("share", (0.2, 0.5, 0.9))
def test_truncated_structure_set(export, convert_all, share):
    truncate(export / "rs.dcm", share)
    results = convert_all(export)
    assert all(isinstance(result, InputError) for result in results)
    assert any("rs.dcm" in str(error) for error in results), results


def test_deflated_files_are_not_inflated(export, convert_all):
    dataset = pydicom.dcmread(export / "ct_005.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(export / "ct_005.dcm")
    results = convert_all(export)
    assert all(isinstance(result, InputError) for result in results) and len(results) == 2
    assert "ct_005.dcm: deflated DICOM files are not read" in str(results[1])


def test_dose_of_another_study(export, edit, convert_all):
    (export / "rp.dcm").unlink()
    edit(export / "rd.dcm", FrameOfReferenceUID="1.2.3.4.5")
    without, stray = convert_all(export)
    assert "no RTDOSE belongs to it" in str(without)
    assert "rd.dcm: RTDOSE whose frame of reference is that of no structure set here" in str(stray)


@pytest.mark.parametrize("name", ("rs.dcm", "rd.dcm", "rp.dcm", "ct_005.dcm"))
def test_damaged_bytes_end_in_a_message_or_do_not_matter(export, convert_all, name):
    rng = random.Random(name)
    whole = (export / name).read_bytes()
    for _ in range(8):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 10))):
            damaged[rng.randrange(132, min(len(whole), 3000))] = rng.choice((0, 255, ord("9"), ord("\\"), rng.randrange(256)))
        (export / name).write_bytes(damaged)
        assert all(isinstance(result, (Case, InputError)) for result in convert_all(export))
