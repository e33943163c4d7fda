"""Dose-volume histograms of a predicted and a reference dose, with the protocol's goals."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from monai_vmat.errors import InputError
from monai_vmat.metrics.dvh_curve import cumulative_dvh
from monai_vmat.protocol import Goal, Protocol
from monai_vmat.reports.planes import NOTE, OTHER_COLOR

_LEVELS = 500
_PERCENT_AT_DOSE = re.compile(r"V(\d+(?:\.\d+)?)Gy")
_DOSE_AT_PERCENT = re.compile(r"D(\d+(?:\.\d+)?)")
_EDGE = [Stroke(linewidth=2.2, foreground="#555555"), Normal()]  # light colours must stand out from the paper


def dvh_figure(structures: Mapping[str, tuple[np.ndarray, np.ndarray]], protocol: Protocol, *, title: str = "") -> Figure:
    """Draw the cumulative dose-volume histograms of structures, predicted (solid) and reference (dashed).

    The protocol's goals for these structures are triangles that point to the side where a curve may pass: down or left of
    an upper limit, right of a lower one. Only goals that are a point of the diagram are marked: Vx in % and Dx in Gy with x
    in %; mean and maximum doses and volumes in cc are not.

    Args:
        structures: predicted and reference dose of a structure's voxels in Gy, any shape, at least one voxel, by name.
        protocol: gives colours and goals; names it does not know are white with an edge.
        title: written above.

    Returns:
        a figure on an Agg canvas, to be saved with ``savefig``. pyplot has no part in it, so nothing needs closing.

    Raises:
        InputError: when a structure's two doses are not of the same voxels, or of none.
    """
    for name, (predicted, reference) in structures.items():
        if predicted.shape != reference.shape or not predicted.size:
            problem = f"expected the doses of the same voxels, got {predicted.size} predicted and {reference.size} reference"
            raise InputError(f"DVH of '{name}'", problem, "Take both from one grid with one mask; leave absent structures out")
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    known = {s.name: s.color for s in protocol.structures}
    marked = [(goal, point) for goal in protocol.goals if goal.structure in structures and (point := _point(goal))]
    greatest = [float(dose.max()) for doses in structures.values() for dose in doses]
    top_gy = 1.05 * max([*greatest, *(dose_gy for _, (dose_gy, _) in marked), 1.0])
    levels_gy = np.linspace(0.0, top_gy, _LEVELS)
    keys = []
    for name, (predicted, reference) in structures.items():
        color = known.get(name, OTHER_COLOR)
        for dose, style in ((reference, "--"), (predicted, "-")):
            ax.plot(levels_gy, cumulative_dvh(dose, levels_gy), style, color=color, linewidth=1.5, path_effects=_EDGE)
        keys.append(Line2D([], [], color=color, linewidth=2, label=name, path_effects=_EDGE))
    for number, (goal, point) in enumerate(marked):
        side = ">" if goal.op == ">=" else "v" if goal.unit == "%" else "<"
        covered_by = sum(other == point for _, other in marked[number + 1 :])
        mark = Line2D([point[0]], [point[1]], color=known[goal.structure], marker=side, markersize=7 + 5 * covered_by)
        mark.set(markeredgecolor="black", zorder=3, clip_on=False)
        ax.add_line(mark)
    keys.append(Line2D([], [], color="black", linestyle="-", label="predicted"))
    keys.append(Line2D([], [], color="black", linestyle="--", label="reference"))
    if marked:
        keys.append(Line2D([], [], color="white", marker="v", markeredgecolor="black", linestyle="", label="goal: this way"))
    figure.legend(handles=keys, loc="outside right upper", fontsize=8)
    ax.set(xlim=(0.0, top_gy), ylim=(0.0, 101.0), xlabel="Dose [Gy]", ylabel="Volume [%]")
    ax.grid(color="#DDDDDD")
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(NOTE, fontsize=7)
    return figure


def _point(goal: Goal) -> tuple[float, float] | None:
    """Where a goal lies in the diagram, (Gy, %); None when it is no point of it."""
    volume, dose = _PERCENT_AT_DOSE.fullmatch(goal.metric), _DOSE_AT_PERCENT.fullmatch(goal.metric)
    if volume and goal.unit == "%":
        return float(volume[1]), goal.limit
    return (goal.limit, float(dose[1])) if dose else None
