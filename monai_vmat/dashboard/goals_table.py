"""The protocol's goals as a table: what the plans and what the predictions reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_vmat.dashboard.values import entries
from monai_vmat.protocol import Protocol


def goals_table(results: Sequence[Mapping[str, Any]], protocol: Protocol) -> str:
    """A Markdown table with a row for each goal whose structure some case has.

    Args:
        results: of :func:`~monai_vmat.metrics.case_metrics.case_metrics`, one per case.
        protocol: says which goals hold.
    """
    lines = [
        "| structure | goal | reference, mean | predicted, mean | reference meets it | predicted meets it | same verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for goal in protocol.goals:
        found = entries(results, goal, protocol)
        if found:
            reference, predicted = (np.mean([e[which] for e in found]) for which in ("reference", "predicted"))
            verdicts = [(e["reference_met"], e["predicted_met"]) for e in found]
            counts = (sum(r for r, _ in verdicts), sum(p for _, p in verdicts), sum(r == p for r, p in verdicts))
            cells = [goal.structure, f"{goal.metric} {goal.op} {goal.limit:g} {goal.unit}"]
            cells += [f"{reference:.1f} {goal.unit}", f"{predicted:.1f} {goal.unit}"]
            cells += [f"{count} of {len(found)}" for count in counts]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
