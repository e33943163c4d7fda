"""Several predictions of one dose, by several networks and of the patient mirrored and turned: their mean and their spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_vmat.engines import DoseInferer, flag
from monai_vmat.errors import InputError
from monai_vmat.protocol import Protocol
from monai_vmat.transforms.flip_left_right import mirror_constraints, mirror_image
from monai_vmat.transforms.turn_beams import beam_steps, extent, outside, turned, turned_shape

_LEFT_RIGHT_AXIS = 2  # of (B, C, X, Y, Z)


def are_windows(roi_size: Any) -> bool:
    """Whether a setting holds several windows: a list of which any is a list itself, since three numbers are one window."""
    return isinstance(roi_size, (list, tuple)) and any(isinstance(window, (list, tuple)) for window in roi_size)


class EnsembleInferer(DoseInferer):
    """The mean of the predictions of all networks, each of the patient and of the patient as ``flips`` and ``turns`` say.

    Given one network and neither of them it is :class:`~monai_vmat.engines.DoseInferer`. With ``uncertainty``, and always
    for several networks, the result has a second channel: the predictions' sample standard deviation (n - 1) in each voxel.

    Args:
        roi_size: the window, see DoseInferer, or a list of windows, one a network: each is used as it was trained.
        protocol: which structures are pairs, and where the beams are.
        flips: predict the mirrored patient, too: paired structures and their constraints change sides, and the dose is
            mirrored back.
        turns: predict the patient turned by every step of the beams, too, and turn the doses back (see
            :class:`~monai_vmat.transforms.turn_beams.RandBeamTurnd`, with which the network should have been trained); each
            turn is cut to its dose region. Together with ``flips`` the mirrored patient is turned as well.
        uncertainty: ``flips`` or ``turns`` (these then are predicted), or None.
        options: of DoseInferer.

    Shapes: as DoseInferer, and ``spacing_mm`` (B, 3), which turns need; returns (B, 1, X, Y, Z) or, with the standard
        deviation, (B, 2, X, Y, Z), fractions of the prescription.

    Raises:
        InputError: for an unknown ``uncertainty``, for turns where the protocol's beams are no symmetry, and for windows that
            are not as many as the networks.
    """

    def __init__(
        self,
        roi_size: Sequence[Any] | int = -1,
        *,
        protocol: Protocol,
        flips: bool | str = False,
        turns: bool | str = False,
        uncertainty: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(roi_size, **options)
        if uncertainty not in (None, "flips", "turns"):
            mend = "Leave it out, or name several files: --weights '[a.pt,b.pt]'"
            raise InputError("--uncertainty", f"'flips' or 'turns' was expected, got {uncertainty!r}", mend)
        self.protocol = protocol
        self.uncertainty = uncertainty is not None
        self.flips = flag(flips) or uncertainty == "flips"
        self.steps = beam_steps(protocol) if flag(turns) or uncertainty == "turns" else 1

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        constraints: Tensor,
        region: Tensor | None = None,
        spacing_mm: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        image = convert_to_tensor(inputs, track_meta=False)
        networks = self._with_windows(list(network) if isinstance(network, nn.ModuleList) else [network])
        spread = self.uncertainty or len(networks) > 1
        mean, squares = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
        for count, dose in enumerate(self._predictions(image, networks, constraints, region, spacing_mm), 1):
            difference = dose - mean  # Welford's update: three volumes in memory, however many predictions
            mean = mean + difference / count
            squares = squares + difference * (dose - mean)
        return torch.cat([mean, (squares / (count - 1)).sqrt()], 1) if spread else mean

    def _with_windows(self, networks: list[Any]) -> list[tuple[Any, Any]]:
        """Each network with its window."""
        windows: Any = self.roi_size if are_windows(self.roi_size) else [self.roi_size] * len(networks)
        if len(windows) != len(networks):
            problem = f"{len(windows)} windows, networks: {len(networks)}"
            raise InputError("--window", problem, "Leave it out, state one for all, or one for each file of --weights")
        return list(zip(networks, windows, strict=True))

    def _predictions(
        self,
        image: Tensor,
        networks: list[tuple[Any, Any]],
        constraints: Tensor,
        region: Tensor | None,
        spacing_mm: Tensor | None,
    ) -> Iterator[Tensor]:
        yield from self._turned_predictions(image, networks, constraints, region, spacing_mm)
        if self.flips:
            image = torch.stack([mirror_image(one, self.protocol) for one in image])
            constraints = mirror_constraints(constraints, self.protocol)
            region = None if region is None else region.flip(_LEFT_RIGHT_AXIS)
            for dose in self._turned_predictions(image, networks, constraints, region, spacing_mm):
                yield dose.flip(_LEFT_RIGHT_AXIS)

    def _turned_predictions(
        self,
        image: Tensor,
        networks: list[tuple[Any, Any]],
        constraints: Tensor,
        region: Tensor | None,
        spacing_mm: Tensor | None,
    ) -> Iterator[Tensor]:
        for network, window in networks:
            yield super().__call__(image, network, constraints=constraints, region=region, roi_size=window)
        if self.steps == 1:
            return
        if spacing_mm is None:
            raise ValueError("turns need spacing_mm")
        spacings = spacing_mm.double().cpu().numpy()
        wanted = torch.ones_like(image[:, :1], dtype=torch.bool) if region is None else region
        old = image.shape[2:4]
        for step in range(1, self.steps):
            degrees = 360.0 * step / self.steps
            shapes = [turned_shape(old, degrees, spacing) for spacing in spacings]
            shape = tuple(map(max, zip(*shapes, strict=True)))
            regions = torch.stack(
                [turned(one.short(), degrees, size, [0.0], shape=shape) for one, size in zip(wanted, spacings, strict=True)]
            )
            cut = extent(regions.any(0)[0])
            patients = [
                turned(one[..., cut[2]], degrees, size, outside(one, self.protocol), cut[:2], shape)
                for one, size in zip(image, spacings, strict=True)
            ]
            part = (slice(None), slice(None), *cut)
            for network, window in networks:
                dose = torch.zeros_like(regions, dtype=torch.float32)
                dose[part] = super().__call__(
                    torch.stack(patients), network, constraints=constraints, region=regions[part].bool(), roi_size=window
                )
                yield torch.stack(
                    [turned(one, -degrees, size, [0.0], shape=old) for one, size in zip(dose, spacings, strict=True)]
                )
