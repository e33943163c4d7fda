"""What a physicist follows over a training, as TensorBoard scalars: DVH metrics, goals and gamma, means over cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_vmat.protocol import Goal, Protocol


def plan_values(results: Sequence[Mapping[str, Any]], protocol: Protocol) -> dict[str, float]:
    """Means over the cases that have the structure.

    Args:
        results: of :func:`~monai_vmat.metrics.case_metrics.case_metrics`, one per case.
        protocol: says which goals hold.

    Returns:
        ``dvh/<structure>_<metric>/predicted`` and ``/reference`` in Gy; ``goals/<structure>_<metric>/predicted``,
        ``/reference`` and ``/limit`` in the goal's unit; ``gamma/whole_volume`` and ``gamma/<region>`` in percent.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for structure, metrics in result["dvh"].items():
            for metric, values in metrics.items():
                for which in ("predicted", "reference"):
                    found[f"dvh/{structure}_{metric}/{which}"].append(values[which])
        rates = {"whole_volume": result["gamma"]["gamma_pass_rate"], **result["gamma"]["regions"]}
        for region, rate in rates.items():
            if rate is not None:
                found[f"gamma/{region}"].append(rate)
    for goal in protocol.goals:
        for entry in entries(results, goal, protocol):
            for which in ("predicted", "reference", "limit"):
                found[f"goals/{goal_name(goal, protocol)}/{which}"].append(entry[which])
    return {tag: float(np.mean(values)) for tag, values in found.items()}


def entries(results: Sequence[Mapping[str, Any]], goal: Goal, protocol: Protocol) -> list[Mapping[str, Any]]:
    """What the cases say of a goal, each with the limit of its own plan; cases without its structure say nothing."""

    def kind(found: Mapping[str, Any]) -> list[Any]:
        return [found[field] for field in ("structure", "metric", "op", "unit")]

    number = [g for g in protocol.goals if kind(vars(g)) == kind(vars(goal))].index(goal)
    alike = [[entry for entry in result["goals"] if kind(entry) == kind(vars(goal))] for result in results]
    return [found[number] for found in alike if found]


def goal_name(goal: Goal, protocol: Protocol) -> str:
    """``<structure>_<metric>``; a number distinguishes goals for one metric (at least and at most, in % and in cc)."""
    alike = [g for g in protocol.goals if (g.structure, g.metric) == (goal.structure, goal.metric)]
    number = alike.index(goal)
    return f"{goal.structure}_{goal.metric}" + (f"_{number + 1}" if number else "")
