"""Figures of an evaluation for papers: PNG at 300 dpi and PDF, colours for colour-blind eyes, too, units on every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_vmat.files import write_whole
from monai_vmat.protocol import Protocol
from monai_vmat.reports.evaluation import CaseVolumes
from monai_vmat.reports.planes import NOTE

DPI = 300
# Okabe and Ito's colours without yellow, which white paper swallows, and black, which axes have.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", ":", "-.")
_AXIS_NAMES = ("right to left", "anterior to posterior", "inferior to superior")  # as indices grow


def write_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write ``<path>.png`` at 300 dpi and ``<path>.pdf`` with its text as text; each whole or not at all."""
    written = []
    for kind in ("png", "pdf"):
        target = path.with_name(f"{path.name}.{kind}")
        # Type 42 keeps fonts as fonts, which journals ask for.
        with write_whole(target) as temporary, matplotlib.rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, format=kind, dpi=DPI)
        written.append(target)
    return written[0], written[1]


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, validation error and learning rate over the epochs; ``metrics`` are the rows of a ``metrics.csv``."""
    figure, (loss, error, rate) = figure_of_panels(3)
    for ax, names, label in (
        (loss, {"train/loss": "training", "val/loss": "validation"}, "Loss [dimensionless]"),
        (error, {"val/mae_gy": "whole volume", "val/mae_body_gy": "inside the body"}, "Validation MAE [Gy]"),
        (rate, {"lr": "learning rate"}, "Learning rate [dimensionless]"),
    ):
        for k, (name, text) in enumerate(names.items()):
            epochs, values = _column(metrics, name)
            if values:
                marker = "o" if len(values) < len(metrics) else ""  # measured in some epochs only
                ax.plot(epochs, values, _LINES[k], color=COLORS[k], marker=marker, markersize=3, label=text)
        _over_epochs(ax, label)
        if len(ax.lines) > 1:
            ax.legend(fontsize=7)
    if all(v > 0 for _, values in (_column(metrics, n) for n in ("train/loss", "val/loss")) for v in values):
        loss.set_yscale("log")
    return figure


def loss_components(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """What each term adds to the training loss, over the epochs."""
    figure, (ax,) = figure_of_panels(1)
    names = dict.fromkeys(n for row in metrics for n in row if n.startswith("train/") and n.endswith("_weighted"))
    shown = [(name, *_column(metrics, name)) for name in names]
    for k, (name, epochs, values) in enumerate((n, e, v) for n, e, v in shown if any(v)):
        label = name.removeprefix("train/").removesuffix("_weighted").replace("_", " ")
        ax.plot(epochs, values, _LINES[k // len(COLORS) % len(_LINES)], color=COLORS[k % len(COLORS)], label=label)
    _over_epochs(ax, "Contribution to the loss [dimensionless]")
    ax.legend(fontsize=7)
    return figure


def case_boxes(cases: Sequence[Mapping[str, Any]], protocol: Protocol) -> Figure:
    """How the cases scatter: MAE and gamma of each region, D95 gap of each target; a point a case.

    Boxes are quartiles with the median; whiskers reach to the farthest case within 1.5 times their distance.
    """
    names = ("body", *protocol.structure_names)
    errors = {n: [c["dose_metrics"].get(f"mae_{n}_gy") for c in cases] for n in names}
    regions = dict.fromkeys(r for c in cases for r in c.get("gamma", {}).get("regions", {}))
    rates: dict[str, list] = {"all voxels": [c.get("gamma", {}).get("gamma_pass_rate") for c in cases]}
    rates |= {r: [c.get("gamma", {}).get("regions", {}).get(r) for c in cases] for r in regions}
    gaps = {t.name: [c.get("dvh", {}).get(t.name, {}).get("D95", {}).get("gap") for c in cases] for t in protocol.targets}
    shown = [
        (label, known)
        for label, groups in (
            ("MAE [Gy]", errors),
            ("Gamma pass rate 3 %/3 mm [%]", rates),
            ("D95 gap, predicted \N{MINUS SIGN} reference [Gy]", gaps),
        )
        if (known := {n: kept for n, values in groups.items() if (kept := [v for v in values if v is not None])})
    ]
    rows = max(len(groups) for _, groups in shown)
    figure, panels = figure_of_panels(len(shown), height=max(2.6, 0.7 + 0.26 * rows))
    scatter = np.random.default_rng(0)  # only moves points of equal height apart
    for ax, (label, groups) in zip(panels, shown, strict=True):
        places = rows - 1 - np.arange(len(groups))
        ax.boxplot(
            list(groups.values()),
            positions=places,
            orientation="horizontal",
            tick_labels=list(groups),
            widths=0.6,
            showfliers=False,
            medianprops={"color": "#D55E00", "linewidth": 1.5},
        )
        for place, values in zip(places, groups.values(), strict=True):
            offsets = scatter.uniform(-0.15, 0.15, len(values))
            ax.plot(values, place + offsets, "o", color="#0072B2", alpha=0.5, markersize=2.5, markeredgewidth=0)
        ax.set(xlabel=label, ylim=(-0.6, rows - 0.4))
    return figure


def profile_figure(volumes: CaseVolumes, target: str, *, title: str = "") -> Figure:
    """Predicted and reference dose on three lines through the middle of a target; the target is shaded."""
    mask = volumes.masks[target]
    center = tuple(round(float(indices.mean())) for indices in np.nonzero(mask))
    figure, panels = figure_of_panels(3)
    for axis, ax in enumerate(panels):
        places_mm = (np.arange(mask.shape[axis]) - center[axis]) * volumes.spacing_mm[axis]
        inside = _line(mask, center, axis)
        half = volumes.spacing_mm[axis] / 2
        for first, last in _runs(inside):
            ax.axvspan(places_mm[first] - half, places_mm[last] + half, color="#E69F00", alpha=0.2, linewidth=0, label=target)
        ax.plot(places_mm, _line(volumes.reference_gy, center, axis), "--", color="black", label="reference")
        ax.plot(places_mm, _line(volumes.predicted_gy, center, axis), "-", color="#D55E00", label="predicted")
        ax.set(xlabel=f"{_AXIS_NAMES[axis].capitalize()} [mm]", ylabel="Dose [Gy]", ylim=(0, None))
        ax.margins(x=0)
    handles, labels = panels[0].get_legend_handles_labels()
    kept = dict(zip(labels, handles, strict=True))  # a target met several times on a line is named once
    figure.legend(kept.values(), kept.keys(), loc="outside upper right", ncols=3, fontsize=7)
    figure.suptitle(title, fontsize=9, x=0.02, ha="left")
    return figure


def figure_of_panels(count: int, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page for three panels, with that many of them side by side."""
    figure = Figure(figsize=(max(3.6, 2.6 * count), height + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for ax in panels:
        ax.grid(color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", labelsize=7)
        ax.xaxis.label.set_size(8)
        ax.yaxis.label.set_size(8)
    figure.supxlabel(NOTE, fontsize=6)
    return figure, panels


def _over_epochs(ax: Axes, label: str) -> None:
    ax.set(xlabel="Epoch", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _column(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in metrics if name in row]
    return [row["epoch"] for row in rows], [row[name] for row in rows]


def _line(volume: np.ndarray, center: Sequence[int], axis: int) -> np.ndarray:
    """The voxels on the line through ``center`` along an axis."""
    return volume[tuple(slice(None) if a == axis else c for a, c in enumerate(center))]


def _runs(inside: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
