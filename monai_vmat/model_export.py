"""A trained network as one small file to ship: half-precision weights and, beside them, what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from tqdm import tqdm

from monai_vmat.datalist import read_datalist
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_whole
from monai_vmat.handlers.training_checkpoint import LAST, best_checkpoint
from monai_vmat.protocol import Protocol, load_protocol
from monai_vmat.training_range import case_features, ranges
from monai_vmat.transforms.encode_constraints import EncodeConstraintsd
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.weights import build_network, describe, facts_of, load_checkpoint, load_weights, read_weights

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
CHECKPOINTS = ("best", "last")
_FINISH = "Name the folder of a run, such as runs/demo"


def export_model(
    run: str | Path,
    out: str | Path,
    *,
    dtype: str = "float16",
    checkpoint: str = "best",
    dataset_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Write the evaluated (perhaps averaged) weights of a run as a shipped file.

    The file is a state dict; its facts (:func:`monai_vmat.weights.facts_of`) are ``protocol``, the network's ``settings``,
    ``training``: run, commit, epochs, seed, initial weights if any, processor, minutes, number of cases, and ``ranges``: what
    the training's cases were like (:mod:`monai_vmat.training_range`). Nothing in them names a folder, a patient or the machine
    itself. The file takes its place when its weights, read again, are the run's rounded to ``dtype``.

    Args:
        run: the run's folder.
        out: the file.
        dtype: of the stored tensors.
        checkpoint: ``best``, as an evaluation takes it, or ``last``.
        dataset_dir: the folder of the training's datalist; by default the one that the run recorded.

    Returns:
        the facts.

    Raises:
        InputError: when the run lacks records, weights or its training cases, or a weight is not finite in ``dtype``.
    """
    run = Path(run)
    if not (run / "training_config.json").is_file():
        raise InputError(run, "has no training_config.json: it is no run", _FINISH)
    record = read_json(run / "training_config.json")
    protocol = load_protocol(record["config"]["protocol_name"])
    path = Path(best_checkpoint(run / "checkpoints")) if checkpoint == "best" else run / "checkpoints" / LAST
    recorded = {name: value for name, value in record["config"].get("network_def", {}).items() if not isinstance(value, str)}
    network = load_weights(path, build_network(path, protocol, **recorded))
    weights = network.state_dict()
    facts = {
        "protocol": protocol.name,
        "settings": network.settings,
        **_window(record["config"]),
        "training": {
            "run": run.name,
            "checkpoint": checkpoint,
            "epoch": load_checkpoint(path)["epoch"],
            "epochs": record["config"]["max_epochs"],
            "seed": record["seed"],
            "commit": record["git_commit"],
            **({"initial_weights": Path(initial).name} if (initial := record["config"].get("initial_weights")) else {}),
            **_time_and_machine(run, record),
            **{f"{section}_cases": len(record["cases"][section]) for section in ("training", "validation")},
        },
        "ranges": _ranges(record, dataset_dir, protocol),
    }
    for name, tensor in weights.items():
        weights[name] = tensor.to(DTYPES[dtype])
        if not torch.isfinite(weights[name]).all():
            raise InputError(path, f"'{name}' is not finite in {dtype}", "Store it as bfloat16 or float32, or train again")
    with write_whole(out) as temporary:
        torch.save(describe(weights, facts), temporary)
        _verify(temporary, network, protocol, DTYPES[dtype])
    return facts


def _window(config: Mapping[str, Any]) -> dict[str, Any]:
    """The window that the run validated with, see :func:`monai_vmat.weights.trained_window`; the patch's size unless stated."""
    window = config.get("window", "@patch_size")
    window = config.get("patch_size") if window == "@patch_size" else window
    return {} if window is None else {"window": window}


def _ranges(record: Mapping[str, Any], dataset_dir: str | Path | None, protocol: Protocol) -> dict[str, list[float]]:
    """What the training cases of the run were like."""
    datalist = record["config"]["datalist"] if dataset_dir is None else dataset_dir
    items = read_datalist(datalist, "training")
    if {item["case_id"] for item in items} != set(record["cases"]["training"]):
        problem = "its training cases are not those of the run"
        raise InputError(datalist, problem, "Name the folder that was trained on with --dataset_dir DIR")
    read = Compose([LoadCased(protocol=protocol), EncodeConstraintsd(protocol=protocol)])
    return ranges(case_features(read(item), protocol) for item in tqdm(items, desc="Training cases", unit="case"))


def _time_and_machine(run: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the training took, where it has ended and says so."""
    hardware = record.get("hardware", {})
    machine = {"machine": hardware.get("gpu") or hardware["cpu"]} if hardware else {}
    summary = run / "training_summary.json"
    return machine | ({"minutes": round(read_json(summary)["seconds"] / 60)} if summary.is_file() else {})


def _verify(path: Path, network: torch.nn.Module, protocol: Protocol, dtype: torch.dtype) -> None:
    """The file, read as inference reads it, gives the network's weights rounded to ``dtype`` and a network of its settings."""
    again = load_weights(path, build_network(path, protocol))
    same = all(torch.equal(own.to(dtype).float(), again.state_dict()[name]) for name, own in network.state_dict().items())
    if not same or again.settings != network.settings or not facts_of(read_weights(path)):
        raise InputError(path, "does not hold, read again, what was written", "Write it to another disk")
