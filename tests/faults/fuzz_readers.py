"""Every reader of users' files, for fuzzing: how its valid files are made, how one is read, and what makes a result usable."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai import bundle

from monai_vmat.case import V2_SPACING_MM, Case, read_case, read_metadata, write_case, write_dose
from monai_vmat.datalist import SECTIONS, load_datalist, read_datalist
from monai_vmat.dicom.convert import Conversion, study_to_case
from monai_vmat.dicom.identity import identify
from monai_vmat.dicom.names import match_names
from monai_vmat.dicom.structure_set import Roi
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import find_input_error
from monai_vmat.handlers.training_checkpoint import LAST, TrainingCheckpoint
from monai_vmat.lightning_checkpoint import read_lightning_checkpoint
from monai_vmat.masks import bit_names, pack_masks
from monai_vmat.metrics.dvh import dvh_metric
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.nifti import read_nifti_case
from monai_vmat.npz import NpzArchive
from monai_vmat.openkbp import GRID, POSSIBLE_DOSE, read_openkbp_patient
from monai_vmat.pickled_metadata import read_pickled_metadata
from monai_vmat.plain_facts import plain_facts, stated_spacing
from monai_vmat.predictions import read_prediction
from monai_vmat.protocol import Protocol, available_protocols, load_protocol
from monai_vmat.transforms.load_case import case_masks
from monai_vmat.weights import load_weights

from ..dicom_set import write_dicom_set
from ..nifti_folder import write_nifti_folder
from ..synthetic_case import make_case, write_v2

_SHAPE = (80, 72, 56)
_SMALL_SHAPE = (56, 48, 28)
_V2_SHAPE = (72, 64, 40)


@dataclass(frozen=True)
class Reader:
    """A reader of users' files.

    Args:
        name: as the record calls it.
        write: makes the valid files in a folder.
        read: reads a file, or the set in whose folder it is, checks what came of it and returns it. Raises InputError for what
            it refuses; AssertionError for a result that nobody should have got.
        damaged: which of the files are damaged.
        of_one_set: whether the files make one thing that is read together.
        computes: whether memory is compared with what the valid files take, rather than hold.
        share: of the campaign's files.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    damaged: str = "*"
    of_one_set: bool = False
    computes: bool = False
    share: int = 10

    def valid(self, folder: Path) -> list[Path]:
        """The valid files that may be damaged."""
        return sorted(path for path in folder.glob(self.damaged) if path.is_file())


def held_bytes(result: Any) -> int:
    """What the arrays and texts in a result take."""
    if isinstance(result, (np.ndarray, torch.Tensor)):
        return result.nbytes
    if isinstance(result, str):
        return len(result)
    if isinstance(result, Case):
        return held_bytes(vars(result))
    if isinstance(result, torch.nn.Module):
        return held_bytes(result.state_dict())
    values: Iterable[Any] = (
        result.values() if isinstance(result, Mapping) else result if isinstance(result, (list, tuple)) else ()
    )
    return sum(map(held_bytes, values))


def _usable(case: Case, protocol: Protocol) -> Case:
    """Assert what everything that works on cases relies on."""
    replace(case)  # cases are checked when made
    assert case.protocol == protocol.name and re.fullmatch(r"[\w.-]+", case.case_id + case.patient)
    assert case.constraints.shape == (protocol.constraint_dim,) and np.isfinite(case.constraints).all()
    assert all(0 < s <= 50 for s in case.spacing_mm) and case.ct_hu.dtype == np.int16
    assert set(case.prescription_gy) <= set(case.structures)
    if case.dose_gy is not None:
        assert case.dose_gy.dtype == np.float32 and -0.06 <= case.dose_gy.min() <= case.dose_gy.max() <= 200
    json.dumps(dict(case.metadata), allow_nan=False)
    pack_masks(case_masks(case, protocol), protocol)
    return case


@cache
def _protocol(name: str = "prostate_sib") -> Protocol:
    return load_protocol(name)


# Cases


def _write_native(folder: Path) -> None:
    case = make_case(_protocol(), _SHAPE)
    write_case(case, folder / "case_1.npz")
    write_case(case, folder / "smallest.npz", smallest=True)


def _read_native(path: Path) -> Any:
    return _usable(read_case(path, _protocol()), _protocol()), read_metadata(path)


def _write_v2(folder: Path) -> None:
    facts = {
        "spacing": (1.0, 1.0, 2.0),
        "mu": np.float32(611.5),
        "arcs": [1, 2],
        "per_beam": {"a": np.arange(3)},
        "x": "y" * 40,
    }
    case = make_case(_protocol(), _V2_SHAPE, V2_SPACING_MM)
    write_v2(folder / "case_1.npz", case, protocol=_protocol(), metadata=np.asarray(facts, dtype=object))


def _read_v2(path: Path) -> Any:
    case = _usable(read_case(path, _protocol()), _protocol())
    with NpzArchive(path) as archive:
        metadata = read_pickled_metadata(archive)
    kept, _ = plain_facts(metadata)
    stated_spacing(metadata)
    json.dumps(kept, allow_nan=False)
    return case, kept


@cache
def _predicted_case() -> Case:
    return make_case(_protocol(), _SHAPE)


def _write_predictions(folder: Path) -> None:
    case = _predicted_case()
    write_dose(folder / "own_pred.npz", case.dose_gy, case.affine, {"case_id": case.case_id})
    np.savez_compressed(folder / "foreign_pred.npz", dose=case.dose_gy)


def _read_prediction(path: Path) -> Any:
    case = _predicted_case()
    dose, _ = read_prediction(path, case, _protocol().rx_gy, dose_unit="gy", axes="xyz")
    assert dose.shape == case.ct_hu.shape and dose.dtype == np.float32 and 0 <= dose.min() <= dose.max() <= 200
    return dose


# Lists and protocols


def _write_datalist(folder: Path) -> None:
    content: dict[str, Any] = {"protocol": "prostate_sib", **{section: [] for section in SECTIONS}}
    for k in range(60):
        item: dict[str, Any] = {"case": f"cases/p{k}.npz", "case_id": f"p{k}", "patient": f"patient_{k // 2}"}
        if k % 3 == 0:
            item |= {"spacing_mm": [1.0, 1.0, 2.5], "constraints": {"Rectum_V50Gy": 0.3}}
        content[SECTIONS[k // 2 % 3]].append(item)
        (folder / "cases").mkdir(exist_ok=True)
        (folder / item["case"]).touch()
    (folder / "datalist.json").write_text(json.dumps(content, indent=1))


def _read_datalist(path: Path) -> Any:
    content = load_datalist(path)
    items = [item for section in SECTIONS if content[section] for item in read_datalist(path, section)]
    root = path.parent.resolve()
    for item in items:
        assert Path(item["case"]).resolve().is_relative_to(root) and Path(item["case"]).is_file()
        assert all(isinstance(item[key], str) and item[key] for key in ("case_id", "patient"))
        _protocol().encode_constraints({}, {k: v for k, v in item.get("constraints", {}).items() if k == "Rectum_V50Gy"})
        spacing = np.asarray(item.get("spacing_mm", (1, 1, 1)), float)
        assert spacing.shape == (3,) and np.isfinite(spacing).all() and (spacing > 0).all()
    assert len({item["case_id"] for item in items}) == len(items)
    return content


def _write_protocols(folder: Path) -> None:
    for name in available_protocols():
        shutil.copy(str(files("monai_vmat") / "protocols" / f"{name}.json"), folder / f"{name}.json")


def _read_protocol(path: Path) -> Any:
    protocol = load_protocol(path)
    vector = protocol.default_constraint_vector
    assert vector.shape == (protocol.constraint_dim,) and np.isfinite(vector).all() and (vector >= 0).all()
    assert protocol.in_channels == len(protocol.channel_names) >= 1 and 0 < protocol.rx_gy < 200
    assert len(set(bit_names(protocol))) == len(protocol.structures) + 2
    match_names([Roi(k, name, contours=(k,)) for k, name in enumerate(("PTV 70", "rectum", "x" * 64))], protocol)
    for goal in protocol.goals:
        assert np.isfinite(dvh_metric(np.linspace(0, 70, 50), goal.metric, goal.unit, 0.03))
        assert f"{goal.limit:g}"
    return vars(protocol)


# What comes from clinics and challenges


def _write_dicom(folder: Path) -> None:
    write_dicom_set(make_case(_protocol(), _SMALL_SHAPE), folder, _protocol())


def _read_dicom(path: Path) -> Any:
    studies = find_studies(path.parent)
    conversion = Conversion(_protocol())
    cases = []
    for study in studies:
        if study.problem:
            raise study.problem
        identity = identify(study, b"salt")
        cases.append(_usable(study_to_case(study, conversion, identity)[0], _protocol()))
    assert cases
    return cases


def _write_nifti(folder: Path) -> None:
    write_nifti_folder(make_case(_protocol(), _SHAPE), folder / "case_1")
    plan = {"prescription_gy": {"PTV56": 50.4}, "constraints": {"Rectum_V50Gy": 0.3}}
    (folder / "case_1" / "plan.json").write_text(json.dumps(plan))


def _read_nifti(path: Path) -> Any:
    return _usable(read_nifti_case(path.parent, _protocol(), require_dose=True), _protocol())


def _write_openkbp(folder: Path) -> None:
    """A small patient in the corner of the challenge's grid."""
    patient = folder / "pt_1"
    patient.mkdir()
    case = make_case(_protocol("openkbp_head_and_neck"), (40, 36, 32))

    def save(name: str, volume: np.ndarray, values: bool) -> None:
        whole = np.zeros(GRID, volume.dtype)
        whole[: volume.shape[1], : volume.shape[0], : volume.shape[2]] = volume[:, :, ::-1].transpose(1, 0, 2)
        flat = whole.ravel()
        rows = (f"{k},{flat[k]:g}" if values else f"{k}," for k in np.flatnonzero(flat))
        (patient / f"{name}.csv").write_text("\n".join((",data", *rows)) + "\n")

    save("ct", (case.ct_hu.astype(int) + 1024).clip(0, 4095), True)
    save("dose", case.dose_gy.round(2), True)
    for name in (*_protocol("openkbp_head_and_neck").structure_names, POSSIBLE_DOSE):
        save(name, case.structures[name], False)
    (patient / "voxel_dimensions.csv").write_text("3.9\n3.9\n2.5\n")


def _read_openkbp(path: Path) -> Any:
    protocol = _protocol("openkbp_head_and_neck")
    return _usable(read_openkbp_patient(path.parent, protocol), protocol)


# Checkpoints


def _network() -> FiLMUNet:
    return FiLMUNet(_protocol().in_channels, _protocol().constraint_dim, 16)


def _training(folder: Path) -> tuple[TrainingCheckpoint, Engine]:
    network = _network()
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    validator = Engine(lambda engine, batch: None)
    validator.state.best_metric, validator.state.best_metric_epoch = 2.5, 1
    trainer = Engine(lambda engine, batch: None)
    trainer.state.epoch, trainer.state.iteration, trainer.state.epoch_length, trainer.state.max_epochs = 2, 8, 4, 5
    checkpoint = TrainingCheckpoint(
        folder, network=network, evaluated_network=network, optimizer=optimizer, scheduler=scheduler, validator=validator
    )
    return checkpoint, trainer


def _write_checkpoints(folder: Path) -> None:
    torch.manual_seed(0)
    checkpoint, trainer = _training(folder)
    (sum(p.sum() for p in checkpoint.networks["network"].parameters()) * 1e-3).backward()
    checkpoint.stateful["optimizer"].step()
    checkpoint.save(trainer)
    weights = _network().state_dict()
    torch.save({"network": weights, "epoch": 1, "val_mae_gy": 2.5}, folder / "best.pt")
    content = {
        "state_dict": {**{f"model.{name}": tensor for name, tensor in weights.items()}, "gradient_loss.kernel": torch.ones(3)},
        "hyper_parameters": {"base_channels": 16, "in_channels": 9},
        "epoch": 3,
        "global_step": 12,
    }
    torch.save(content, folder / "earlier.ckpt")


def _read_checkpoint(path: Path) -> Any:
    if path.name == LAST:
        checkpoint, trainer = _training(path.parent)
        trainer.state.epoch = trainer.state.iteration = 0
        checkpoint.restore(trainer)
        assert trainer.state.iteration == trainer.state.epoch * 4 >= 0
        network = checkpoint.networks["network"]
        held = [network, [s for s in checkpoint.stateful["optimizer"].state.values()]]
        assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
        (sum(p.sum() for p in network.parameters()) * 1e-3).backward()
        checkpoint.stateful["optimizer"].step()  # a state that does not fit shows here
        checkpoint.stateful["scheduler"].step()
        checkpoint.validator.state.best_metric < 1.0
        return held
    elif path.suffix == ".ckpt":
        network = read_lightning_checkpoint(path).network
        held = [network]
    else:
        network = load_weights(path, _network())
        held = [network]
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
    return held


# The bundle's settings

_CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "dose" / "configs"


def _write_settings(folder: Path) -> None:
    """Three small cases, and what makes the three commands small enough to be run thousands of times."""
    content: dict[str, Any] = {"protocol": "prostate_sib"}
    for k, section in enumerate(SECTIONS):
        write_case(make_case(_protocol(), (12, 10, 8), seed=k, case_id=f"p{k}"), folder / f"p{k}.npz")
        content[section] = [{"case": f"p{k}.npz", "case_id": f"p{k}", "patient": f"p{k}"}]
    (folder / "datalist.json").write_text(json.dumps(content))
    torch.save(
        {"network": FiLMUNet(_protocol().in_channels, _protocol().constraint_dim, 8).state_dict()}, folder / "weights.pt"
    )
    small = {"base_channels": 8, "threads": 1, "amp": False}
    patches = {"patch_size": [16, 16, 16], "max_epochs": 1, "patches_per_case": 1}
    for run_id, configs, settings in (
        ("training", ["train.json"], small | patches),
        ("evaluating", ["train.json", "evaluate.json"], small | patches),
        ("inference", ["inference.json"], small | {"window": [16, 16, 16]}),
    ):
        text = json.dumps({"run_id": run_id, "configs": configs, "settings": settings})
        (folder / f"{run_id}.settings.json").write_text(text)


def _run_with_settings(path: Path) -> Any:
    """What the command line does, in this process; an error that was raised from ours counts as ours, as it does there."""
    call, data = json.loads(path.read_text()), path.parent
    places = {"dataset_dir": str(data), "output_dir": str(data / "out"), "bundle_root": str(_CONFIGS.parent)}
    if call["run_id"] != "training":
        places |= {"weights": str(data / "weights.pt")}
    if call["run_id"] == "evaluating":
        places |= {"predictions_dir": str(data / "predictions")}
    files = [str(_CONFIGS / name) for name in call["configs"]]
    try:
        bundle.run(call["run_id"], config_file=files, logging_file=False, **(places | call["settings"]))
    except Exception as error:
        raise find_input_error(error) or error
    return []


READERS = {
    reader.name: reader
    for reader in (
        Reader("native case", _write_native, _read_native, share=18),
        Reader("v2.x case", _write_v2, _read_v2, share=14),
        Reader("prediction", _write_predictions, _read_prediction, share=12),
        Reader("datalist", _write_datalist, _read_datalist, "datalist.json", share=18),
        Reader("protocol", _write_protocols, _read_protocol, share=18),
        Reader("DICOM", _write_dicom, _read_dicom, of_one_set=True, share=6),
        Reader("NIfTI", _write_nifti, _read_nifti, "case_1/*", of_one_set=True, share=6),
        Reader("OpenKBP CSV", _write_openkbp, _read_openkbp, "pt_1/*", of_one_set=True, share=3),
        Reader("checkpoint", _write_checkpoints, _read_checkpoint, share=6),
        Reader("settings", _write_settings, _run_with_settings, "*.settings.json", computes=True, share=2),
    )
}
