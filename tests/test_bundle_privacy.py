"""From marked DICOM to report and RTDOSE: nothing says who the patient is, and nothing of what files say is run.

Every identifying element of the DICOM files holds a marker, many of them as an expression that MONAI would evaluate if it were
in a configuration. Every file that the programs leave, and all that they say, is searched for the marker: raw, inside archives
and compressed streams, in the encodings that NumPy and DICOM have for text. The RTDOSE of a prediction is the exception: it
belongs to the patient's own study, and carries name, id and UIDs for that purpose.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from pydicom import dcmread
from pydicom.datadict import dictionary_VR

from .dicom_set import UID_ROOT

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "dose" / "configs"
MARKER, MARKED_DATE = "Zqxmark", "19470813"
SECRETS = (MARKER, MARKED_DATE, UID_ROOT)

# Of PS3.15, table E.1-1 (attributes that identify, or may): those that CT and radiotherapy objects have.
IDENTIFYING = """
PatientName PatientID PatientBirthDate PatientBirthName PatientMotherBirthName OtherPatientIDs OtherPatientNames PatientAddress
PatientTelephoneNumbers PatientComments PatientReligiousPreference PatientState
MilitaryRank BranchOfService CountryOfResidence RegionOfResidence EthnicGroup Occupation AdditionalPatientHistory MedicalAlerts
Allergies MedicalRecordLocator IssuerOfPatientID ResponsiblePerson ResponsibleOrganization CurrentPatientLocation
PatientInstitutionResidence AdmissionID AdmittingDiagnosesDescription ReasonForStudy RequestedProcedureDescription
StudyID StudyDate StudyDescription StudyComments AccessionNumber SeriesDate SeriesDescription ContentDate AcquisitionDate
AcquisitionComments ImageComments ProtocolName InstanceCreationDate
InstitutionName InstitutionAddress InstitutionalDepartmentName StationName DeviceSerialNumber DetectorID GantryID
ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers PhysiciansOfRecord PerformingPhysicianName
NameOfPhysiciansReadingStudy RequestingPhysician OperatorsName ReviewerName ReviewDate PersonName
StructureSetLabel StructureSetName StructureSetDescription StructureSetDate RTPlanLabel RTPlanName RTPlanDescription RTPlanDate
TreatmentSites PrescriptionDescription DoseComment TextComments
""".split()
LONGEST = {"SH": 16, "LO": 64}


def mark(dataset, expression: str) -> None:
    """Put the marker into whatever identifies; where there is room for it, as an expression that leaves a file behind."""
    for keyword in IDENTIFYING:
        vr = dictionary_VR(keyword)
        if vr in ("DA", "DT"):
            setattr(dataset, keyword, MARKED_DATE)
        elif vr == "PN":
            setattr(dataset, keyword, f"{MARKER}^Zqxgiven^{keyword}")
        elif vr in ("SH", "LO", "ST", "LT", "UT") and keyword != "PatientID":
            setattr(dataset, keyword, f"{expression} or '{MARKER}'" if len(expression) < LONGEST.get(vr, 1000) - 20 else MARKER)
    dataset.PatientID = f"{MARKER}-{dataset.PatientID}"
    dataset.private_block(0x0099, f"{MARKER} private", create=True).add_new(1, "LO", MARKER)
    for sequence, keyword in (("StructureSetROISequence", "ROIDescription"), ("RTROIObservationsSequence", "ROIInterpreter")):
        for item in dataset.get(sequence, []):
            setattr(item, keyword, MARKER)


def marked_export(folder: Path, case, protocol, write_dicom_set, expression: str, **options) -> None:
    """A patient's export; folder and files are named after the patient, as exports do."""
    write_dicom_set(case, folder, protocol, patient_id=case.case_id, **options)
    for path in folder.iterdir():
        dataset = dcmread(path)
        mark(dataset, expression)
        dataset.save_as(folder / f"{path.stem}_{MARKER}_{MARKED_DATE}.dcm", enforce_file_format=True)
        path.unlink()


def layers(content: bytes) -> Iterator[bytes]:
    """The content, and what is packed in it."""
    yield content
    if content[:2] == b"\x1f\x8b":
        yield from layers(gzip.decompress(content))
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                yield entry.filename.encode()
                yield from layers(archive.read(entry))
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S):  # PDF
        try:
            yield zlib.decompress(packed)
        except zlib.error:
            continue
    for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
        yield from layers(base64.b64decode(packed))


def told(content: bytes, secrets=SECRETS) -> set[str]:
    """Which secrets are in it, whatever the case of their letters."""
    found = set()
    for layer in map(bytes.lower, layers(content)):
        wanted = [
            (secret, secret.lower().encode(encoding)) for secret in secrets for encoding in ("utf-8", "utf-16-le", "utf-32-le")
        ]
        found |= {secret for secret, text in wanted if text in layer}
    return found


def test_the_search_finds_what_it_looks_for(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", name=np.asarray(["x" + MARKER.upper()]))
    packed = zlib.compress(MARKER.encode())
    for content in (
        MARKER.lower().encode(),
        MARKER.encode("utf-16"),
        (tmp_path / "a.npz").read_bytes(),
        gzip.compress((tmp_path / "a.npz").read_bytes()),
        b"7 0 obj\nstream\n" + packed + b"\nendstream",
        b"<img src=data:image/svg+xml;base64," + base64.b64encode(MARKER.encode()) + b">",
    ):
        assert told(content) == {MARKER}
    assert told(gzip.compress(b"nobody")) == set()


# Runs commands one after the other in one process, which imports the libraries once.
DRIVER = """
import json, runpy, sys
for command in json.load(open(sys.argv[1])):
    print("$", *command, file=sys.stderr, flush=True)
    sys.argv = command[1:] if command[0] == "-m" else command
    try:
        run = runpy.run_module if command[0] == "-m" else runpy.run_path
        run(sys.argv[0], run_name="__main__", **({"alter_sys": True} if command[0] == "-m" else {}))
    except SystemExit as ended:
        if ended.code:
            raise
"""


def run(folder: Path, *commands) -> str:
    """All that the commands say."""
    (folder / "commands.json").write_text(json.dumps([[str(word) for word in command] for command in commands]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, folder / "commands.json"], cwd=ROOT, capture_output=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-4000:].decode()
    return (done.stdout + done.stderr).decode()


def bundle(run_id: str, *configs: str, **settings) -> list:
    files = "[" + ",".join(f"'{CONFIGS / name}'" for name in configs) + "]"
    return [
        "-m",
        "monai.bundle",
        "run",
        run_id,
        "--config_file",
        files,
        *(w for n, v in settings.items() for w in (f"--{n}", v)),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory, prostate, make_case, write_dicom_set):
    """What all programs have said and left of marked patients; the folder, and what an evaluated expression would leave."""
    folder = tmp_path_factory.mktemp("marked")
    trace = (
        Path(tempfile.gettempdir()) / f"{folder.parent.name}-{folder.name}"
    )  # a short name, for elements that take 64 characters
    expression = f"$open('{trace}','w')"
    small = {"shape": (16, 14, 10), "spacing": (5.0, 5.0, 5.0)}
    for number in range(4):
        case = make_case(prostate, seed=number, case_id=f"p{number}", **small)
        # An organ whose name is an expression: it is left out, and listed among the names without a match.
        names = {"Bowel": expression}
        export = folder / "export" / f"{MARKER}^Zqxgiven p{number}"
        marked_export(export, case, prostate, write_dicom_set, expression, roi_names=names)
    without_dose = make_case(prostate, seed=9, case_id="p9", with_dose=False, **small)
    marked_export(folder / "export" / f"{MARKER}^Zqxgiven p9", without_dose, prostate, write_dicom_set, expression)
    marked_export(folder / "new" / f"{MARKER}^Zqxgiven p9", without_dose, prostate, write_dicom_set, expression)

    cases, out = folder / "cases", folder / "out"
    scripts = ROOT / "data_scripts"
    convert = [scripts / "dicom_to_npz.py", folder / "export", cases, "--protocol", "prostate_sib", "--workers", 1]
    said = run(folder, [*convert, "--dry-run"], convert, [scripts / "make_splits.py", cases])
    datalist = json.loads((cases / "datalist.json").read_text())
    for section in ("training", "validation", "test"):
        for item in datalist[section]:
            item["patient"] = f"{expression} or '{item['patient']}'"
    (cases / "datalist.json").write_text(json.dumps(datalist))
    model = {"base_channels": 8, "threads": 1, "amp": "false"}
    settings = {**model, "dataset_dir": cases, "output_dir": out / "runs" / "baseline", "patch_size": "[16,16,16]"}
    predictions = out / "predictions" / "baseline_test"
    said += run(
        folder,
        [scripts / "verify_cases.py", cases, "--html", out / "cases.html"],
        bundle("training", "train.json", **settings, max_epochs=1, cache_dir=out / "cache"),
        bundle("evaluating", "train.json", "evaluate.json", **settings, predictions_dir=predictions),
        ["-m", "monai_vmat.reports", "evaluation", predictions, "--dataset_dir", cases, "--cases", 1],
        bundle("inference", "inference.json", input=folder / "new", window=-1, output_dir=out / "plans", threads=1),
    )
    yield folder, said, trace
    trace.unlink(missing_ok=True)


def test_nothing_that_is_left_or_said_tells_who_the_patients_are(made):
    folder, said, _ = made
    assert told(said.encode()) == set(), [line for line in said.splitlines() if told(line.encode())]
    for part, least in (("cases", 5), ("out", 30)):
        paths = [path for path in (folder / part).rglob("*") if path.is_file() and path.suffix != ".dcm"]
        assert len(paths) >= least
        for path in paths:
            assert told(str(path.relative_to(folder)).encode()) == set(), path
            assert told(path.read_bytes()) == set(), path
    kinds = {path.suffix for path in (folder / "out").rglob("*") if path.is_file()}
    assert kinds >= {".npz", ".gz", ".pt", ".json", ".csv", ".html", ".png", ".pdf", ".0"}  # events.out.tfevents....0


def test_the_rtdose_alone_names_the_patient(made):
    folder, _, _ = made
    (rtdose,) = (folder / "out").rglob("*.dcm")
    assert told(rtdose.read_bytes()) == set(SECRETS)
    source = dcmread(next((folder / "new").rglob("ct_001*.dcm")))
    dose = dcmread(rtdose)
    assert (dose.PatientID, dose.PatientName, dose.StudyInstanceUID) == (
        source.PatientID,
        source.PatientName,
        source.StudyInstanceUID,
    )


def test_nothing_of_what_files_say_is_evaluated(made):
    """MONAI would evaluate such texts in a configuration: they were in elements, structure names and the datalist."""
    folder, said, trace = made
    assert f"'$open('{trace}','w')'" in said or f"$open('{trace}','w')" in said  # a name without a match
    results = json.loads((folder / "out" / "predictions" / "baseline_test" / "evaluation_results.json").read_text())
    assert results["per_case_results"][0]["patient"].startswith(f"$open('{trace}'")
    assert not trace.exists()


def test_a_configuration_is_code(tmp_path):
    """The control: in a configuration MONAI evaluates the same text."""
    trace = tmp_path / "trace"
    ConfigParser({"patient": f"$open('{trace}','w') or 'p1'"}).get_parsed_content("patient").close()
    assert trace.exists()
