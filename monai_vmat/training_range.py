"""What the cases were like that a model was trained on, and which cases are nothing like them.

A network answers whatever it is asked. Of a case whose voxels, prescriptions, constraints or volumes lie far outside those of
the training its answer is a guess, and looks like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_vmat.errors import InputError
from monai_vmat.masks import BODY, unpack_mask
from monai_vmat.protocol import Protocol
from monai_vmat.weights import facts_of, read_weights, weight_files

logger = logging.getLogger(__name__)

# A value counts as far outside beyond the training's range and a margin: a quarter of the range's width, since few cases do not
# show all that is usual, and a twentieth of its greatest value, where all cases of the training have the same.
WIDTH_SHARE, VALUE_SHARE = 0.25, 0.05

Ranges = Mapping[str, Sequence[float]]


def case_features(item: Mapping[str, Any], protocol: Protocol) -> dict[str, float]:
    """What a case is judged by: voxel size, prescription and volume of the targets (0 where absent), the body's volume, and the
    plan's constraints in their units.

    Args:
        item: a case as :class:`~monai_vmat.transforms.load_case.LoadCased` and
            :class:`~monai_vmat.transforms.encode_constraints.EncodeConstraintsd` make it.
        protocol: the protocol.
    """
    spacing = [float(size) for size in item["spacing_mm"]]
    voxel_cc = spacing[0] * spacing[1] * spacing[2] / 1000.0
    structures = torch.as_tensor(item["structures"])
    features = {f"voxel size {axis}, mm": size for axis, size in zip("XYZ", spacing, strict=True)}
    for target, dose_gy in zip(protocol.targets, item["prescription_gy"].tolist(), strict=True):
        features[f"{target.name} prescription, Gy"] = dose_gy
    for name in (*(target.name for target in protocol.targets), BODY):
        features[f"{name} volume, cc"] = voxel_cc * int(unpack_mask(structures, name, protocol).sum())
    for constraint, value in zip(protocol.constraints, item["constraints"].tolist(), strict=True):
        if constraint.metric != "prescription":
            features[f"{constraint.name}, {constraint.unit}"] = value * constraint.scale
    return features


def ranges(features: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """The least and the greatest value of each feature, over the cases of a training."""
    found: dict[str, list[float]] = {}
    for case in features:
        for name, value in case.items():
            low, high = found.get(name, (value, value))
            found[name] = [min(low, value), max(high, value)]
    return found


def ranges_of(weights: str | Path | Sequence[str | Path]) -> dict[str, list[float]]:
    """The ranges that weight files hold: of several, what all have seen; nothing where they do not say or are not there.

    Raises:
        InputError: when a file's ranges are none.
    """
    found: dict[str, list[float]] = {}
    for path in weight_files(weights):
        stated = facts_of(read_weights(path)).get("ranges", {}) if path.is_file() else {}
        if not isinstance(stated, dict) or not all(_is_range(pair) for pair in stated.values()):
            raise InputError(path, "'ranges': two numbers for each feature were expected", "Export the model again")
        for name, (low, high) in stated.items():
            least, most = found.get(name, (low, high))
            found[name] = [max(low, least), min(high, most)]
    return found


def far_outside(features: Mapping[str, float], trained: Ranges) -> list[str]:
    """In words, each feature that lies beyond the training's range and its margin; what was not recorded is not judged."""
    told = []
    for name, value in features.items():
        if name in trained:
            low, high = trained[name]
            margin = WIDTH_SHARE * (high - low) + VALUE_SHARE * max(abs(low), abs(high))
            if not low - margin <= value <= high + margin:
                told.append(f"{name}: {value:.4g} (training: {low:.4g} to {high:.4g})")
    return told


def warn_of_outside(item: Mapping[str, Any], protocol: Protocol, trained: Ranges) -> list[str]:
    """Log one warning where a case (see :func:`case_features`) lies far outside; returns what :func:`far_outside` says."""
    outside = far_outside(case_features(item, protocol), trained) if trained else []
    if outside:
        logger.warning(
            f"{item['case_id']} is unlike the cases of the training, its dose not to be trusted. {'; '.join(outside)}"
        )
    return outside


def _is_range(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(value, (int, float)) for value in pair)
