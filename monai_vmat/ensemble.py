"""Several predictions of one dose, by several networks and of the mirrored patient: their mean, and how far they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_vmat.engines import DoseInferer, flag
from monai_vmat.errors import InputError
from monai_vmat.protocol import Protocol
from monai_vmat.transforms.flip_left_right import mirror_constraints, mirror_image

_LEFT_RIGHT_AXIS = 2  # of (B, C, X, Y, Z)


class EnsembleInferer(DoseInferer):
    """The mean of the predictions of all networks, each of the patient and, with ``flips``, of the mirrored patient.

    Given one network and no flips it is :class:`~monai_vmat.engines.DoseInferer`. With ``uncertainty``, and always
    for several networks, the result has a second channel: the predictions' sample standard deviation (n - 1) in each voxel.

    Args:
        protocol: which structures are pairs.
        flips: predict the mirrored patient, too: paired structures and their constraints change sides, and the dose is
            mirrored back.
        uncertainty: ``flips`` (these then are predicted), or None.
        options: of DoseInferer.

    Shapes: as DoseInferer; returns (B, 1, X, Y, Z) or, with the standard deviation, (B, 2, X, Y, Z), fractions of the
        prescription.

    Raises:
        InputError: for an unknown ``uncertainty``.
    """

    def __init__(
        self,
        roi_size: Any = -1,
        *,
        protocol: Protocol,
        flips: bool | str = False,
        uncertainty: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(roi_size, **options)
        if uncertainty not in (None, "flips"):
            mend = "Leave it out, or name several files: --weights '[a.pt,b.pt]'"
            raise InputError("--uncertainty", f"'flips' was expected, got {uncertainty!r}", mend)
        self.protocol = protocol
        self.uncertainty = uncertainty is not None
        self.flips = flag(flips) or self.uncertainty

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        constraints: Tensor,
        region: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        image = convert_to_tensor(inputs, track_meta=False)
        networks = list(network) if isinstance(network, nn.ModuleList) else [network]
        spread = self.uncertainty or len(networks) > 1
        mean, squares = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
        for count, dose in enumerate(self._predictions(image, networks, constraints, region), 1):
            difference = dose - mean  # Welford's update: three volumes in memory, however many predictions
            mean = mean + difference / count
            squares = squares + difference * (dose - mean)
        return torch.cat([mean, (squares / (count - 1)).sqrt()], 1) if spread else mean

    def _predictions(self, image: Tensor, networks: list[Any], constraints: Tensor, region: Tensor | None) -> Iterator[Tensor]:
        for network in networks:
            yield super().__call__(image, network, constraints=constraints, region=region)
        if self.flips:
            image = torch.stack([mirror_image(one, self.protocol) for one in image])
            constraints = mirror_constraints(constraints, self.protocol)
            region = None if region is None else region.flip(_LEFT_RIGHT_AXIS)
            for network in networks:
                mirrored = super().__call__(image, network, constraints=constraints, region=region)
                yield mirrored.flip(_LEFT_RIGHT_AXIS)
