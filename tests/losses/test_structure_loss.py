"""Which structures count."""

import torch

from monai_vmat.losses.structure_loss import StructureLoss


def test_absent_and_small_structures_do_not_count(prostate, pack):
    shape = (10, 5, 4)
    both = torch.cat(
        [
            pack(prostate, shape, {"PTV70": slice(0, 5), "Rectum": (0, 0, slice(0, 4))}),
            pack(prostate, shape, {"PTV70": slice(0, 4), "Bladder": slice(0, 9)}),
        ]
    )
    loss = StructureLoss(prostate)
    found = list(loss.counted(both, [prostate.structure(name) for name in ("PTV70", "PTV56", "Rectum")]))
    assert [(sample, structure.name, int(mask.sum())) for sample, structure, mask in found] == [(0, "PTV70", 100)]
    assert loss.counts == {"structures": 3, "skipped": 2}
    list(loss.counted(both, prostate.structures))
    assert loss.counts == {"structures": 4, "skipped": 2}
