"""The linac and the dose engine: PyDoseRT's pencil beam, calibrated, on a grid that every gantry angle sees whole.

PyDoseRT counts a volume (H, D, W): superior, posterior, patient's left. Ours are (X, Y, Z), so one is the other transposed.
Isocentres are in mm from the centre of voxel 0.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from pydosert import BeamSequence, DoseEngine, MachineConfig, PencilDepthEngine
from pydosert.physics.attenuation.hu_density_conversion import convert_HU_to_density
from torch import Tensor

LEAF_MM = 5.0
SOURCE_TO_ISOCENTRE_MM = 1000.0
MACHINE = "varian_10MV"
DOSIMETRIC_LEAF_GAP_MM = 1.2
TRANSMISSION = 0.015  # of closed leaves, as in the preset
FRACTIONS = 28
BEAMS_AT_ONCE = 3  # as fast as any number, and least memory

_FINE_KERNEL = 51  # voxels: 75 mm to each side at 3 mm
_COARSE_KERNEL = 15  # 45 mm to each side at 6 mm


def _resample_fluence_map(values: Tensor, leaf_widths: Tensor, pixels: int, dtype: torch.dtype) -> Tensor:
    """What PyDoseRT 1.5 calculates by broadcasting (gigabytes for many beams), as a matrix product."""
    widths = torch.as_tensor(leaf_widths, dtype=dtype)
    ends = torch.cumsum(widths, 0)
    edges = torch.linspace(0, float(ends[-1]), pixels + 1, dtype=dtype)
    overlap = torch.minimum(ends[:, None], edges[None, 1:]) - torch.maximum((ends - widths)[:, None], edges[None, :-1])
    overlap = overlap.clamp(min=0)
    return (values[..., 0] @ (overlap / (overlap.sum(0) + 1e-8)))[..., None]


sys.modules["pydosert.layers.FluenceMapLayer"].resample_fluence_map = _resample_fluence_map  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Field:
    """The rectangle at the isocentre that the leaves can open: ``leaf_pairs`` rows of 5 mm, ``width_mm`` across.

    Closed pairs are parked outside of it: two leaves that meet inside leak a slit of a millimetre.
    """

    leaf_pairs: int
    width_mm: int

    @property
    def size(self) -> tuple[int, int]:
        """Millimetres and fluence pixels (they are 1 mm) along and across the patient."""
        return int(self.leaf_pairs * LEAF_MM), self.width_mm

    @property
    def bixels(self) -> tuple[int, int]:
        """Rows (leaf pairs) and columns of bixels."""
        return self.leaf_pairs, int(self.width_mm / LEAF_MM)

    @property
    def row_edges_mm(self) -> np.ndarray:
        return (np.arange(self.bixels[0] + 1) - self.bixels[0] / 2) * LEAF_MM

    @property
    def column_edges_mm(self) -> np.ndarray:
        return (np.arange(self.bixels[1] + 1) - self.bixels[1] / 2) * LEAF_MM


@dataclass(frozen=True)
class DoseGrid:
    """A phantom as the dose engine needs it: a square cylinder of air about the isocentre, in voxels of one size.

    Args:
        density: (H, D, W) relative electron density, 0 outside the body.
        spacing_mm: voxel size.
        isocentre_mm: (H, D, W), from the centre of voxel 0.
        inside: where the phantom's own grid lies in this one (fine grids only).
    """

    density: Tensor
    spacing_mm: float
    isocentre_mm: tuple[float, float, float]
    inside: tuple[slice, slice, slice]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.density.shape)  # type: ignore[return-value]

    @classmethod
    def around(cls, ct_hu: np.ndarray, body: np.ndarray, target: np.ndarray, spacing_mm: float) -> DoseGrid:
        """The grid of a phantom's own voxels, the isocentre in the middle of ``target`` ((X, Y, Z) arrays)."""
        centre = np.rint([axis.mean() for axis in np.nonzero(target.transpose(2, 1, 0))]).astype(int)
        _, d, w = np.nonzero(body.transpose(2, 1, 0))
        radius = int(np.ceil(np.hypot(d - centre[1], w - centre[2]).max())) + 2
        depth, height, width = (ct_hu.shape[i] for i in (1, 2, 0))
        shape = (height + height % 2, 2 * radius, 2 * radius)
        inside = (slice(0, height),) + tuple(
            slice(radius - c, radius - c + n) for c, n in zip(centre[1:], (depth, width), strict=True)
        )
        hu = np.full(shape, -1000.0, np.float32)
        here, there = _overlap(inside, shape)
        hu[here] = np.where(body, ct_hu, -1000).transpose(2, 1, 0)[there]
        isocentre = tuple(float(i * spacing_mm) for i in (centre[0], radius, radius))
        return cls(convert_HU_to_density(torch.from_numpy(hu)), spacing_mm, isocentre, inside)  # type: ignore[arg-type]

    def place(self, mask: np.ndarray) -> np.ndarray:
        """An (X, Y, Z) mask of the phantom on this (fine) grid, as (H, D, W) float32."""
        placed = np.zeros(self.shape, np.float32)
        here, there = _overlap(self.inside, self.shape)
        placed[here] = mask.transpose(2, 1, 0)[there]
        return placed

    def take(self, dose: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """A dose on this grid on the phantom's own, (X, Y, Z); zero where this grid does not reach."""
        taken = np.zeros(shape[::-1], np.float32)
        here, there = _overlap(self.inside, self.shape)
        taken[there] = dose[here]
        return np.ascontiguousarray(taken.transpose(2, 1, 0))

    @cached_property
    def coarse(self) -> DoseGrid:
        """The same with voxels of twice the size."""
        shift = self.spacing_mm / 2  # from the centre of the first fine voxel to that of the first coarse one
        isocentre = tuple(i - shift for i in self.isocentre_mm)
        return DoseGrid(halve(self.density), 2 * self.spacing_mm, isocentre, self.inside)  # type: ignore[arg-type]


def _overlap(inside: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where ``inside`` lies on a grid of ``shape``, and what part of itself that is: the body lies inside the cylinder, the
    corners of the phantom's grid may not."""
    here = tuple(slice(max(0, s.start), min(n, s.stop)) for s, n in zip(inside, shape, strict=True))
    return here, tuple(slice(h.start - s.start, h.stop - s.start) for h, s in zip(here, inside, strict=True))


def halve(volume: Tensor) -> Tensor:
    """Means of 2 x 2 x 2 voxels."""
    return torch.nn.functional.avg_pool3d(volume[None], 2)[0]


def machine(leaf_pairs: int) -> MachineConfig:
    """PyDoseRT's 10 MV Varian linac with leaves of 5 mm only; output factors belong to jaws, which move little here."""
    return MachineConfig(
        preset=MACHINE,
        number_of_leaf_pairs=leaf_pairs,
        leaf_widths=[LEAF_MM] * leaf_pairs,
        output_factors=None,
        dlg_mm=DOSIMETRIC_LEAF_GAP_MM,
    )


def arc(field: Field, angles: np.ndarray, isocentre_mm: tuple[float, float, float]) -> BeamSequence:
    """Control points at ``angles`` (radians), leaves open all over the field, one monitor unit each."""
    return BeamSequence.create(
        np.rad2deg(angles).tolist(),
        field.leaf_pairs,
        field.size,
        isocentre_mm,
        open_field_size=100.0,
        device="cpu",
        requires_grad=False,
    )


def dose_engine(grid: DoseGrid, field: Field, *, final: bool) -> DoseEngine:
    """A calibrated engine for ``grid``: one depth per pencil for final doses, one per plane while optimising.

    Calibration: an open 10 cm x 10 cm field gives the reference point (10 cm deep in water, isocentric) 1 Gy per 110 MU.
    """
    kind, kernel = (PencilDepthEngine, _FINE_KERNEL) if final else (DoseEngine, _COARSE_KERNEL)
    step = grid.spacing_mm
    shape = (int(240 / step), int(300 / step), int(240 / step))
    isocentre = (shape[0] // 2 * step, round(100 / step) * step, shape[2] // 2 * step)
    config = machine(field.leaf_pairs)
    water = _engine(kind, config, kernel, step, shape)
    beam = arc(field, np.zeros(1), isocentre)
    beam = type(beam)(**{**beam.__dict__, "mus": torch.full((1,), float(config.calibration_mu))})
    with torch.no_grad():
        dose = water.compute_dose(beam, torch.ones(1, *shape))[0]
    reference = dose[tuple(int(round(i / step)) for i in isocentre)]
    config.mean_photon_energy_MeV /= float(reference)
    return _engine(kind, config, kernel, step, grid.shape)


def _engine(kind: type[DoseEngine], config: MachineConfig, kernel: int, step: float, shape: tuple) -> DoseEngine:
    return kind(config, kernel, (step,) * 3, shape, device="cpu", dtype=torch.float32, conv_backend="fft")
