"""Which structures of a patch a loss may count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from monai_vmat.masks import unpack_mask
from monai_vmat.metrics.case_metrics import SMALL_STRUCTURE_VOXELS
from monai_vmat.protocol import Protocol, Structure


class StructureLoss(nn.Module):
    """Base of the losses that look at structures: an absent structure never counts, nor does one of a few voxels.

    What a structure is, its bits say; signed distances of absent structures (0.0 or +1.0 everywhere) play no part. After
    each forward pass ``counts`` holds how many structures the patches had (``structures``) and how many of them were left
    out because they have fewer than ``min_voxels`` voxels there (``skipped``).

    Args:
        protocol: names, roles, bits.
        min_voxels: the least number of voxels in the patch.
    """

    def __init__(self, protocol: Protocol, min_voxels: int = SMALL_STRUCTURE_VOXELS) -> None:
        super().__init__()
        self.protocol = protocol
        self.min_voxels = min_voxels
        self.counts: dict[str, int] = {}

    def counted(self, structures: Tensor, wanted: Sequence[Structure]) -> Iterator[tuple[int, Structure, Tensor]]:
        """Of the ``wanted`` structures those that count: index in the batch, structure, mask (X, Y, Z)."""
        self.counts = {"structures": 0, "skipped": 0}
        for sample in range(len(structures)):
            for structure in wanted:
                mask = unpack_mask(structures[sample, 0], structure.name, self.protocol)
                voxels = int(mask.count_nonzero())
                if voxels == 0:
                    continue
                self.counts["structures"] += 1
                if voxels < self.min_voxels:
                    self.counts["skipped"] += 1
                    continue
                yield sample, structure, mask
