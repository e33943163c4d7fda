"""A discriminator's opinion on the predicted dose."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn
from torch.func import functional_call


def least_squares() -> PatchAdversarialLoss:
    """The least-squares GAN criterion (Mao et al. 2017, arXiv:1611.04076): squared distance to 1 for real, 0 for predicted."""
    return PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)


class AdversarialLoss(nn.Module):
    """``mean((D(pred) - 1)^2)``: how far the discriminator D is from taking the prediction for a delivered dose.

    D gives a map of judgements, one a patch (PatchGAN: Isola et al. 2017, arXiv:1611.07004; MONAI's PatchDiscriminator). Its
    parameters get no gradient from here: :class:`~monai_vmat.handlers.discriminator_step.DiscriminatorStep` trains them.
    Float32, also under autocast.

    Args:
        discriminator: (B, 1, X, Y, Z) to a list whose last entry is the map.

    Shapes: ``pred`` (B, 1, X, Y, Z), fractions of the prescription. Returns a scalar.
    """

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.criterion = least_squares()

    def forward(self, pred: Tensor) -> Tensor:
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with torch.autocast(pred.device.type, enabled=False):
            judged = functional_call(self.discriminator, frozen, (pred.float(),))[-1]
            return self.criterion(judged, target_is_real=True, for_discriminator=False)
