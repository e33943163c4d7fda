"""Weight files: what they hold, what it was trained for, and the network that fits it.

A file holds a state dict alone, as shipped ones do, or is a training's checkpoint, which has it among its entries. Where
PyTorch keeps facts about modules beside a state dict's tensors (``_metadata``, which ``torch.save`` writes), ours are kept
under ``monai_vmat``: ``settings`` of the network, ``protocol`` and, in shipped files, what they were trained on. So a shipped
file is what any program expects of weights: ``network.load_state_dict(torch.load(file, weights_only=True))``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_vmat.errors import InputError
from monai_vmat.networks.film_unet import FiLMUNet, shown_settings
from monai_vmat.protocol import Protocol

_PLACE = "monai_vmat"
_ENTRIES = ("evaluated_network", "network")  # of a training's last.pt, where the former may be an average; of other files


def describe(state: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put facts (plain values) beside the tensors of a state dict, as ``network.state_dict()`` gives it, and return it."""
    state._metadata[_PLACE] = dict(facts)  # type: ignore[attr-defined]
    return state


def facts_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The facts beside a state dict's tensors; none where nobody has described it."""
    facts = getattr(state, "_metadata", {}).get(_PLACE)
    return facts if isinstance(facts, dict) else {}


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint, weights only: nothing in it is executed.

    Raises:
        InputError: when it is missing, damaged or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such checkpoint", "Train first, or name one with --weights FILE")
    if _is_packed(path):
        raise InputError(path, "is a compressed archive; PyTorch stores tensors as they are", "Use another checkpoint")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage leads to
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"holds a {foreign[1]}, which is never loaded (tensors and plain values are)"
            raise InputError(path, problem, "Save its tensors and plain values alone, or use another checkpoint") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(path, f"is not a whole checkpoint of tensors ({reason})", "Use another checkpoint") from error
    if not isinstance(content, dict):
        raise InputError(path, f"expected a dictionary, got {type(content).__name__}", "Use another checkpoint")
    return content


def _is_packed(path: Path) -> bool:
    """Whether anything in the archive is compressed: PyTorch would inflate gigabytes before it compares sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # PyTorch says what is wrong with it
        return False


def read_weights(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The state dict of a file: of a training's checkpoint that of the network that was evaluated.

    Raises:
        InputError: as :func:`load_checkpoint`.
    """
    content = load_checkpoint(path, device)
    return next((content[entry] for entry in _ENTRIES if isinstance(content.get(entry), dict)), content)


def weight_files(weights: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a setting names: one, a list of them, or the list's text as it comes from a command line."""
    if isinstance(weights, str) and weights.startswith("[") and weights.endswith("]"):
        weights = [name.strip(" '\"") for name in weights[1:-1].split(",")]
    return [Path(weights)] if isinstance(weights, (str, Path)) else [Path(name) for name in weights]


def trainings_of(weights: str | Path | Sequence[str | Path]) -> list[dict[str, Any]]:
    """What shipped files say of the trainings that made them; those that say nothing are left out."""
    facts = [facts_of(read_weights(path)) for path in weight_files(weights) if path.is_file()]
    return [found["training"] for found in facts if "training" in found]


def trained_window(weights: str | Path | Sequence[str | Path], otherwise: Any) -> Any:
    """The window that the files' networks were judged with in training, or a list of them where they differ; ``otherwise`` for
    files that do not say.

    Group normalisation takes its mean and deviation over the whole window: in a much larger one, padded where the patient ends,
    the same network gives another dose, wrong by many Gy.
    """
    files = weight_files(weights)
    windows = [facts_of(read_weights(path)).get("window", otherwise) if path.is_file() else otherwise for path in files]
    return windows[0] if all(window == windows[0] for window in windows) else windows


def build_network(
    weights: str | Path | Sequence[str | Path],
    protocol: Protocol,
    *,
    default_constraints: Sequence[float] | None = None,
    **stated: Any,
) -> nn.Module:
    """The network, not yet with its weights, that a weight file fits; of several files an ``nn.ModuleList``.

    Its settings are those in the file; in files that hold none (of earlier versions) those that the tensors' shapes show. What
    neither tells, and all where the file is not there, is as stated, or else the network's default.

    Args:
        weights: one file, or several for an ensemble.
        protocol: what the configuration predicts for.
        default_constraints: see :class:`~monai_vmat.networks.film_unet.FiLMUNet`.
        stated: settings of the network by name; None states nothing.

    Raises:
        InputError: when the file is for another protocol, what is stated contradicts it, or no network has such settings.
    """
    files = weight_files(weights)
    networks = [_build(path, protocol, default_constraints, stated) for path in files]
    return networks[0] if len(networks) == 1 else nn.ModuleList(networks)


def _build(path: Path, protocol: Protocol, default_constraints: Sequence[float] | None, stated: Mapping[str, Any]) -> FiLMUNet:
    stated = {name: value for name, value in stated.items() if value is not None}
    found: dict[str, Any] = {}
    if path.is_file():
        state = read_weights(path)
        facts = facts_of(state)
        trained_for = facts.get("protocol", protocol.name)
        if trained_for != protocol.name:
            problem = f"was trained for protocol '{trained_for}', the configuration says '{protocol.name}'"
            raise InputError(path, problem, f"Use --protocol_name {trained_for} or its overlay, or other weights")
        found = shown_settings(state) | facts.get("settings", {})
    other = [f"{name} {found[name]}, the configuration says {value}" for name, value in stated.items()
             if found.get(name, value) != value]  # fmt: skip
    if other:
        mend = "Leave the setting out, since the file says it, or use other weights or the --protocol_name that they are for"
        raise InputError(path, f"holds the weights of another architecture ({'; '.join(other)})", mend)
    try:
        return FiLMUNet(**(stated | found), default_constraints=default_constraints)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, f"no network can be built by its settings ({error})", "Use other weights or settings") from error


def load_weights(
    weights: str | Path | Sequence[str | Path], network: nn.Module, device: str | torch.device = "cpu"
) -> nn.Module:
    """Load the weights of a file, of whatever floating-point type, into ``network`` (those of several into its parts).

    Raises:
        InputError: when a file is of another architecture, naming what differs.
    """
    files = weight_files(weights)
    for path, part in zip(files, [network] if len(files) == 1 else network.children(), strict=True):
        check_and_load(path, part, read_weights(path, device))
    return network


def start_from(initial_weights: str | Path | None, *networks: nn.Module) -> None:
    """Begin a training with the weights of a file in all ``networks`` (the trained and its average), if one is named.

    Raises:
        InputError: as :func:`load_weights`.
    """
    if initial_weights is not None:
        for network in networks:
            load_weights(initial_weights, network)


def check_and_load(
    path: str | Path,
    network: nn.Module,
    weights: Mapping[str, Tensor],
    mend: str = "Use the configuration that it was trained with (training_config.json beside it)",
) -> None:
    """Load a state dict after comparing names and shapes, so that a mismatch is told in one line; what is not finite, too."""
    if not isinstance(weights, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise InputError(path, "tensors by name were expected for the network", mend)
    own = network.state_dict()
    missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or unknown or shapes:

        def some(names: list[str]) -> str:
            return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

        parts = [f"{t}: {some(n)}" for t, n in (("missing", missing), ("unknown", unknown), ("shapes", shapes)) if n]
        raise InputError(path, f"holds the weights of another architecture ({'; '.join(parts)})", mend)
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(path, f"'{broken[0]}' holds NaN or infinity", "Use an earlier checkpoint of the run")
    network.load_state_dict(weights)
