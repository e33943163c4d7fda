"""The shapes of a male pelvis, drawn at random, as fields in millimetres: negative inside, zero on the surface.

The origin is the middle of the prostate; x grows to the patient's left, y to posterior, z to superior. All shapes are
evaluated in one smoothly bent coordinate system (:class:`Frame`), so that nothing is analytic or symmetric and
neighbours bend together. Landmarks are those of an average man; each draw scales, shifts and bends them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from scipy.spatial import cKDTree

SPACING_MM = 3.0
VOXEL_CC = SPACING_MM**3 / 1000.0
TARGET_REACH_MM = 7.0  # margin of the outer target around prostate and vesicles

# The volume in which anatomy is drawn: wide enough for the largest body, high enough for the fullest bladder.
_LOW_MM = (-198.0, -135.0, -87.0)
_SHAPE = (133, 95, 78)

# Left side of the pelvis as tapered capsules (start, end, radius at start, radius at end); the right side mirrors it.
_HEAD = (88.0, -4.0, 16.0)
_HEAD_RADIUS = 24.0
_JOINT_SPACE_MM = 3.5
_FEMUR = (
    (_HEAD, (116, 5, -2), 15, 15),  # neck
    ((128, 14, 2), (128, 12, -24), 13, 17),  # greater trochanter
    ((119, 9, -26), (108, 4, -120), 17, 14),  # shaft
    ((106, 22, -38), (110, 12, -46), 8, 9),  # lesser trochanter
)
_FEMUR_END_Z = -46.0  # the structure ends about the lesser trochanter; the bone goes on
_HIP_BONE = (
    ((82, 12, 36), (86, 2, 66), 16, 10),  # body of the ilium
    ((12, -44, 3), (68, -24, 26), 8, 11),  # superior pubic ramus
    ((11, -45, 8), (11, -39, -16), 9, 8),  # pubic body
    ((13, -37, -18), (46, 24, -44), 6, 7),  # inferior ramus
    ((74, 26, 14), (57, 40, -36), 13, 15),  # ischium and its tuberosity
)
_RECTUM_ASPECT = 1.15  # width over depth
_LOOP_SPACING_MM, _LOOP_RADIUS_MM = 23.0, 14.0  # of the bowel
_VESSELS = (((54, -70, -81), (50, -60, 30), 8, 7), ((50, -60, 30), (44, 0, 140), 7, 7))


@dataclass(frozen=True)
class Frame:
    """Bent coordinates in mm of every voxel centre, each (X, Y, Z) float32."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """One draw: ``fields`` in mm by tissue or organ, and what the CT needs to fill hollow organs."""

    frame: Frame
    fields: dict[str, np.ndarray]
    rectum_height: np.ndarray  # in the rectum: -1 at the anterior wall, 1 at the posterior one
    loop_wall: np.ndarray  # in the bowel: mm to the wall between two loops
    loop_index: np.ndarray  # in the bowel: number of the loop


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a pelvis. Volumes are the drawn ones; how far the rectum meets the targets is for the caller to settle."""
    frame = _draw_frame(rng)
    fields = _draw_body(rng, frame)
    fields |= _draw_skeleton(rng, frame)
    rectum_height = _draw_organs(rng, frame, fields)
    loop_wall, loop_index = _draw_bowel(rng, frame, fields)
    return Anatomy(frame, fields, rectum_height, loop_wall, loop_index)


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], scale_mm: Sequence[float] | float) -> np.ndarray:
    """Noise of mean about 0 and standard deviation 1 that varies over about ``scale_mm``: float32 of ``shape``."""
    scales = np.broadcast_to(np.asarray(scale_mm, float), 3)
    knots = [math.ceil((n - 1) * SPACING_MM / s) + 5 for n, s in zip(shape, scales, strict=True)]
    noise = rng.standard_normal(knots)
    for size, scale, count in zip(shape, scales, knots, strict=True):
        distance = np.arange(size)[:, None] * SPACING_MM / scale - (np.arange(count) - 2)
        noise = np.tensordot(noise, np.exp(-0.5 * (distance / 0.6) ** 2), axes=(0, 1))  # the axes come round in turn
    return (noise / noise.std()).astype(np.float32)


def ellipsoid(frame: Frame, centre: Sequence[float], radii_mm: Sequence[float | np.ndarray], power: float = 2.0) -> np.ndarray:
    """A (super)ellipsoid: ``(rho - 1) / |grad rho|``, the distance to first order. Powers above 2 make it boxier."""
    offsets = [np.abs(axis - c) / r for axis, c, r in zip((frame.x, frame.y, frame.z), centre, radii_mm, strict=True)]
    rho = np.maximum(sum(o**power for o in offsets), 1e-6) ** (1 / power)
    slope = sum(((o / rho) ** (power - 1) / r) ** 2 for o, r in zip(offsets, radii_mm, strict=True))
    return (rho - 1) / np.sqrt(slope)


def capsule(frame: Frame, start: Sequence[float], end: Sequence[float], radius_start: float, radius_end: float) -> np.ndarray:
    """A rod from ``start`` to ``end`` with round ends and a tapering radius."""
    axes = (frame.x, frame.y, frame.z)
    along = np.subtract(end, start).astype(np.float32)
    share = sum((axis - c) * a for axis, c, a in zip(axes, start, along, strict=True)) / float(along @ along)
    share = np.clip(share, 0, 1)
    squared = sum((axis - c - share * a) ** 2 for axis, c, a in zip(axes, start, along, strict=True))
    return np.sqrt(squared) - (radius_start + share * (radius_end - radius_start))


def union(*fields: np.ndarray) -> np.ndarray:
    """What lies inside any of the fields."""
    return reduce(np.minimum, fields)


def common(*fields: np.ndarray) -> np.ndarray:
    """What lies inside all of the fields."""
    return reduce(np.maximum, fields)


def without(field: np.ndarray, *others: np.ndarray, gap_mm: float = 0.0) -> np.ndarray:
    """``field`` less what lies inside, or closer than ``gap_mm`` to, any of the others."""
    return common(field, *(gap_mm - other for other in others))


def grow_to(field: np.ndarray, volume_cc: float, room: np.ndarray | None = None) -> np.ndarray:
    """``field`` shifted so that it encloses ``volume_cc`` of the voxels there is room in (all by default)."""
    values = field[room] if room is not None else field.ravel()
    count = min(round(volume_cc / VOXEL_CC), values.size - 1)
    return field - np.partition(values, count)[count]


def _rods(frame: Frame, rods: Sequence[tuple]) -> np.ndarray:
    return union(*(capsule(frame, *rod) for rod in rods))


def _slice_z() -> np.ndarray:
    """Unbent z of every slice, (1, 1, Z): bones and organs bend, but contours end with a slice."""
    return _LOW_MM[2] + SPACING_MM * np.arange(_SHAPE[2], dtype=np.float32)[None, None]


def _draw_frame(rng: np.random.Generator) -> Frame:
    bend_mm = rng.uniform(1.2, 2.0)
    axes = (low + SPACING_MM * np.arange(n, dtype=np.float32) for low, n in zip(_LOW_MM, _SHAPE, strict=True))
    straight = np.meshgrid(*axes, indexing="ij", sparse=True)
    return Frame(*(axis + np.float32(bend_mm) * smooth_noise(rng, _SHAPE, 45.0) for axis in straight))


def _draw_body(rng: np.random.Generator, frame: Frame) -> dict[str, np.ndarray]:
    """Outline, muscle compartment (within the subcutaneous fat) and the fat-filled spaces inside it."""
    width, depth = rng.uniform(160, 174), rng.uniform(98, 112)
    middle = rng.uniform(2, 8)
    fat_side, fat_front, fat_back = rng.uniform(12, 24), rng.uniform(14, 26), rng.uniform(12, 22)
    body = ellipsoid(frame, (0, middle, -15), (width, depth, 420), rng.uniform(2.3, 2.6))
    body = without(body, ellipsoid(frame, (0, middle + depth + 6, -70), (7, 26, 85)))  # natal cleft
    muscle = ellipsoid(
        frame,
        (0, middle + (fat_front - fat_back) / 2, -15),
        (width - fat_side, depth - (fat_front + fat_back) / 2, 420),
        2.4,
    )
    abdomen = common(ellipsoid(frame, (0, -8, 125), (98, 78, 85), 2.4), muscle + 9)
    pelvis = ellipsoid(frame, (0, 6, 55), (62, 66, 90), 2.4)
    mons = ellipsoid(frame, (0, -88, -12), (34, 34, 48))
    fossae = [ellipsoid(frame, (side * 30, 58, -42), (20, 26, 36)) for side in (1, -1)]  # ischioanal
    cleft = ellipsoid(frame, (0, 100, -20), (22, 34, 80))
    return {"Body": body, "Muscle": muscle, "Cavity": union(abdomen, pelvis), "FatSpace": union(mons, cleft, *fossae)}


def _draw_skeleton(rng: np.random.Generator, frame: Frame) -> dict[str, np.ndarray]:
    """Femora, hip bones, sacrum and coccyx, with the muscles and vessels that hang on the same landmarks."""
    size = rng.uniform(0.95, 1.05)
    shift = rng.normal(0, (1.5, 2.5, 4.0))
    fields: dict[str, np.ndarray] = {}
    hips, obturators, vessels = [], [], []
    for side, label in ((1, "L"), (-1, "R")):
        own = Frame(side * (frame.x - shift[0]) / size, (frame.y - shift[1]) / size, (frame.z - shift[2]) / size)
        head = ellipsoid(own, _HEAD, (_HEAD_RADIUS,) * 3)
        femur = union(head, _rods(own, _FEMUR))
        fields[f"FemurBone_{label}"] = femur
        fields[f"Femur_{label}"] = common(femur, shift[2] + size * _FEMUR_END_Z - _slice_z())
        # The socket covers the head from above, behind and medially; it opens sideways, downwards and forwards.
        opening = 0.75 * (own.x - _HEAD[0]) - 0.2 * (own.y - _HEAD[1]) - 0.63 * (own.z - _HEAD[2]) - 6.0
        socket = common(ellipsoid(own, _HEAD, (_HEAD_RADIUS + 13,) * 3), opening)
        # The wing is a plate; its own axes run across it, along it (forwards and sideways) and up.
        across = 0.86 * (own.x - 86) + 0.5 * (own.y - 6) - 0.25 * (own.z - 90)
        plate = Frame(across, -0.5 * (own.x - 86) + 0.86 * (own.y - 6), own.z - 100)
        wing = ellipsoid(plate, (0, 0, 0), (8, 60, 66), 2.6)
        hips.append(without(union(socket, wing, _rods(own, _HIP_BONE)), femur, gap_mm=_JOINT_SPACE_MM))
        obturators.append(ellipsoid(own, (53, 6, -4), (9, 34, 44)))
        vessels.append(_rods(own, _VESSELS))
    axial = Frame(frame.x - shift[0], frame.y - shift[1] - rng.uniform(-2, 5), frame.z - shift[2])
    sacrum = union(
        ellipsoid(axial, (0, 80, 64), (30, 9, 17)),
        ellipsoid(axial, (0, 85, 92), (44, 13, 26)),
        ellipsoid(axial, (0, 76, 128), (56, 20, 32)),
        capsule(axial, (0, 77, 52), (0, 66, 22), 8, 5),  # coccyx
    )
    levator = np.abs(ellipsoid(axial, (0, 16, 22), (49, 46, 60))) - 1.6  # of this shell the lower back part
    return fields | {
        "PelvicBone": union(*hips, sacrum),
        "PelvicFloor": union(*obturators, common(levator, axial.z - 6, -8 - axial.y)),
        "Vessels": union(*vessels),
        # A full bladder stays behind this plane: it rises over the symphysis instead of squeezing past it.
        "Inlet": -0.8 * (axial.y + 30) - 0.6 * (axial.z - 12),
    }


def _draw_organs(rng: np.random.Generator, frame: Frame, fields: dict[str, np.ndarray]) -> np.ndarray:
    """Prostate, seminal vesicles, rectum and bladder, each leaving room for those before it; returns the rectal height."""
    bones = union(fields["PelvicBone"], fields["Femur_L"], fields["Femur_R"])
    prostate_cc = rng.uniform(27, 68)
    mean_radius = _radius_mm(prostate_cc)
    wide, deep, tall = mean_radius * rng.normal((1.15, 0.86, 1.0), 0.04)
    back = 0.85 * deep  # the posterior surface is flatter
    lumps = smooth_noise(rng, _SHAPE, 16.0)
    prostate = ellipsoid(frame, (0, 0, 0), (wide, np.where(frame.y > 0, back, 1.12 * deep), tall), 2.3)
    prostate = grow_to(prostate + 0.8 * lumps, prostate_cc)

    vesicles = []
    for side in (1, -1):
        root = (side * 4, 0.45 * back, 0.78 * tall)
        tip = (side * rng.uniform(23, 31), back + rng.uniform(-1, 4), 0.85 * tall + rng.uniform(8, 17))
        vesicles.append(capsule(frame, root, tip, rng.uniform(6.0, 7.2), rng.uniform(4.5, 6.0)))
    vesicle = without(union(*vesicles) + 0.8 * lumps, prostate)

    rectum, height = _draw_rectum(rng, frame, back, tall, union(prostate, vesicle), bones)

    bladder_cc = rng.uniform(9.0, 19.0) ** 2  # 81 to 361 cc, the smaller the likelier
    radii = (_radius_mm(bladder_cc) * rng.normal((1.1, 0.93, 0.98), 0.05)).tolist()
    x, y, z = rng.uniform(-5, 5), back - rng.uniform(1, 6) - radii[1], 0.75 * tall + radii[2]
    dome = rng.uniform(2.1, 2.6)
    folds = 1.5 * smooth_noise(rng, _SHAPE, 40.0)
    bounds = common(fields["Cavity"] + 4, fields["Inlet"], 4 - bones, 1.5 - rectum["Tube"])
    room = (union(prostate, vesicle) > 0) & (bounds < 0)
    reach = union(prostate, vesicle) < TARGET_REACH_MM
    # How low the bladder sits on the prostate is solved for as the rectum's pressure is.
    sunk = (ellipsoid(frame, (x, y, z - drop), radii, dome) + folds for drop in np.linspace(0, 0.6 * tall, 7))
    _, bladder = _settle(sunk, bladder_cc, room, reach, rng.uniform(8, 16) / bladder_cc)
    bladder = ndimage.gaussian_filter(common(bladder, bounds), 1.2)  # its wall is too taut for corners
    bladder = without(bladder, prostate, vesicle, rectum["Tube"], bones)

    fields |= {"Prostate": prostate, "SeminalVesicles": vesicle, "Bladder": bladder, **rectum}
    fields["Bulb"] = ellipsoid(frame, (0, 4, -tall - 17), (9, 11, 9))
    return height


def _draw_rectum(
    rng: np.random.Generator, frame: Frame, back: float, tall: float, front: np.ndarray, bones: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The bowel tube from the anal canal to the sigmoid colon, and the rectum, a stretch of it.

    How hard the tube presses on prostate and vesicles (``front``) is solved for, so that a drawn share of the rectum
    lies within the reach of the targets; the pressed wall takes the shape of what it lies on.
    """
    volume_cc, share = rng.uniform(45, 102), rng.uniform(0.065, 0.135)
    low, high = -tall - rng.uniform(10, 16), tall + rng.uniform(40, 56)
    slice_z = _slice_z()
    knots_z = (-110, low - 6, -0.75 * tall, 0, 0.8 * tall, tall + 26, high, high + 40, 200)
    wall_y = back + np.array((24, 13, -0.22 * back, 0, -1, 7, 21, 10, -5))
    sway = rng.normal(0, 1, 9) * (0, 1, 1, 1.5, 3, 5, 6, 14, 14)
    width = np.array((0.6, 0.6, 0.85, 1.05, 1.12, 1.0, 0.8, 0.75, 0.75)) * rng.normal(1, 0.06, 9)
    radius = math.sqrt(volume_cc * 1000 / (0.9 * math.pi * _RECTUM_ASPECT * (high - low)))

    def along(values: np.ndarray) -> np.ndarray:
        table_z = np.arange(-110.0, 200.0, 2.0)
        return np.interp(frame.z, table_z, PchipInterpolator(knots_z, values)(table_z)).astype(np.float32)

    half_depth, wall = radius * along(width), along(wall_y)
    sideways = (frame.x - along(sway)) / _RECTUM_ASPECT
    room = (front > 0) & (bones > 1) & (slice_z > low) & (slice_z < high)
    reach = front < TARGET_REACH_MM

    def offset(press_mm: float) -> np.ndarray:
        return frame.y - (wall - press_mm + half_depth)

    presses_mm = np.arange(0.0, 9.0)
    pressed = (np.hypot(sideways, offset(press)) - half_depth for press in presses_mm)
    index, tube = _settle(pressed, volume_cc, room, reach, share)
    tube = without(tube, front, bones)
    fields = {
        "Tube": tube,
        "Lumen": common(tube + 4.0, low - slice_z),  # the anal canal is closed
        "Rectum": common(tube, low - slice_z, slice_z - high),
        "Sigmoid": common(tube, high - slice_z),
    }
    return fields, offset(presses_mm[index]) / half_depth


def _settle(
    shapes: Iterable[np.ndarray], volume_cc: float, room: np.ndarray, reach: np.ndarray, share: float
) -> tuple[int, np.ndarray]:
    """Of the shapes, each grown to its volume in the room there is, the one whose share within reach is nearest."""
    best_index, best_shape, best_error = 0, np.empty(0), math.inf
    for index, shape in enumerate(shapes):
        grown = grow_to(shape, volume_cc, room)
        inside = (grown < 0) & room
        error = abs(np.count_nonzero(inside & reach) / np.count_nonzero(inside) - share)
        if error < best_error:
            best_index, best_shape, best_error = index, grown, error
    return best_index, best_shape


def _draw_bowel(rng: np.random.Generator, frame: Frame, fields: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Loops above bladder and vesicles, as the cells around scattered points; returns wall distance and loop number."""
    top_z = frame.z[fields["SeminalVesicles"] < 0].max()
    bladder_z = frame.z[fields["Bladder"] < 0]
    floor = max(top_z + rng.uniform(8, 16), bladder_z.max() - 0.35 * (bladder_z.max() - bladder_z.min()))
    knots = np.meshgrid(*(np.arange(*ends, _LOOP_SPACING_MM) for ends in ((-110, 111), (-95, 80), (15, 160))), indexing="ij")
    points = np.stack(knots, axis=-1).reshape(-1, 3)
    points += rng.uniform(-9, 9, points.shape)
    bones = union(fields["PelvicBone"], fields["Femur_L"], fields["Femur_R"])
    others = [fields[name] for name in ("Prostate", "SeminalVesicles", "Rectum", "Bladder")]
    region = without(common(fields["Cavity"] + 5, floor - frame.z), bones, *others, gap_mm=3.0)
    near = region < SPACING_MM
    distances, nearest = cKDTree(points).query(np.stack([frame.x[near], frame.y[near], frame.z[near]], -1), k=2)
    wall = np.zeros(_SHAPE, np.float32)
    loop = np.zeros(_SHAPE, np.int32)
    wall[near], loop[near] = (distances[:, 1] - distances[:, 0]) / 2, nearest[:, 0]
    bowel = region.copy()
    bowel[near] = np.maximum(region[near], distances[:, 0] - _LOOP_RADIUS_MM)
    fields["Bowel"] = without(union(bowel, fields["Sigmoid"]), bones, *others)
    return wall, loop


def _radius_mm(volume_cc: float) -> float:
    """Radius of the ball of that volume."""
    return (volume_cc * 1000 * 3 / (4 * math.pi)) ** (1 / 3)
