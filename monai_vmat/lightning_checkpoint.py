"""Checkpoints of the earlier PyTorch Lightning project, as weights of our network.

Its module held the network as ``model`` and the losses beside it, so names in ``state_dict`` are ``model.<name>`` and
``gradient_loss.<name>`` and the like; below ``model.`` they are those of :class:`~monai_vmat.networks.film_unet.FiLMUNet`.
Names and shapes do not say everything. Taken for granted is what our network does: upsampled features before the skip in every
concatenation, trilinear upsampling with ``align_corners=False``, ``scale`` before ``shift`` in what FiLM's linear layer gives,
FiLM after the first normalisation and SiLU, the shortcut added after the second SiLU, GroupNorm of 8 groups with epsilon 1e-5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_vmat.errors import InputError
from monai_vmat.networks.film_unet import NORM_GROUPS, SHOWN_BY, FiLMUNet
from monai_vmat.weights import check_and_load, load_checkpoint

_PREFIX = "model."
_MEND = "Give a checkpoint (*.ckpt) of the earlier project's FiLM U-Net"


@dataclass(frozen=True)
class LightningCheckpoint:
    """What a checkpoint held.

    Args:
        network: our network with its weights.
        sizes: ``in_channels``, ``base_channels``, ``constraint_dim`` and ``embedding_dim``.
        stated: those of them that the hyper-parameters state; they agree.
        left_aside: number of tensors by the first part of their names, for those outside the network.
        epoch, global_step: of the training; None where the checkpoint does not say.
    """

    network: FiLMUNet
    sizes: Mapping[str, int]
    stated: tuple[str, ...]
    left_aside: Mapping[str, int]
    epoch: int | None
    global_step: int | None


def read_lightning_checkpoint(path: str | Path) -> LightningCheckpoint:
    """Read a checkpoint, weights only: nothing in it is executed.

    Raises:
        InputError: when it is missing, damaged, needs a class unpickled (named), is of another layout, when hyper-parameters
            contradict the weights or a weight is not finite.
    """
    content = load_checkpoint(path)
    state = content.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        found = ", ".join(sorted(map(str, content))[:8])
        raise InputError(path, f"'state_dict': tensors by name were expected; it holds {found or 'nothing'}", _MEND)
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    if not weights:
        raise InputError(path, f"'state_dict' has no names that start with '{_PREFIX}'", _MEND)
    sizes = {name: _size(path, weights, *place) for name, place in SHOWN_BY.items()}
    stated = _check_stated(path, content.get("hyper_parameters"), sizes)
    if sizes["base_channels"] % NORM_GROUPS:
        raise InputError(path, f"width {sizes['base_channels']}: a multiple of {NORM_GROUPS} was expected", _MEND)
    network = FiLMUNet(
        sizes["in_channels"], sizes["constraint_dim"], sizes["base_channels"], embedding_dim=sizes["embedding_dim"]
    )
    check_and_load(path, network, weights, _MEND)
    return LightningCheckpoint(
        network=network,
        sizes=sizes,
        stated=stated,
        left_aside=Counter(name.split(".")[0] for name in state if not name.startswith(_PREFIX)),
        epoch=_whole_number(content.get("epoch")),
        global_step=_whole_number(content.get("global_step")),
    )


def _size(path: str | Path, weights: Mapping[str, Tensor], name: str, axis: int) -> int:
    expected = 5 if "conv" in name else 2
    if name not in weights or weights[name].dim() != expected:
        found = f"got shape {tuple(weights[name].shape)}" if name in weights else "it is missing"
        raise InputError(path, f"'{_PREFIX}{name}': {expected} dimensions were expected, {found}", _MEND)
    return int(weights[name].shape[axis])


def _check_stated(path: str | Path, parameters: Any, sizes: Mapping[str, int]) -> tuple[str, ...]:
    stated = tuple(name for name in sizes if isinstance(parameters, Mapping) and parameters.get(name) is not None)
    for name in stated:
        if parameters[name] != sizes[name]:
            problem = f"hyper-parameter '{name}' is {parameters[name]!r}, but its weights are for {sizes[name]}"
            raise InputError(path, problem, "Use the checkpoint as the training wrote it")
    return stated


def _whole_number(value: Any) -> int | None:
    return value if type(value) is int else None
