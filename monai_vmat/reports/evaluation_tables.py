"""Tables of an evaluation, made from whatever fields its results have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_vmat.protocol import Protocol

Table = tuple[tuple[str, ...], list[tuple[object, ...]]]
Result = Mapping[str, Any]

_ERRORS = {"mae": "MAE", "rmse": "RMSE", "mean_error": "mean error"}
_ERROR = re.compile(rf"({'|'.join(_ERRORS)})(?:_(.+))?_gy")
_ABOVE = re.compile(r"above_(\d+)_percent")
_ISODOSE = re.compile(r"isodose_dice_(\d+)_percent")
_OPERATORS = {">=": "\N{GREATER-THAN OR EQUAL TO}", "<=": "\N{LESS-THAN OR EQUAL TO}"}


def metric_label(name: str) -> str:
    """A metric's name in words, with its unit: ``mae_body_gy`` is 'MAE body, Gy'."""
    if match := _ERROR.fullmatch(name):
        where = match[2] or "whole volume"
        if above := _ABOVE.fullmatch(where):
            where = f"where dose {_OPERATORS['>=']} {above[1]} %"
        return f"{_ERRORS[match[1]]} {where}, Gy"
    if name.startswith("gamma_pass_rate"):
        return f"gamma pass rate {name.removeprefix('gamma_pass_rate').lstrip('_')}".rstrip() + ", %"
    if match := _ISODOSE.fullmatch(name):
        return f"Dice overlap of the {match[1]} % isodose"
    for ending, unit in (("_gy", ", Gy"), ("_percent", ", %")):
        if name.endswith(ending):
            return name.removesuffix(ending).replace("D95_abs_gap", "|D95 gap|").replace("_", " ") + unit
    return name.replace("_", " ")


def summary_table(aggregate: Mapping[str, float | None]) -> Table:
    """Mean and standard deviation of each metric over the cases; what is one number for all cases has no deviation."""
    names = [name for name in aggregate if not name.endswith("_std")]
    rows: list[tuple[object, ...]] = []
    for name in names:
        metric = name.removesuffix("_mean")
        rows.append((metric_label(metric), aggregate[name], aggregate.get(f"{metric}_std") if metric != name else None))
    return ("metric", "mean over cases", "standard deviation"), rows


def case_table(cases: Sequence[Result], protocol: Protocol) -> Table:
    """A row a case: errors that are not of one structure, gamma, D95 gaps of the targets, goals, OpenKBP's dose error, and
    whether the case lies in the training's range."""
    elsewhere = {f"{error}_{name}_gy" for error in _ERRORS for name in protocol.structure_names} | {"mae_body_gy"}
    names = [n for n in _keys(cases, "dose_metrics") if n not in elsewhere]
    errors = [n for n in names if not n.startswith("rmse_above")]  # the table is wide enough
    criteria = _keys([c.get("gamma", {}) for c in cases], "other_criteria")
    targets = [t.name for t in protocol.targets if any(t.name in c.get("dvh", {}) for c in cases)]
    columns: list[tuple[str, list[object]]] = [
        ("case", [c["case_id"] for c in cases]),
        *((metric_label(n), [c["dose_metrics"].get(n) for c in cases]) for n in ("mae_body_gy", *errors)),
        ("gamma 3 %/3 mm, %", [c.get("gamma", {}).get("gamma_pass_rate") for c in cases]),
        *((f"gamma {n}, %", [c.get("gamma", {}).get("other_criteria", {}).get(n) for c in cases]) for n in criteria),
        *((f"{t} D95 gap, Gy", [c.get("dvh", {}).get(t, {}).get("D95", {}).get("gap") for c in cases]) for t in targets),
        ("goals met, reference", [_count(c, "reference_met") for c in cases]),
        ("goals met, predicted", [_count(c, "predicted_met") for c in cases]),
        ("OpenKBP dose error, Gy", [c.get("openkbp", {}).get("dose_error_gy") for c in cases]),
        ("training's range", [_in_range(c) for c in cases]),
    ]
    columns = [(name, values) for name, values in columns if any(v is not None for v in values)]
    return tuple(name for name, _ in columns), [tuple(values) for values in zip(*(v for _, v in columns), strict=True)]


def goal_summary(cases: Sequence[Result]) -> Table:
    """A row a goal: in how many cases it applies, the reference and the predicted dose meet it, and both agree."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for goal in (g for case in cases for g in case.get("goals", [])):
        groups.setdefault((goal["structure"], goal_text(goal)), []).append(goal)
    rows: list[tuple[object, ...]] = []
    for (structure, text), goals in groups.items():
        reference, predicted = ([bool(g[f"{dose}_met"]) for g in goals] for dose in ("reference", "predicted"))
        agree = sum(r == p for r, p in zip(reference, predicted, strict=True))
        rows.append((structure, text, len(goals), sum(reference), sum(predicted), agree))
    return ("structure", "goal", "cases", "met by reference", "met by prediction", "same verdict"), rows


def goal_table(case: Result) -> Table:
    """The goals of one case: both values, whether they are met, and whether the prediction says what the reference says."""
    goals = case.get("goals", [])
    extra = [name for name in ("gap", "not_worse") if any(name in g for g in goals)]
    header = ("structure", "goal", "reference", "predicted", "reference met", "predicted met", "verdict")
    rows: list[tuple[object, ...]] = []
    for g in goals:
        values = (f"{g[dose]:.2f} {g['unit']}" for dose in ("reference", "predicted"))
        verdict = "same" if g["reference_met"] == g["predicted_met"] else "lost" if g["reference_met"] else "gained"
        met = (g["reference_met"], g["predicted_met"], verdict)
        rows.append((g["structure"], goal_text(g), *values, *met, *(g.get(e) for e in extra)))
    return (*header, *(e.replace("_", " ") for e in extra)), rows


def goal_text(goal: Result) -> str:
    """A goal as physicists write it: ``D95 >= 66.5 Gy``."""
    return f"{goal['metric']} {_OPERATORS.get(goal['op'], goal['op'])} {goal['limit']:g} {goal['unit']}"


def metric_tables(case: Result) -> Iterator[tuple[str, Table]]:
    """Everything else that was measured on a case, as titled tables; what its results lack is left out."""
    yield "Dose error", (("metric", "value"), [(metric_label(n), v) for n, v in case["dose_metrics"].items()])
    gamma = case.get("gamma", {})
    rates = {"3 %/3 mm": gamma.get("gamma_pass_rate")} | gamma.get("other_criteria", {})
    rates |= {f"3 %/3 mm in {region}": rate for region, rate in gamma.get("regions", {}).items()}
    yield "Gamma pass rate", (("criteria", "passed, %"), list(rates.items()))
    for title, field, unit in (("DVH", "dvh", ", Gy"), ("Plan quality", "plan_quality", "")):
        if case.get(field):
            header = ("structure", "metric", f"reference{unit}", f"predicted{unit}", f"gap{unit}")
            rows: list[tuple[object, ...]] = [
                (name, metric, v["reference"], v["predicted"], v["gap"])
                for name, metrics in case[field].items()
                for metric, v in metrics.items()
            ]
            yield title, (header, rows)
    if case.get("isodose_dice"):
        yield "Isodose overlap", (("isodose", "Dice"), [(f"{level} %", dice) for level, dice in case["isodose_dice"].items()])
    if case.get("openkbp"):
        errors = case["openkbp"]["dvh_errors_gy"]
        yield "OpenKBP DVH errors", (("metric", "predicted \N{MINUS SIGN} reference, Gy"), list(errors.items()))


def _keys(entries: Sequence[Result], field: str) -> list[str]:
    return list(dict.fromkeys(key for entry in entries for key in entry.get(field, {})))


def _in_range(case: Result) -> str | None:
    outside = case.get("outside_training_range")
    return None if outside is None else "far outside" if outside else "inside"


def _count(case: Result, field: str) -> int | None:
    return sum(bool(goal[field]) for goal in case["goals"]) if case.get("goals") else None
