"""An evaluation as one HTML page that needs nothing but a browser: no network, no files beside it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from string import Template
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from monai_vmat.metrics.dvh_curve import cumulative_dvh
from monai_vmat.reports import evaluation_tables as tables
from monai_vmat.reports.evaluation import CaseVolumes, Evaluation
from monai_vmat.reports.planes import CT_WINDOW_HU, GAMMA_COLORS, SHOWN_FROM
from monai_vmat.reports.volume_pack import CT_STEP_HU, GAMMA_STEPS, pack_case

WARNING = "Research software, not a medical device: not for clinical use."
DVH_STEP_GY = 0.5
_COLOURS = {
    "dose": colormaps["viridis"],
    "difference": colormaps["RdBu_r"],
    "gamma": GAMMA_COLORS,
}
_LAYERS = {
    "ct": "CT",
    "reference": "reference dose",
    "prediction": "predicted dose",
    "difference": "difference",
    "gamma": "gamma",
}
_PLANES = ("axial", "coronal", "sagittal")
_STRANGE = "\N{BALLOT X} far outside what the training's cases were like"
_UNKNOWN = "\N{EN DASH}"
_PAGE_CONVENTIONS = {
    "images": "as radiologists hang them: the patient's left is on the right-hand side, anterior or superior on top; one "
    "scale in mm for all planes, voxels as they are; shown is the region with a structure or more than "
    f"{100 * SHOWN_FROM:g} % of the greatest dose",
    "values in images": f"CT in steps of {CT_STEP_HU:g} HU from {CT_WINDOW_HU[0]:g} to {CT_WINDOW_HU[1]:g} HU; gamma in "
    f"steps of {1 / GAMMA_STEPS:g}, pass or fail exact; doses in the steps stated for each case; tables and DVH are exact",
    "DVH": f"cumulative, exact for the structure's voxels, read every {DVH_STEP_GY:g} Gy",
}


@dataclass(frozen=True)
class EmbeddedCase:
    """What the page carries of a case besides its numbers.

    Args:
        scan: as :func:`monai_vmat.reports.volume_pack.pack_case` gives it.
        dvh: as :func:`dvh_curves` gives it.
        gamma_convention: what its gamma map means.
    """

    scan: Mapping[str, Any]
    dvh: Mapping[str, Any]
    gamma_convention: str


def embed_case(volumes: CaseVolumes, primary: str) -> EmbeddedCase:
    """Pack a case for the page; ``primary`` is the structure in whose middle to begin."""
    return EmbeddedCase(pack_case(volumes, primary), dvh_curves(volumes), volumes.gamma_convention)


def dvh_curves(volumes: CaseVolumes) -> dict[str, Any]:
    """Cumulative DVH of each structure: ``step`` (Gy), and ``curves``: ``reference`` and ``predicted`` volumes in percent."""
    doses = {"reference": volumes.reference_gy, "predicted": volumes.predicted_gy}
    levels = np.arange(0.0, max(float(dose.max()) for dose in doses.values()) + 2 * DVH_STEP_GY, DVH_STEP_GY)
    curves = {
        name: {kind: np.round(cumulative_dvh(dose[mask], levels), 2).tolist() for kind, dose in doses.items()}
        for name, mask in volumes.masks.items()
    }
    return {"step": DVH_STEP_GY, "curves": curves}


def evaluation_html(
    evaluation: Evaluation,
    embedded: Mapping[str, EmbeddedCase],
    figures: Mapping[str, Figure],
    unchanged_files: int | None,
    calibration: Mapping[str, Any] | None = None,
) -> str:
    """The page.

    Args:
        evaluation: what it is about.
        embedded: cases that can be looked at, by case id.
        figures: of the training and of all cases, by caption.
        unchanged_files: how many case files are those that the training recorded; None where it recorded none.
        calibration: as :func:`monai_vmat.reports.calibration.calibration` gives it; None without standard deviations.
    """
    facts, cases, protocol = evaluation.facts, evaluation.cases, evaluation.protocol
    data = {
        "structures": [{"name": s.name, "color": s.color} for s in protocol.structures],
        "colours": {name: _color_table(colors) for name, colors in _COLOURS.items()},
        "ct_window": CT_WINDOW_HU,
        "shown_from": SHOWN_FROM,
        "cases": [
            {"case_id": id_, "scan": embedded[id_].scan, "dvh": embedded[id_].dvh} if id_ in embedded else {"case_id": id_}
            for id_ in (case["case_id"] for case in cases)
        ],
    }
    page = files("monai_vmat") / "reports" / "page"
    return Template((page / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(evaluation.title),
        subtitle=f"{len(cases)} cases. {escape(protocol.name)}: {escape(protocol.description)}.{_strangers(cases)}",
        warning=WARNING,
        css=(page / "report.css").read_text(encoding="utf-8"),
        js=(page / "report.js").read_text(encoding="utf-8"),
        cards=_cards(facts.get("aggregate_metrics", {}), protocol.targets),
        summary=html_table(tables.summary_table(facts.get("aggregate_metrics", {}))),
        goals=html_table(tables.goal_summary(cases)),
        cases=html_table(tables.case_table(cases, protocol), sorted_by=1),
        options="".join(_option(number, case["case_id"], embedded) for number, case in enumerate(cases)),
        layers="".join(
            f'<label><input type="radio" name="layer" value="{name}"{" checked" * (name == "reference")}> {label}</label>'
            for name, label in _LAYERS.items()
        ),
        structures="".join(
            f'<label><input type="checkbox" id="show-{number}" checked> '
            f'<span class="swatch" style="background:{escape(s.color)}"></span>{escape(s.name)}</label>'
            for number, s in enumerate(protocol.structures)
        ),
        planes="".join(_plane(name) for name in _PLANES),
        details="".join(_details(number, case, embedded.get(case["case_id"])) for number, case in enumerate(cases)),
        training=_training_section(figures),
        conventions=_conventions(facts.get("conventions", {})),
        record="".join(html_table(table) for table in _record_tables(evaluation, unchanged_files, calibration)),
        # A JSON text holds "<" in strings only, where this escape means the same: nothing in it can end the script element.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    )


def html_table(table: tables.Table, *, sorted_by: int | None = None) -> str:
    """A table. With ``sorted_by``, the column by which it is sorted from the greatest down, its headers are buttons to sort.

    The first column of such a table holds cases, in the order of their numbers: buttons, too.
    """
    header, rows = table
    texts = [all(isinstance(v, (str, bool, type(None))) for v in values) for values in zip(*rows, strict=True)]
    head = []
    for i, (name, text) in enumerate(zip(header, texts, strict=False)):
        order = ' aria-sort="descending"' if i == sorted_by else ""
        label = escape(name) if sorted_by is None else f'<button type="button">{escape(name)}</button>'
        head.append(f'<th scope="col"{" class=text" if text else ""}{order}>{label}</th>')
    body = []
    for number, row in enumerate(rows):
        cells = []
        for i, value in enumerate(row):
            shown = _cell(value)
            if sorted_by is not None and i == 0:
                shown = f'<button type="button" data-case="{number}">{shown}</button>'
            key = "" if sorted_by is None else f' data-value="{escape("" if value is None else str(value))}"'
            cells.append(f"<td{' class=text' if texts[i] else ''}{key}>{shown}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    lines = "\n".join(body)
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>\n{lines}\n</tbody></table>" if rows else "<p>None.</p>"


def _cell(value: object) -> str:
    """Not by colour alone: a mark and a word, too."""
    if isinstance(value, bool):
        return '<span class="met">\N{CHECK MARK} yes</span>' if value else '<span class="missed">\N{BALLOT X} no</span>'
    if isinstance(value, float):
        return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return _UNKNOWN if value is None else escape(str(value))


def _cards(aggregate: Mapping[str, float | None], targets: Sequence[Any]) -> str:
    """The few numbers that one looks for first."""
    wanted = {
        "MAE inside the body": ("mae_body_gy", "Gy"),
        "gamma pass rate 3\N{NO-BREAK SPACE}%/3\N{NO-BREAK SPACE}mm": ("gamma_pass_rate", "%"),
        **{f"|D95 gap| of {t.name}": (f"{t.name}_D95_abs_gap_gy", "Gy") for t in targets},
        "goals with the same verdict": ("goal_agreement_percent", "%"),
        "OpenKBP dose score": ("openkbp_dose_score_gy", "Gy"),
        "OpenKBP DVH score": ("openkbp_dvh_score_gy", "Gy"),
    }
    cards = []
    for label, (name, unit) in wanted.items():
        value, spread = aggregate.get(f"{name}_mean", aggregate.get(name)), aggregate.get(f"{name}_std")
        if value is not None:
            spread_text = "" if spread is None else f" \N{PLUS-MINUS SIGN} {spread:.2f}"
            cards.append(f"<li><b>{value:.2f}{spread_text} {unit}</b><span>{escape(label)}</span></li>")
    return "".join(cards)


def _strangers(cases: Sequence[Mapping[str, Any]]) -> str:
    count = sum(bool(case.get("outside_training_range")) for case in cases)
    return f' <span class="missed">{count} of them: {_STRANGE}.</span>' if count else ""


def _option(number: int, case_id: str, embedded: Mapping[str, EmbeddedCase]) -> str:
    return f'<option value="{number}">{escape(case_id)}{"" if case_id in embedded else " (numbers only)"}</option>'


def _plane(name: str) -> str:
    return (
        f'<figure><canvas id="{name}" tabindex="0" role="img" aria-label="{name} slice; arrow keys change it"></canvas>'
        f'<label>{name} <input type="range" id="{name}-slice" min="0" step="1"></label>'
        f'<output id="{name}-number" for="{name}-slice"></output></figure>'
    )


def _details(number: int, case: Mapping[str, Any], embedded: EmbeddedCase | None) -> str:
    small, prescribed = case.get("small_structures") or [], case.get("prescription_gy") or {}
    parts = []
    if outside := case.get("outside_training_range"):
        told = "; ".join(escape(str(value)) for value in outside)
        parts.append(f'<p><span class="missed">{_STRANGE}</span>, its dose not to be trusted. {told}.</p>')
    if prescribed:
        doses = ", ".join(f"{escape(name)} {dose:g} Gy" for name, dose in prescribed.items())
        parts.append(f"<p>Prescription: {doses}.</p>")
    parts.append(f"<h3>Goals</h3><div class=scroll>{html_table(tables.goal_table(case))}</div>")
    if small:
        parts.append(f"<p>Too small for stable metrics (below 100 voxels): {escape(', '.join(small))}.</p>")
    if embedded:
        volumes = embedded.scan["volumes"]
        steps = ", ".join(f"{name} {volumes[name]['step']:.2f} Gy" for name in ("reference", "difference"))
        parts.append(
            f"<p>In the images: steps of the doses {steps}, their error at most half a step; "
            f"{escape(embedded.gamma_convention)}.</p>"
        )
    convention = case.get("gamma", {}).get("convention")
    measured = f"<p>In numbers: {escape(convention)}.</p>" if convention else ""
    found = "".join(f"<div><h3>{title}</h3>{html_table(table)}</div>" for title, table in tables.metric_tables(case))
    parts.append(f'<details><summary>All metrics of this case</summary><div class="columns">{found}</div>{measured}</details>')
    return f'<div class="case-detail" data-case="{number}" hidden>{"".join(parts)}</div>\n'


def _training_section(figures: Mapping[str, Figure]) -> str:
    pictures = "".join(f'<img alt="{escape(caption)}" src="{_picture(figure)}">' for caption, figure in figures.items())
    return f'<section id="training">\n<h2>All cases and training</h2>\n<div class="plots">{pictures}</div>\n</section>'


def _picture(figure: Figure) -> str:
    text = io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(text.getvalue()).decode()}"


def _conventions(stated: Mapping[str, str]) -> str:
    terms = "".join(
        f"<dt>{escape(t)}</dt><dd>{escape(str(meaning))}</dd>" for t, meaning in (dict(stated) | _PAGE_CONVENTIONS).items()
    )
    return f"<dl>{terms}</dl>"


def _record_tables(
    evaluation: Evaluation, unchanged_files: int | None, calibration: Mapping[str, Any] | None
) -> list[tables.Table]:
    """What made the result, without a path of the machine that made it."""
    facts, run = evaluation.facts, evaluation.run
    evaluated = {
        "experiment": facts["experiment"],
        "split": facts["split"],
        "checkpoint": facts.get("checkpoint"),
        "predictions": facts.get("predictions"),
        "commit of the evaluation": facts.get("git_commit"),
        **{f"seconds of {task}": seconds for task, seconds in facts.get("seconds", {}).items()},
        **facts.get("versions", {}),
    }
    found = [_fact_table("evaluation", evaluated)]
    if calibration:
        found.append(_fact_table("uncertainty", {k: v for k, v in calibration.items() if isinstance(v, (int, float, str))}))
    if run is None:
        return [*found, _fact_table("training", {"records": "not found: no figures of the training, no settings"})]
    config, summary = run.config, run.summary
    trained = {
        "commit": config.get("git_commit"),
        "seed": config.get("seed"),
        "parameters": config.get("parameters"),
        **{f"{section} cases": len(ids) for section, ids in config.get("cases", {}).items()},
        "epochs": summary.get("epochs"),
        "best epoch": summary.get("best_epoch"),
        "best validation MAE, Gy": summary.get("best_val_mae_gy"),
        "minutes": summary["seconds"] / 60 if "seconds" in summary else None,
        **config.get("hardware", {}),
        "data files recorded by SHA-256": len(config.get("data_sha256", {})),
        "evaluated files that are unchanged": None
        if unchanged_files is None
        else f"{unchanged_files} of {len(evaluation.cases)}",
    }
    return [*found, _fact_table("training", trained), _fact_table("setting", _settings(config.get("config", {})))]


def _fact_table(heading: str, facts: Mapping[str, object]) -> tables.Table:
    texts = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in facts.items()}
    return (heading, ""), [(name, None if text is None else str(text)) for name, text in texts.items()]


def _settings(config: Mapping[str, Any]) -> dict[str, object]:
    """The plain settings of a run's configuration: no expressions, and of absolute paths the last name only."""
    weights = config.get("loss", {}).get("weights", {}) if isinstance(config.get("loss"), dict) else {}
    settings = dict(config) | {f"loss weight of {term}": weight for term, weight in weights.items()}
    return {name: shown for name, value in settings.items() if (shown := _setting(value)) is not None}


def _setting(value: Any) -> str | None:
    if isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
        return " x ".join(map(str, value))
    if isinstance(value, (bool, int, float)):
        return str(value)
    if not isinstance(value, str) or value.startswith(("$", "@", "%")):
        return None
    paths = PurePosixPath(value), PureWindowsPath(value)
    return next((path.name for path in paths if path.is_absolute()), value)


def _color_table(colors: Any) -> str:
    table = colors((np.arange(256) + 0.5) / 256, bytes=True)[:, :3]
    return base64.b64encode(table.tobytes()).decode()
