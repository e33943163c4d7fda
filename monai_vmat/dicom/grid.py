"""Where voxels lie in the patient: axis-aligned grids, and how DICOM frames are laid onto them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_vmat.case import lps_affine
from monai_vmat.errors import InputError

_DIRECTION_TOLERANCE = 1e-3  # 0.25 mm at the edges of a 500 mm field of view
_UNEVEN_MM = 0.01


@dataclass(frozen=True)
class Grid:
    """A grid whose indices grow towards the patient's left, posterior and superior, in DICOM patient coordinates (LPS, mm).

    Args:
        origin_mm: centre of voxel (0, 0, 0).
        spacing_mm: voxel size along X, Y, Z, each above 0.
        shape: voxels along X, Y, Z.
    """

    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    @classmethod
    def from_affine(cls, affine: np.ndarray, shape: tuple[int, ...]) -> Grid:
        """The grid of a case's arrays, from their affine to RAS."""
        x, y, z = (affine[:3, 3] * (-1, -1, 1)).tolist()
        dx, dy, dz = np.abs(np.diag(affine)[:3]).tolist()
        return cls((x, y, z), (dx, dy, dz), (shape[0], shape[1], shape[2]))

    @property
    def affine(self) -> np.ndarray:
        """float64 (4, 4), voxel indices to RAS mm."""
        return lps_affine(self.spacing_mm, self.origin_mm)

    def centres_mm(self, axis: int) -> np.ndarray:
        """Coordinates of the voxel centres along an axis."""
        return self.origin_mm[axis] + self.spacing_mm[axis] * np.arange(self.shape[axis])

    def edges_mm(self, axis: int) -> tuple[float, float]:
        """Where the first voxel begins and the last one ends along an axis."""
        low = self.origin_mm[axis] - self.spacing_mm[axis] / 2
        return low, low + self.spacing_mm[axis] * self.shape[axis]


def patient_axes(orientation: tuple[float, ...], where: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """For the directions of rows and columns: the patient's axis (0: left, 1: posterior), and the sign.

    Raises:
        InputError: when they are oblique or not those of axial images.
    """
    directions = np.reshape(orientation, (2, 3))
    axes = np.abs(directions).argmax(1)
    signs = np.sign(directions[[0, 1], axes])
    exact = np.zeros((2, 3))
    exact[[0, 1], axes] = signs
    shown = [round(v, 4) for v in orientation]
    mend = "Export or resample the images along the patient's axes"
    if np.abs(directions - exact).max() > _DIRECTION_TOLERANCE or axes[0] == axes[1]:
        raise InputError(where, f"ImageOrientationPatient {shown}: oblique, the patient's axes were expected", mend)
    if 2 in axes:
        raise InputError(where, f"ImageOrientationPatient {shown}: axial images were expected", mend)
    return (int(axes[0]), int(axes[1])), (int(signs[0]), int(signs[1]))


def lay_out(
    frames: np.ndarray,
    orientation: tuple[float, ...],
    first_pixel_mm: tuple[float, float, float],
    pixel_spacing_mm: tuple[float, float],
    heights_mm: np.ndarray,
    where: str,
) -> tuple[np.ndarray, Grid]:
    """Turn axial frames to the directions of a case: left, posterior, superior.

    Args:
        frames: (frames, rows, columns).
        orientation: ImageOrientationPatient.
        first_pixel_mm: patient coordinates of the first frame's first pixel.
        pixel_spacing_mm: between rows, between columns.
        heights_mm: each frame's position towards superior; evenly spaced, in either direction.
        where: how messages call the frames.

    Returns:
        (X, Y, Z) of the same type, and its grid.

    Raises:
        InputError: when the axes are not the patient's, frames are not axial, doubled, missing or unevenly spaced.
    """
    axes, signs = patient_axes(orientation, where)
    order = np.argsort(heights_mm)
    heights = np.asarray(heights_mm, np.float64)[order]
    height_step = _even_step(heights, where)
    # The direction of a row is that in which its columns follow each other, and the other way round.
    row_axis, column_axis = axes
    volume = frames[order].transpose(np.argsort([2, column_axis, row_axis]))
    origin, spacing = np.empty(3), np.empty(3)
    origin[2], spacing[2] = heights[0], height_step
    for axis, sign, step, count in zip(axes, signs, pixel_spacing_mm[::-1], frames.shape[:0:-1], strict=True):
        first = first_pixel_mm[axis]
        origin[axis] = first if sign > 0 else first - step * (count - 1)
        spacing[axis] = step
        if sign < 0:
            volume = np.flip(volume, axis)
    if not (spacing > 0).all():
        raise InputError(where, f"PixelSpacing: numbers above 0 were expected, got {list(pixel_spacing_mm)}", "Export it again")
    x, y, z = volume.shape
    return np.ascontiguousarray(volume), Grid(_triple(origin), _triple(spacing), (x, y, z))


def _even_step(heights_mm: np.ndarray, where: str) -> float:
    """The distance of sorted heights."""
    if len(heights_mm) < 2:
        raise InputError(where, "one slice only: its thickness in the patient is not known", "Export all slices")
    steps = np.diff(heights_mm)
    step = float(np.median(steps))
    mend = "Export the series again, whole and once"
    k = int(np.argmin(steps))
    if steps[k] <= _UNEVEN_MM:
        raise InputError(where, f"doubled slice: two are at {heights_mm[k]:.2f} mm", mend)
    k = int(np.argmax(np.abs(steps - step)))
    if abs(steps[k] - step) > _UNEVEN_MM + 0.01 * step:
        between = f"between {heights_mm[k]:.2f} and {heights_mm[k + 1]:.2f} mm"
        ratio = steps[k] / step
        if round(ratio) > 1 and abs(ratio - round(ratio)) < 0.05:
            raise InputError(where, f"missing slice: {round(ratio) - 1} of {step:.2f} mm {between}", mend)
        problem = f"slices are not evenly spaced: {steps[k]:.2f} mm {between}, {step:.2f} mm elsewhere"
        raise InputError(where, problem, "Export a series of one slice spacing")
    return float((heights_mm[-1] - heights_mm[0]) / (len(heights_mm) - 1))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
