"""How TensorBoard's Custom Scalars tab groups a run's scalars."""

from __future__ import annotations

import re
from collections.abc import Collection

from monai_vmat.dashboard.values import goal_name
from monai_vmat.masks import BODY
from monai_vmat.metrics.case_metrics import TARGET_RIM_MM
from monai_vmat.protocol import Protocol


def custom_layout(tags: Collection[str], protocol: Protocol) -> dict[str, dict[str, list]]:
    """Categories of charts, as ``SummaryWriter.add_custom_scalars`` takes them.

    Charts name scalars by regular expressions, and those of the losses hold for every experiment: TensorBoard merges the
    layouts of all runs, and shows a chart twice where they differ. An expression that matches no tag is left out.

    Args:
        tags: the scalars that the run has.
        protocol: gives targets, organs and goals.
    """
    targets, others = ([s.name for s in protocol.structures if (s.role == "target") == wanted] for wanted in (True, False))
    charts = {
        "Loss": {
            "Loss": _only("train/loss", "val/loss"),
            "Terms, as they add to the loss": ["^train/.+_weighted$"],
            "Learned weights of the terms": ["^train/.+_weight$"],
            "Learning rate": _only("lr"),
        },
        "Dose error": {
            "MAE [Gy]": _only("val/mae_gy", "val/mae_body_gy"),
            "MAE in targets [Gy]": _only(*(f"val/mae_{name}_gy" for name in targets)),
            "MAE in other structures [Gy]": _only(*(f"val/mae_{name}_gy" for name in others)),
            "OpenKBP scores [Gy]": _only("val/openkbp_dose_score_gy", "val/openkbp_dvh_score_gy"),
        },
        "Targets": {
            f"{name} D95 [Gy]": _only(*(f"dvh/{name}_D95/{which}" for which in ("predicted", "reference"))) for name in targets
        },
        "Organs against limits": {},
        "Gamma": {
            "Whole volume and body [%]": _only("gamma/whole_volume", f"gamma/{BODY}"),
            "Targets and their penumbra [%]": _only(*(f"gamma/{name}+{TARGET_RIM_MM:g}mm" for name in targets)),
            "Organs [%]": _only(*(f"gamma/{organ.name}" for organ in protocol.organs)),
        },
    }
    for goal in protocol.goals:
        category = charts["Targets" if goal.structure in targets else "Organs against limits"]
        category.pop(f"{goal.structure} {goal.metric} [{goal.unit}]", None)  # a goal's chart has its limit, too
        tag = f"goals/{goal_name(goal, protocol)}"
        category[f"{goal.structure} {goal.metric} {goal.op} {goal.limit:g} {goal.unit}"] = _only(
            *(f"{tag}/{which}" for which in ("predicted", "reference", "limit"))
        )
    layout: dict[str, dict[str, list]] = {}
    for group, content in charts.items():
        for title, expressions in content.items():
            known = [e for e in expressions if any(re.match(e, tag) for tag in tags)]
            if known:
                layout.setdefault(group, {})[title] = ["Multiline", known]
    return layout


def _only(*tags: str) -> list[str]:
    """Expressions that match these tags and no others."""
    return [f"^{re.escape(tag)}$" for tag in tags]
