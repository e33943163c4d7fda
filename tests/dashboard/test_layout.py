"""The charts of the Custom Scalars tab name scalars that are there, and only those they mean."""

import re

from monai_vmat.dashboard.layout import custom_layout

TRAINING = (
    "train/loss",
    "train/loss_of_another_kind",
    "train/mse",
    "train/mse_weighted",
    "train/dvh_weighted",
    "train/dvh_skipped",
    "lr",
)


def shown(layout, group, title, tags):
    """The tags that TensorBoard draws in a chart: it takes what an expression matches from the start."""
    kind, expressions = layout[group][title]
    assert kind == "Multiline"
    return [tag for tag in tags if any(re.compile(expression).match(tag) for expression in expressions)]


def tags_of(protocol):
    names = [f"{s.name}_D95" for s in protocol.targets]
    tags = [*TRAINING, "val/loss", "val/mae_gy", "val/mae_body_gy", "gamma/whole_volume", "gamma/Body"]
    tags += [f"val/mae_{s.name}_gy" for s in protocol.structures]
    tags += [f"gamma/{t.name}+5mm" for t in protocol.targets] + [f"gamma/{o.name}" for o in protocol.organs]
    tags += [f"dvh/{name}/{which}" for name in names for which in ("predicted", "reference")]
    goals = [f"goals/{g.structure}_{g.metric}" for g in protocol.goals]
    return [*tags, *(f"{goal}/{which}" for goal in goals for which in ("predicted", "reference", "limit"))]


def test_categories_and_what_they_draw(prostate):
    tags = tags_of(prostate)
    layout = custom_layout(tags, prostate)
    assert list(layout) == ["Loss", "Dose error", "Targets", "Organs against limits", "Gamma"]
    assert shown(layout, "Loss", "Loss", tags) == ["train/loss", "val/loss"]
    assert shown(layout, "Loss", "Terms, as they add to the loss", tags) == ["train/mse_weighted", "train/dvh_weighted"]
    assert shown(layout, "Dose error", "MAE [Gy]", tags) == ["val/mae_gy", "val/mae_body_gy"]
    rectum = [f"goals/Rectum_V70Gy/{which}" for which in ("predicted", "reference", "limit")]
    assert shown(layout, "Organs against limits", "Rectum V70Gy <= 15 %", tags) == rectum
    assert shown(layout, "Gamma", "Targets and their penumbra [%]", tags) == ["gamma/PTV70+5mm", "gamma/PTV56+5mm"]
    assert list(layout["Targets"]) == ["PTV70 D95 >= 66.5 Gy", "PTV56 D95 >= 53.2 Gy"]  # no second chart without the limit
    goals = sum(len(layout[group]) for group in ("Targets", "Organs against limits"))
    assert goals == len(prostate.goals)


def test_d95_has_a_chart_where_no_goal_has_it(head_and_neck):
    tags = tags_of(head_and_neck)
    layout = custom_layout(tags, head_and_neck)
    assert shown(layout, "Targets", "PTV63 D95 [Gy]", tags) == [
        f"dvh/PTV63_D95/{which}" for which in ("predicted", "reference")
    ]
    assert "PTV63 D99 >= 59.85 Gy" in layout["Targets"]


def test_every_expression_matches_a_tag(prostate):
    for tags in (TRAINING, tags_of(prostate), ["val/mae_Rectum_gy", "gamma/Body"]):
        layout = custom_layout(tags, prostate)
        expressions = [e for charts in layout.values() for _, entries in charts.values() for e in entries]
        assert expressions and all(any(re.match(e, tag) for tag in tags) for e in expressions)
    assert list(custom_layout(TRAINING, prostate)) == ["Loss"]
    assert custom_layout((), prostate) == {}


def test_expressions_are_the_same_for_every_loss(prostate):
    """TensorBoard would show charts of two experiments beside each other where their expressions differ."""
    others = [tag.replace("dvh", "gradient") for tag in TRAINING]
    assert custom_layout(TRAINING, prostate) == custom_layout(others, prostate)
