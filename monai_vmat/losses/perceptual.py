"""Does the dose look right, slice by slice, to a network that has learned to see?"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_vmat.networks.vgg16 import WEIGHTS_SHA256, VGG16Trunk

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VGGPerceptualLoss(nn.Module):
    """Sum over relu1_2, relu2_2 and relu3_3 of VGG16 of the mean ``|features(pred) - features(dose)|``.

    Every 8th axial slice, from the first on, is seen as a grey picture of doses 0..1, normalised as ImageNet's. Float32, also
    under autocast. (Johnson et al. 2016, arXiv:1603.08155, with L1 for L2.)

    Args:
        weights, sha256: see :class:`VGG16Trunk`.
        every: one slice in so many along Z.

    Shapes: ``pred`` and ``dose`` (B, 1, X, Y, Z), fractions of the prescription, X and Y at least 4. Returns a scalar.

    Raises:
        InputError: when the weights cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path | None = None, sha256: str = WEIGHTS_SHA256, every: int = 8) -> None:
        super().__init__()
        self.vgg = VGG16Trunk(weights, sha256)
        self.every = every
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, pred: Tensor, dose: Tensor) -> Tensor:
        with torch.autocast(pred.device.type, enabled=False):
            with torch.no_grad():
                wanted = self.vgg(self._pictures(dose))
            found = self.vgg(self._pictures(pred))
            return torch.stack([F.l1_loss(f, w) for f, w in zip(found, wanted, strict=True)]).sum()

    def _pictures(self, volume: Tensor) -> Tensor:
        slices = volume[..., :: self.every].float()  # (B, 1, X, Y, N)
        pictures = slices.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (B N, 1, X, Y)
        return (pictures - self.mean) / self.std
