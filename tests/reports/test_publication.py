"""Figures for papers: what they show, in what units, in what files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from monai_vmat.handlers.run_record import read_metrics
from monai_vmat.reports.evaluation import CaseVolumes
from monai_vmat.reports.publication import case_boxes, loss_components, profile_figure, training_curves, write_figure


@pytest.fixture
def metrics(evaluated) -> list[dict]:
    return read_metrics(evaluated / "runs" / "ours" / "metrics.csv")


def test_training_curves(metrics):
    figure = training_curves(metrics)
    loss, error, rate = figure.axes
    assert [ax.get_xlabel() for ax in figure.axes] == ["Epoch"] * 3
    assert (loss.get_ylabel(), error.get_ylabel()) == ("Loss [dimensionless]", "Validation MAE [Gy]")
    train, val = loss.lines
    assert train.get_xydata().tolist() == [[1, 0.5], [2, 0.25]] and val.get_xydata().tolist() == [[2, 0.3]]
    assert val.get_marker() == "o" and train.get_marker() == ""  # one epoch alone must be seen
    assert train.get_linestyle() != val.get_linestyle()  # told apart without colour
    assert error.lines[0].get_xydata().tolist() == [[2, 2.5]] and rate.lines[0].get_xydata().tolist() == [
        [1, 0.001],
        [2, 0.0005],
    ]


def test_loss_components_that_add_something(metrics):
    (ax,) = loss_components([row | {"train/mse": 9.0, "train/negative_weighted": 0.0} for row in metrics]).axes
    assert {line.get_label(): list(line.get_ydata()) for line in ax.lines} == {"mse": [0.4, 0.2], "dvh": [0.1, 0.05]}
    assert ax.get_ylabel() == "Contribution to the loss [dimensionless]"
    many = [{"epoch": e} | {f"train/t{k}_weighted": 1.0 + k for k in range(10)} for e in (1, 2)]
    looks = [(line.get_color(), line.get_linestyle()) for line in loss_components(many).axes[0].lines]
    assert len(set(looks)) == 10


def result(body: float | None, gamma: float | None, gap: float) -> dict:
    return {
        "dose_metrics": {"mae_body_gy": body, "mae_PTV70_gy": 3.0},
        "gamma": {"gamma_pass_rate": gamma, "regions": {"Body": gamma}},
        "dvh": {"PTV70": {"D95": {"gap": gap}}},
    }


def test_boxes_over_cases(prostate):
    figure = case_boxes([result(1.0, 90.0, -1.0), result(2.0, None, 0.5), result(None, 80.0, 0.0)], prostate)
    errors, rates, gaps = figure.axes
    names = [label.get_text() for label in errors.get_yticklabels()]
    assert names == ["body", "PTV70"]
    points = {
        name: sorted(line.get_xdata()) for name, line in zip(names, [ln for ln in errors.lines if ln.get_marker() == "o"])
    }
    assert points == {"body": [1.0, 2.0], "PTV70": [3.0, 3.0, 3.0]}
    assert errors.get_xlabel() == "MAE [Gy]" and rates.get_xlabel() == "Gamma pass rate 3 %/3 mm [%]"
    assert [label.get_text() for label in rates.get_yticklabels()] == ["all voxels", "Body"] and "[Gy]" in gaps.get_xlabel()
    assert len(case_boxes([result(1.0, None, 0.0)], prostate).axes) == 2  # no gamma: no empty panel


def test_profile_by_hand():
    shape, spacing = (5, 4, 3), (2.0, 3.0, 5.0)
    reference = np.zeros(shape, np.float32)
    reference[:, 2, 1] = [1, 10, 50, 20, 2]
    reference[2, :, 1] = [4, 40, 50, 30]
    predicted = reference + 1
    mask = np.zeros(shape, bool)
    mask[1:4, 2, 1] = True
    volumes = CaseVolumes("c", spacing, np.zeros(shape, np.int16), {"PTV70": mask}, reference, predicted, reference, "")
    figure = profile_figure(volumes, "PTV70", title="a case")
    x, y, z = figure.axes
    dashed, solid = x.lines
    assert dashed.get_xydata().tolist() == [[-4, 1], [-2, 10], [0, 50], [2, 20], [4, 2]]
    assert solid.get_ydata().tolist() == [2, 11, 51, 21, 3]
    assert y.lines[0].get_xydata().tolist() == [[-6, 4], [-3, 40], [0, 50], [3, 30]]
    assert z.lines[0].get_xydata().tolist() == [[-5, 0], [0, 50], [5, 0]]
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "Right to left [mm]",
        "Anterior to posterior [mm]",
        "Inferior to superior [mm]",
    ]
    assert {ax.get_ylabel() for ax in figure.axes} == {"Dose [Gy]"}
    (shade,) = x.patches  # voxels 1 to 3, whole
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (-3, 3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["PTV70", "reference", "predicted"]


def test_a_target_in_two_pieces_is_shaded_twice_and_named_once():
    mask = np.zeros((9, 3, 3), bool)
    mask[[1, 2, 6, 7], 1, 1] = True
    dose = np.ones(mask.shape, np.float32)
    volumes = CaseVolumes("c", (1.0, 1.0, 1.0), np.zeros(mask.shape, np.int16), {"PTV70": mask}, dose, dose, dose, "")
    figure = profile_figure(volumes, "PTV70")
    assert [(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[0].patches] == [(-3.5, -1.5), (1.5, 3.5)]
    assert [text.get_text() for text in figure.legends[0].get_texts()].count("PTV70") == 1


def test_files(tmp_path, metrics):
    figure = training_curves(metrics)
    png, pdf = write_figure(figure, tmp_path / "figures" / "training_v1.2")
    assert (png.name, pdf.name) == ("training_v1.2.png", "training_v1.2.pdf")
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.size == tuple(np.rint(figure.get_size_inches() * 300))
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-") and b"/Type0" in content and b"/Type3" not in content
    assert sorted(p.name for p in png.parent.iterdir()) == [pdf.name, png.name]  # nothing unfinished is left
