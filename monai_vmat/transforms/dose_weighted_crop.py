"""Training patches that see enough of the dose."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor


class DoseWeightedCropd(Randomizable, MapTransform):
    """Cut random patches, a share of them centred on a voxel of high dose, the others anywhere.

    Patches keep to the volume: one centred near its edge is moved inwards. Where the volume is smaller than the patch, the
    whole extent is taken.

    Args:
        keys: volumes on one grid, (C, X, Y, Z).
        dose_key: the dose that weights the centres.
        patch_size: (X, Y, Z) voxels.
        num_samples: patches per call.
        high_dose_share: probability that a patch is centred on high dose.
        threshold: high dose, in the units of ``dose_key`` (0.1 is 10 % of the prescription).

    Returns:
        a list of ``num_samples`` items, each a copy of the input with the patches in place of the volumes, float16 ones
        turned to float32.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        patch_size: Sequence[int],
        num_samples: int = 1,
        dose_key: str = "label",
        high_dose_share: float = 0.5,
        threshold: float = 0.1,
    ) -> None:
        super().__init__(keys)
        self.dose_key = dose_key
        self.patch_size = tuple(patch_size)
        self.num_samples = num_samples
        self.high_dose_share = high_dose_share
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        dose = convert_to_tensor(data[self.dose_key], track_meta=False)[0]
        high = None  # flat indices of high dose, found when first needed
        samples = []
        for _ in range(self.num_samples):
            starts = [int(self.R.randint(0, max(n - p, 0) + 1)) for n, p in zip(dose.shape, self.patch_size)]
            if self.R.random() < self.high_dose_share:
                if high is None:
                    high = torch.nonzero(dose.reshape(-1) > self.threshold).squeeze(1)
                if len(high):
                    centre = np.unravel_index(int(high[self.R.randint(len(high))]), dose.shape)
                    starts = [
                        int(np.clip(c - p // 2, 0, max(n - p, 0))) for c, n, p in zip(centre, dose.shape, self.patch_size)
                    ]
            window = tuple(slice(s, s + p) for s, p in zip(starts, self.patch_size))
            item = dict(data)
            for key in self.key_iterator(item):
                patch = convert_to_tensor(item[key], track_meta=False)[(slice(None), *window)]
                item[key] = patch.to(torch.float32, copy=True) if patch.is_floating_point() else patch.clone()
            samples.append(item)
        return samples
