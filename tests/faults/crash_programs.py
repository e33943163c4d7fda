"""The programs that are killed: their inputs, their command lines, and which of their files are finished work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monai_vmat.case import V2_SPACING_MM, write_case
from monai_vmat.handlers.training_checkpoint import best_checkpoint
from monai_vmat.protocol import load_protocol

from ..dicom_set import write_dicom_set
from ..nifti_folder import write_nifti_folder
from ..synthetic_case import make_case, write_v2

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "dose" / "configs"
PROSTATE = load_protocol("prostate_sib")
SMALL = {"shape": (16, 14, 10), "spacing": (5.0, 5.0, 5.0)}
SETTINGS = {"base_channels": 8, "patch_size": "[16,16,16]", "threads": 1, "amp": "false"}
EPOCHS = 4
SWEEP_EPOCHS = 2


@dataclass(frozen=True)
class Program:
    """A command line of this project.

    Args:
        name: what it is called in the record.
        unit: what its finished work consists of: what the next start does not do again.
        arguments: of Python.
        out: the folder that it writes.
        begin: makes what has to be in ``out`` before it starts.
        forked: it becomes a fork of this process, which has imported what takes it long.
    """

    name: str
    unit: str
    arguments: list[str]
    out: Path
    begin: Callable[[], None] = lambda: None
    forked: bool = False


def script(name: str, *arguments: object) -> list[str]:
    return [str(ROOT / "data_scripts" / f"{name}.py"), *map(str, arguments)]


def bundle(run_id: str, *configs: str, **overrides: object) -> list[str]:
    files = "[" + ",".join(f"'{CONFIGS / name}'" for name in configs) + "]"
    options = [text for name, value in overrides.items() for text in (f"--{name}", str(value))]
    return ["-m", "monai.bundle", "run", run_id, "--config_file", files, *options]


def conversions(folder: Path) -> list[Program]:
    """The conversions and the migration, each of a few small patients."""
    site = ("--protocol", "prostate_sib", "--workers", 2)
    for number in range(3):
        case = make_case(PROSTATE, seed=number, case_id=f"p{number}", **SMALL)
        write_dicom_set(case, folder / "dicom" / f"p{number}", PROSTATE, patient_id=f"p{number}")
        write_nifti_folder(case, folder / "nifti" / f"p{number}")
        (folder / "v2").mkdir(exist_ok=True)
        write_v2(folder / "v2" / f"p{number}.npz", make_case(PROSTATE, spacing=V2_SPACING_MM, seed=number), protocol=PROSTATE)
        _openkbp_patient(folder / "openkbp" / "train-pats" / f"pt_{number + 1}")
    salt = folder / "salt"
    salt.write_text("5a17\n")
    made = {
        "dicom_to_npz": (folder / "dicom", *site, "--salt", salt),
        "nifti_to_npz": (folder / "nifti", *site),
        "openkbp_to_npz": (folder / "openkbp", "--workers", 2),
        "migrate_npz": (folder / "v2", "--workers", 2),
    }
    return [
        Program(name, "a case", script(name, source, folder / "out" / name, *options), folder / "out" / name)
        for name, (source, *options) in made.items()
    ]


def _openkbp_patient(folder: Path) -> None:
    folder.mkdir(parents=True)
    voxel = (10 * 128 + 20) * 128 + 30
    for name, value in (("ct", "1064.0"), ("dose", "70.25"), ("possible_dose_mask", ""), ("PTV70", "")):
        (folder / f"{name}.csv").write_text(f",data\n{voxel},{value}\n")
    (folder / "voxel_dimensions.csv").write_text("3.0\n4.0\n5.0\n")


def cases(folder: Path) -> Path:
    """Small cases and their datalist: three to train on, one to validate, two to test."""
    content: dict[str, object] = {"protocol": PROSTATE.name}
    names = iter(range(6))
    for section, count in (("training", 3), ("validation", 1), ("test", 2)):
        content[section] = items = []
        for number in [next(names) for _ in range(count)]:
            case = make_case(PROSTATE, seed=number, case_id=f"case_{number}")
            write_case(case, folder / "cases" / f"{case.case_id}.npz")
            items.append({"case": f"{case.case_id}.npz", "case_id": case.case_id, "patient": case.case_id})
    (folder / "cases" / "datalist.json").write_text(json.dumps(content))
    return folder / "cases"


def training(folder: Path) -> Program:
    run = folder / "out" / "training"
    options = {"dataset_dir": cases(folder), "output_dir": run, "max_epochs": EPOCHS, "val_interval": 1, "resume": "true"}
    arguments = bundle("training", "train.json", "quick.json", **SETTINGS, **options)
    return Program("training", "an epoch", arguments, run, forked=True)


def after_training(folder: Path, run: Path) -> list[Program]:
    """What needs a trained network."""
    results, plans = folder / "out" / "evaluating", folder / "out" / "inference"
    weights = best_checkpoint(run / "checkpoints")
    options = {"dataset_dir": folder / "cases", "weights": weights, "output_dir": run, "predictions_dir": results}
    evaluating = bundle("evaluating", "train.json", "quick.json", "evaluate.json", **SETTINGS, **options)
    inference = bundle(
        "inference",
        "inference.json",
        input=folder / "nifti",
        weights=weights,
        output_dir=plans,
        base_channels=8,
        window="-1",
        threads=1,
    )
    return [
        Program("evaluating", "the whole", evaluating, results, forked=True),
        Program("inference", "the whole", inference, plans, forked=True),
    ]


def dicom_inference(folder: Path, run: Path) -> Program:
    """Predicts for DICOM exports, so that RTDOSE is written, too."""
    out = folder / "out" / "dicom_inference"
    options = {"input": folder / "dicom", "output_dir": out, "base_channels": 8, "window": "-1", "threads": 1}
    arguments = bundle("inference", "inference.json", weights=best_checkpoint(run / "checkpoints"), **options)
    return Program("inference (DICOM)", "the whole", arguments, out, forked=True)


def cohort(folder: Path) -> Program:
    """The embedded cohort with its cases there: what is left to do are the datalist, the pictures and the card."""
    out, shipped = folder / "out" / "cohort", ROOT / "data" / "cohort"

    def begin() -> None:
        out.mkdir(parents=True)
        for path in shipped.glob("*.npz"):
            (out / path.name).symlink_to(path)

    arguments = script("make_phantom_cohort", "--cases", 24, "--seed", 2026, "--out", out, "--workers", 1)
    return Program("make_phantom_cohort", "an anatomy", arguments, out, begin)


def sweep(folder: Path) -> Program:
    """Two trials of two epochs."""
    out = folder / "out" / "sweep"
    content = {
        "base": ["train.json", "quick.json"],
        "settings": {
            **SETTINGS,
            "patch_size": [16, 16, 16],
            "amp": False,
            "val_interval": 1,
            "dataset_dir": str(folder / "cases"),
        },
        "space": {"seed": {"grid": [1, 2]}},
        "max_epochs": SWEEP_EPOCHS,
        "asha": None,
        "trials": 2,
    }
    (folder / "space.json").write_text(json.dumps(content))
    return Program("sweep", "an epoch", script("sweep", folder / "space.json", "--out", out, "--resume"), out)
