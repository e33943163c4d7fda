"""Three planes through a case: CT with contours, doses, the difference of two doses, and their gamma map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monai_vmat.errors import InputError
from monai_vmat.protocol import Protocol

NOTE = "Research only, not for clinical use"

CT_WINDOW_HU = (-200.0, 300.0)
_OUTSIDE_HU = -400.0
_MARGIN_MM = 15.0
SHOWN_FROM = 0.05  # of the greatest dose: below it the CT shows through alone
_WASH_ALPHA = 0.6
LEAST_DIFFERENCE_GY = 1.0  # least end of the difference scale, so that rounding does not look like a finding
OTHER_COLOR = "#FFFFFF"  # of structures that the protocol does not know
_GAMMA_END = 2.0
# Blues pass and reds fail, with a step in hue and in lightness at 1, for eyes that tell no red from green as well.
GAMMA_COLORS = LinearSegmentedColormap.from_list(
    "gamma", [(0.0, "#CDE7FA"), (0.5, "#2B6CB0"), (0.5, "#FFD25A"), (1.0, "#B2001E")]
)
_PANEL_IN, _GAP_IN, _TOP_IN, _BAR_IN, _KEY_ROW_IN, _KEY_COLUMN_IN = 3.1, 0.12, 0.55, 0.1, 0.18, 1.5


@dataclass(frozen=True)
class _Plane:
    """How a slice lies on paper: axis ``fixed`` is cut, ``across`` runs to the right, ``along`` upwards or downwards."""

    fixed: int
    across: int
    along: int
    upwards: bool
    letters: str  # of the left, right, top and bottom edge

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """The slice of (X, Y, Z) as (along, across)."""
        return volume.take(index, self.fixed).T


# As radiologists hang them: the patient's left is on the right-hand side, anterior or superior on top.
_AXIAL = _Plane(fixed=2, across=0, along=1, upwards=False, letters="RLAP")
_CORONAL = _Plane(fixed=1, across=0, along=2, upwards=True, letters="RLSI")
_SAGITTAL = _Plane(fixed=0, across=1, along=2, upwards=True, letters="APSI")
_PLANES = (_AXIAL, _CORONAL, _SAGITTAL)


@dataclass(frozen=True)
class _Scene:
    """What all panels share: CT and structures, where they are cut, and what part is shown, (axis, [from, to]) in mm."""

    ct_hu: np.ndarray
    masks: Mapping[str, np.ndarray]
    colors: Mapping[str, str]
    center: tuple[int, ...]
    spacing_mm: np.ndarray
    box_mm: np.ndarray


@dataclass(frozen=True)
class _Panel:
    """A column: what is drawn over the CT (None for the CT alone), in what colours and on what scale."""

    label: str
    overlay: np.ndarray | None
    colors: str | Colormap
    scale: Normalize
    scale_label: str
    hidden_below: float = 0.0
    extend: str = "neither"


def three_planes(
    ct_hu: np.ndarray,
    masks: Mapping[str, np.ndarray],
    doses: Mapping[str, np.ndarray],
    protocol: Protocol,
    spacing_mm: Sequence[float],
    *,
    center: Sequence[int] | None = None,
    title: str = "",
    gamma: np.ndarray | None = None,
    gamma_label: str = "Gamma",
) -> Figure:
    """Draw the axial, coronal and sagittal plane (rows) of a case: CT, each dose, two doses' difference, gamma (columns).

    Args:
        ct_hu: (X, Y, Z) in Hounsfield units; indices grow towards left, posterior, superior, as in ``Case``.
        masks: bool (X, Y, Z) by structure; contours take the protocol's colours, names it does not know are white.
        doses: (X, Y, Z) in Gy by label, drawn on one scale. Of exactly two the difference, second minus first, is drawn.
        protocol: gives the colours and the primary target.
        spacing_mm: voxel size along X, Y, Z.
        center: voxel that the planes pass through; by default the primary target's centroid, else the volume's middle.
        title: written above.
        gamma: (X, Y, Z), NaN where not evaluated: nothing is drawn there. The colours change hue at 1.
        gamma_label: says below its colour bar by what criteria.

    Returns:
        a figure on an Agg canvas, to be saved with ``savefig``. pyplot has no part in it, so nothing needs closing.

    Raises:
        InputError: when an array is not on the CT's grid, or the centre is outside it.
    """
    shape = ct_hu.shape
    gammas = {} if gamma is None else {"gamma": gamma}
    for name, volume in (*masks.items(), *doses.items(), *gammas.items()):
        if volume.shape != shape:
            problem = f"expected the CT's grid {shape}, got {volume.shape}"
            raise InputError(f"picture of '{name}'", problem, "Resample it onto the CT's grid")
    center = default_center(shape, masks, protocol) if center is None else tuple(int(c) for c in center)
    if len(center) != 3 or not all(0 <= c < n for c, n in zip(center, shape, strict=True)):
        raise InputError("picture's centre", f"expected a voxel of the grid {shape}, got {center}", "Correct it")

    drawn = {name: mask for name, mask in masks.items() if mask.any()}
    known = {s.name: s.color for s in protocol.structures}
    spacing = np.asarray(spacing_mm, np.float64)
    box = _field_of_view_mm(ct_hu, drawn, doses, spacing)
    scene = _Scene(ct_hu, drawn, {name: known.get(name, OTHER_COLOR) for name in drawn}, center, spacing, box)
    panels = _panels(doses)
    for label, overlay in gammas.items():
        panels.append(_Panel(label, overlay, GAMMA_COLORS, Normalize(0.0, _GAMMA_END), gamma_label, extend="max"))
    figure, axes, bars = _frame(scene, len(panels), title)
    for column, panel in enumerate(panels):
        axes[0, column].set_title(panel.label, fontsize=9)
        for row, plane in enumerate(_PLANES):
            _draw(axes[row, column], scene, panel, plane)
        mappable = ScalarMappable(panel.scale, panel.colors)
        figure.colorbar(mappable, bars[column], orientation="horizontal", extend=panel.extend)
        bars[column].set_xlabel(panel.scale_label, fontsize=7)
        bars[column].tick_params(labelsize=7)
    return figure


def default_center(shape: tuple[int, ...], masks: Mapping[str, np.ndarray], protocol: Protocol) -> tuple[int, ...]:
    """The voxel at the primary target's centroid, else in the middle."""
    primary = masks.get(protocol.primary)
    if primary is None or not primary.any():
        return tuple(n // 2 for n in shape)
    return tuple(round(float(indices.mean())) for indices in np.nonzero(primary))


def difference_limit(irradiated_gy: np.ndarray) -> float:
    """The end of the scale for differences of two doses where there is dose: few voxels must not hide all others."""
    return max(LEAST_DIFFERENCE_GY, float(np.percentile(np.abs(irradiated_gy), 99.0)) if irradiated_gy.size else 0.0)


def _panels(doses: Mapping[str, np.ndarray]) -> list[_Panel]:
    top = max((float(dose.max()) for dose in doses.values()), default=0.0) or 1.0
    low = SHOWN_FROM * top
    panels = [_Panel("CT", None, "gray", Normalize(*CT_WINDOW_HU), "CT number [HU]", extend="both")]
    for label, dose in doses.items():
        panels.append(_Panel(label, dose, "viridis", Normalize(0.0, top), "Dose [Gy]", hidden_below=low))
    if len(doses) == 2:
        (first, a), (second, b) = doses.items()
        difference = np.subtract(b, a, dtype=np.float32)
        irradiated = difference[(a > low) | (b > low)]
        limit = difference_limit(irradiated)
        scale = Normalize(-limit, limit)
        label = f"{second} \N{MINUS SIGN} {first}"
        panels.append(_Panel(label, difference, "RdBu_r", scale, "Difference [Gy]", hidden_below=0.05 * limit, extend="both"))
    return panels


def _field_of_view_mm(
    ct_hu: np.ndarray, masks: Mapping[str, np.ndarray], doses: Mapping[str, np.ndarray], spacing: np.ndarray
) -> np.ndarray:
    """The box, (axis, [from, to]), around all that is denser than air, drawn or irradiated, with a margin."""
    volumes = [ct_hu > _OUTSIDE_HU, *masks.values()]
    volumes += [dose > SHOWN_FROM * max(float(dose.max()), 0.0) for dose in doses.values()]
    box = []
    for axis, (size, count) in enumerate(zip(spacing, ct_hu.shape, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero(np.logical_or.reduce([volume.any(others) for volume in volumes]))
        first, last = (used[0], used[-1]) if used.size else (0, count - 1)
        low, high = (first - 0.5) * size - _MARGIN_MM, (last + 0.5) * size + _MARGIN_MM
        box.append((max(-0.5 * size, low), min((count - 0.5) * size, high)))
    return np.asarray(box)


def _frame(scene: _Scene, columns: int, title: str) -> tuple[Figure, np.ndarray, np.ndarray]:
    """A figure with title, key and note; axes (planes, panels) in the patient's proportions; a colour bar's axes per panel."""
    x, y, z = scene.box_mm[:, 1] - scene.box_mm[:, 0]
    heights = [*(np.array([y, z, z]) * _PANEL_IN / max(x, y)), _BAR_IN]
    width = columns * (_PANEL_IN + _GAP_IN) + _GAP_IN
    key_columns = int(width / _KEY_COLUMN_IN)
    bottom = 0.65 + _KEY_ROW_IN * math.ceil(len(scene.masks) / key_columns)
    height = _TOP_IN + sum(heights) + 3 * _GAP_IN + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(heights),
        columns,
        height_ratios=heights,
        left=_GAP_IN / width,
        right=1 - _GAP_IN / width,
        bottom=bottom / height,
        top=1 - _TOP_IN / height,
        wspace=_GAP_IN / _PANEL_IN,
        hspace=_GAP_IN / (sum(heights) / len(heights)),
    )
    figure.suptitle(title, fontsize=10, y=1 - 0.08 / height, va="top")
    keys = [Line2D([], [], color=scene.colors[name], linewidth=2, label=name) for name in scene.masks]
    if keys:
        place = (0.5, 0.16 / height)
        legend = figure.legend(handles=keys, loc="lower center", bbox_to_anchor=place, ncols=key_columns, fontsize=7)
        legend.get_frame().set_facecolor("#CCCCCC")
    figure.text(0.5, 0.05 / height, NOTE, fontsize=7, ha="center", va="bottom")
    axes = [[figure.add_subplot(grid[row, column]) for column in range(columns)] for row in range(len(heights))]
    return figure, np.array(axes[:-1]), np.array(axes[-1])


def _draw(ax: Axes, scene: _Scene, panel: _Panel, plane: _Plane) -> None:
    """One plane of one panel, in mm, with contours and the letters of its edges."""
    index = scene.center[plane.fixed]
    ends = []  # of the voxels that are first and last across and along
    for axis in (plane.across, plane.along):
        ends += [-0.5 * scene.spacing_mm[axis], (scene.ct_hu.shape[axis] - 0.5) * scene.spacing_mm[axis]]
    look: dict[str, Any] = {"origin": "lower", "extent": ends, "aspect": "equal", "interpolation": "nearest"}
    ax.imshow(plane.cut(scene.ct_hu, index), cmap="gray", norm=Normalize(*CT_WINDOW_HU), **look)
    if panel.overlay is not None:
        overlay = plane.cut(panel.overlay, index)
        overlay = np.ma.masked_where(np.abs(overlay) < panel.hidden_below, overlay)
        ax.imshow(overlay, cmap=panel.colors, norm=panel.scale, alpha=_WASH_ALPHA, **look)
    for name, mask in scene.masks.items():
        outline = plane.cut(mask, index)
        if outline.any() and not outline.all():
            across, along = (np.arange(scene.ct_hu.shape[a]) * scene.spacing_mm[a] for a in (plane.across, plane.along))
            ax.contour(across, along, outline, levels=[0.5], colors=[scene.colors[name]], linewidths=1.0)
    ax.set_xlim(*scene.box_mm[plane.across])
    ax.set_ylim(*scene.box_mm[plane.along][:: 1 if plane.upwards else -1])
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_facecolor("black")
    shade = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1}
    for letter, place in zip(plane.letters, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.95), (0.5, 0.05)), strict=True):
        ax.text(*place, letter, color="white", fontsize=8, ha="center", va="center", transform=ax.transAxes, bbox=shade)
