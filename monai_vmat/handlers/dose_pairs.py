"""What MONAI's metric handlers compare, taken from an output of this bundle's evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor

from monai_vmat.errors import InputError
from monai_vmat.masks import bit_names, unpack_mask
from monai_vmat.protocol import Protocol


class DosePairs:
    """Predictions and references of decollated outputs, in Gy.

    Called with the evaluator's output it returns two lists: predictions (1, X, Y, Z), and references (1 + S, X, Y, Z), the dose
    and S structures' masks, with the voxel size in their affine.

    Args:
        protocol: the protocol.
        structures: names of structures (``Body`` and ``DoseRegion`` as well) whose masks follow the reference dose.

    Raises:
        InputError: for a structure that is not known.
    """

    def __init__(self, protocol: Protocol, structures: Sequence[str] = ()) -> None:
        self.protocol = protocol
        self.structures = structures
        for name in structures:
            if name not in bit_names(protocol):
                raise InputError(f"structure '{name}'", f"protocol {protocol.name} has none", f"Known: {bit_names(protocol)}")

    def __call__(self, outputs: Sequence[dict[str, Any]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        predictions: list[torch.Tensor] = []
        references: list[torch.Tensor] = []
        for out in outputs:
            label = out["label"]
            masks = [unpack_mask(label["structures"], name, self.protocol).float() for name in self.structures]
            affine = torch.diag(torch.cat([label["spacing_mm"].cpu().double(), torch.ones(1, dtype=torch.float64)]))
            reference = torch.cat([label["dose"] * self.protocol.rx_gy, *masks])
            predictions.append(torch.as_tensor(out["pred"]) * self.protocol.rx_gy)
            references.append(MetaTensor(reference, affine=affine))
        return predictions, references
