"""Procedural male pelvises: CT and contours to plan and train on where no patient data can be shipped.

Every phantom is a function of its seed alone. The anatomy (:mod:`monai_vmat.planning.anatomy`) is drawn again within
the same seed until it obeys the laws that make it useful: volumes in clinical ranges, and a rectum that lies against
the prostate, so that targets and organs compete for the dose as they do in patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from monai_vmat.planning.anatomy import (
    SPACING_MM,
    TARGET_REACH_MM,
    VOXEL_CC,
    Anatomy,
    common,
    draw_anatomy,
    smooth_noise,
    union,
)

CT_STEP_HU = 4  # well below the noise, and the files are a third smaller
AIR_HU = -1000

_AIR_BORDER_VOXELS = 2
_Z_BEYOND_TARGET_MM = 36.0
_Z_BEYOND_ORGANS_MM = 6.0
_SMALLEST_PIECE_CC = 1.0
_MAX_DRAWS = 20
_IN_PIECES = ("SeminalVesicles", "Bowel")  # every other structure is one piece

_VOLUME_CC = {
    "Prostate": (25.0, 70.0),
    "SeminalVesicles": (3.0, 20.0),
    "Rectum": (40.0, 110.0),
    "Bladder": (70.0, 400.0),
    "Femur_L": (80.0, 200.0),
    "Femur_R": (80.0, 200.0),
    "Bowel": (50.0, 1500.0),
}
_RECTUM_IN_PTV56 = (0.05, 0.15)
_CONTACT_FACES = 8  # 3 x 3 mm voxel faces of the rectum on the prostate's back: at least 0.7 cm2


@dataclass(frozen=True)
class Phantom:
    """A pelvis on a grid cropped to it.

    Args:
        ct_hu: int16 (X, Y, Z), multiples of 4 HU; indices grow towards left, posterior, superior; air is -1000.
        spacing_mm: voxel size along X, Y, Z.
        structures: bool (X, Y, Z) by name: PTV70, PTV56, Prostate, SeminalVesicles, Rectum, Bladder, Femur_L, Femur_R,
            Bowel, Body.
    """

    ct_hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    structures: dict[str, np.ndarray]


def make_phantom(seed: int) -> Phantom:
    """Make the phantom of ``seed``: the same seed gives the same bytes.

    Raises:
        RuntimeError: when no draw of this seed obeys the laws (none is known).
    """
    rng = np.random.default_rng(seed)
    for _ in range(_MAX_DRAWS):
        anatomy = draw_anatomy(rng)
        organs = {name: _solid(name, anatomy.fields[name] < 0) for name in (*_VOLUME_CC, "Body")}
        structures = _draw_targets(rng, organs) | organs
        crop = _crop(structures)
        if any(part.start < 0 or part.stop > size for part, size in zip(crop, organs["Body"].shape, strict=True)):
            continue  # too large for the grid
        # Cropping may cut bowel loops to pieces.
        structures = {name: _solid(name, mask[crop]) for name, mask in structures.items()}
        if _obeys_laws(structures):
            ct_hu = _paint(rng, anatomy)[crop]
            ct_hu[~structures["Body"]] = AIR_HU
            return Phantom(np.ascontiguousarray(ct_hu), (SPACING_MM,) * 3, structures)
    raise RuntimeError(f"seed {seed}: none of {_MAX_DRAWS} draws obeys the laws of the phantom; use another seed")


def expand(mask: np.ndarray, margin_mm: float, posterior_mm: float | None = None) -> np.ndarray:
    """``mask`` and every voxel whose centre lies within the margin of one of its own.

    Args:
        mask: bool (X, Y, Z) on the phantom's grid.
        margin_mm: Euclidean margin.
        posterior_mm: a smaller margin towards posterior: that half of the ball becomes half an ellipsoid.
    """
    posterior_mm = margin_mm if posterior_mm is None else posterior_mm
    reach = math.floor(margin_mm / SPACING_MM)
    x, y, z = SPACING_MM * np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    ball = (x**2 + z**2) / margin_mm**2 + (y / np.where(y > 0, posterior_mm, margin_mm)) ** 2 <= 1
    return ndimage.binary_dilation(mask, ball)


def _draw_targets(rng: np.random.Generator, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    margin_mm, posterior_mm = rng.uniform(5, 7), rng.uniform(4, 5)
    high = expand(masks["Prostate"], margin_mm, posterior_mm) & masks["Body"]
    low = expand(masks["Prostate"] | masks["SeminalVesicles"], TARGET_REACH_MM) & masks["Body"]
    return {"PTV70": high, "PTV56": low | high}


def _crop(masks: dict[str, np.ndarray]) -> tuple[slice, slice, slice]:
    """The body's width and depth with a rim of air; along the patient what the beams and the organs need."""

    def extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
        found = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        return int(found[0]), int(found[-1])

    def ends(name: str, beyond_mm: float) -> tuple[int, int]:
        low, high = extent(masks[name], 2)
        return low - round(beyond_mm / SPACING_MM), high + round(beyond_mm / SPACING_MM)

    reaches = [ends("PTV56", _Z_BEYOND_TARGET_MM), *(ends(n, _Z_BEYOND_ORGANS_MM) for n in ("Rectum", "Bladder"))]
    z_slice = slice(min(r[0] for r in reaches), max(r[1] for r in reaches) + 1)
    body = masks["Body"][..., max(z_slice.start, 0) : z_slice.stop]
    across = [extent(body, axis) for axis in (0, 1)]
    x_slice, y_slice = (slice(low - _AIR_BORDER_VOXELS, high + 1 + _AIR_BORDER_VOXELS) for low, high in across)
    return x_slice, y_slice, z_slice


def _solid(name: str, mask: np.ndarray) -> np.ndarray:
    """The largest piece of ``mask``; of vesicles and bowel all that are larger than 1 cc."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes * VOXEL_CC > _SMALLEST_PIECE_CC if name in _IN_PIECES else np.arange(sizes.size) == sizes.argmax()
    return (keep & (sizes > 0))[labels]


def _obeys_laws(masks: dict[str, np.ndarray]) -> bool:
    for name, (low, high) in _VOLUME_CC.items():
        if not low <= np.count_nonzero(masks[name]) * VOXEL_CC <= high:
            return False
    rectum = masks["Rectum"]
    share = float(masks["PTV56"][rectum].mean())
    contact = int(np.count_nonzero(rectum[:, 1:] & masks["Prostate"][:, :-1]))
    return _RECTUM_IN_PTV56[0] <= share <= _RECTUM_IN_PTV56[1] and contact >= _CONTACT_FACES


def _paint(rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray:
    """The CT, int16 HU: tissue by tissue, edges blended over a voxel, then texture and noise."""
    fields, frame = anatomy.fields, anatomy.frame
    shape = frame.x.shape
    fine, coarse = smooth_noise(rng, shape, 7.0), smooth_noise(rng, shape, 22.0)
    # Sheets of fat part the muscles along the patient: the places where smooth noise crosses zero are such sheets.
    septa = union(*(np.abs(smooth_noise(rng, shape, (s, s, 3 * s))) * s - 1.3 for s in (18.0, 30.0)))
    cortical_hu, trabecular_hu = rng.uniform(780, 1000), rng.uniform(220, 285)
    ct = np.full(shape, AIR_HU, np.float32)

    def paint(field: np.ndarray, hu: float | np.ndarray) -> None:
        share = np.clip(0.5 - field / SPACING_MM, 0, 1)  # of the voxel that the tissue fills
        np.add(ct, share * (hu - ct), out=ct)

    def paint_bone(field: np.ndarray, cortex_mm: float = 2.5) -> None:
        marrow_hu = trabecular_hu + 20 * fine + 15 * coarse
        paint(field, marrow_hu + (cortical_hu - marrow_hu) * np.exp(-np.maximum(-field - 1, 0) / cortex_mm))

    gas_level = rng.uniform(-2.0, 0.0)
    muscle_hu = 52 + 6 * fine
    fat_hu = -103 + 6 * coarse + 4 * fine
    paint(fields["Body"], -20.0)  # skin
    paint(fields["Body"] + 2.5, fat_hu)
    paint(fields["Muscle"], muscle_hu)
    paint(common(septa, fields["Muscle"]), fat_hu)
    paint(common(union(fields["Cavity"], fields["FatSpace"]), fields["Body"] + 2.5), fat_hu)
    for name, hu in (("PelvicFloor", muscle_hu), ("Vessels", 45.0), ("Bulb", 45.0)):
        paint(fields[name], hu)
    paint_bone(fields["PelvicBone"])
    for side in "LR":
        paint_bone(fields[f"FemurBone_{side}"])

    paint(fields["Bowel"], 42 + 6 * fine)
    loop_hu = 12.0 + 9.0 * (anatomy.loop_index % 5) + 5 * fine
    paint(common(fields["Bowel"], 3 - anatomy.loop_wall), loop_hu)
    gas_loop = np.where(anatomy.loop_index % 7 == 0, 4.5 - anatomy.loop_wall, 99.0)
    paint(common(fields["Bowel"] + 2, gas_loop), -720.0)

    paint(fields["Tube"], 42 + 6 * fine)
    paint(fields["Lumen"], 20 + 22 * coarse + 10 * fine)
    # Gas rises to the front of a supine patient's rectum.
    paint(common(fields["Lumen"] + 0.5, 12 * (anatomy.rectum_height - gas_level) + 8 * coarse), -760.0)
    paint(fields["Bladder"], 32.0)
    paint(fields["Bladder"] + 3, 5 + 2 * fine)
    paint(fields["SeminalVesicles"], 34 + 6 * fine)
    paint(fields["Prostate"], 42 + 4 * fine + 4 * coarse)

    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), (0.5, 0.5, 0.3))
    ct += rng.uniform(8, 12) * noise / noise.std()
    return (np.rint(ct / CT_STEP_HU) * CT_STEP_HU).astype(np.int16)
