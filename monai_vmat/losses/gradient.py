"""Dose falls off steeply at a target's edge; blurred predictions are told by their gradients."""

from __future__ import annotations

from torch import Tensor, nn


def sobel(volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 3D Sobel gradient of (..., X, Y, Z) in units per voxel: a ramp of slope a along X gives (a, 0, 0).

    Along its own axis each component is the central difference ``(f[i + 1] - f[i - 1]) / 2``, along the two others it is
    smoothed by ``[1, 2, 1] / 4``: the classical kernel over 32. Only voxels with all neighbours: every axis is 2 shorter.
    (Sobel and Feldman 1968; Zucker and Hummel 1981, doi:10.1109/TPAMI.1981.4767105 for 3D.)

    Raises:
        ValueError: when an axis has fewer than 3 voxels.
    """
    if min(volume.shape[-3:]) < 3:
        raise ValueError(f"a gradient needs 3 voxels along every axis, got {tuple(volume.shape[-3:])}")
    smooth_z, smooth_y = _smooth(volume, -1), _smooth(volume, -2)
    along_x = _difference(_smooth(smooth_z, -2), -3)
    along_y = _difference(_smooth(smooth_z, -3), -2)
    along_z = _difference(_smooth(smooth_y, -3), -1)
    return along_x, along_y, along_z


class GradientLoss(nn.Module):
    """Mean over voxels and axes of ``|Sobel(pred) - Sobel(dose)|`` (see :func:`sobel`).

    Shapes: ``pred`` and ``dose`` (B, 1, X, Y, Z), fractions of the prescription, at least 3 voxels along every axis. Returns a
    scalar, fractions of the prescription per voxel.
    """

    def forward(self, pred: Tensor, dose: Tensor) -> Tensor:
        x, y, z = sobel(pred - dose)  # the gradient is linear: one pass for both
        return (x.abs().mean() + y.abs().mean() + z.abs().mean()) / 3


def _smooth(volume: Tensor, axis: int) -> Tensor:
    n = volume.shape[axis] - 2
    before, here, after = (volume.narrow(axis, start, n) for start in range(3))
    return (before + after) * 0.25 + here * 0.5


def _difference(volume: Tensor, axis: int) -> Tensor:
    n = volume.shape[axis] - 2
    return (volume.narrow(axis, 2, n) - volume.narrow(axis, 0, n)) * 0.5
