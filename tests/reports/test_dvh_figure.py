"""The DVH picture: curves that are the doses', marks that are the goals'."""

from __future__ import annotations

import io

import numpy as np
import pytest

from monai_vmat.errors import InputError
from monai_vmat.protocol import load_protocol
from monai_vmat.reports.dvh_figure import dvh_figure
from monai_vmat.reports.planes import NOTE

PROTOCOL = load_protocol("prostate_sib")
DOSES_GY = {
    "PTV70": (np.linspace(64, 70, 50), np.linspace(68, 80, 50)),
    "Rectum": (np.linspace(0, 60, 40), np.linspace(0, 70, 40)),
    "Couch": (np.full(3, 1.0), np.full(3, 2.0)),
}


def curves(figure):
    """Predicted and reference curves in the order in which structures were given."""
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    return [[line for line in lines if line.get_linestyle() == style] for style in ("-", "--")]


def marks(figure):
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    return {(line.get_color(), line.get_marker(), float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines}


def test_each_curve_is_its_doses():
    for which, drawn in enumerate(curves(dvh_figure(DOSES_GY, PROTOCOL))):
        assert len(drawn) == len(DOSES_GY)
        for line, doses in zip(drawn, DOSES_GY.values(), strict=True):
            expected = [100.0 * np.mean(doses[which] >= level) for level in line.get_xdata()]
            np.testing.assert_allclose(line.get_ydata(), expected)
            assert line.get_xdata()[0] == 0 and line.get_ydata()[-1] == 0  # from everything to nothing


def test_goals_point_to_where_curves_may_pass():
    figure = dvh_figure({name: DOSES_GY["PTV70"] for name in ("PTV70", "Rectum", "Femur_L", "Bowel")}, PROTOCOL)
    ptv, rectum, femur = (PROTOCOL.structure(name).color for name in ("PTV70", "Rectum", "Femur_L"))
    assert marks(figure) == {  # the femur's maximum and the bowel's cc are no points of the diagram
        (ptv, ">", 66.5, 95.0),
        (rectum, "v", 70.0, 15.0),
        (rectum, "v", 60.0, 25.0),
        (rectum, "v", 50.0, 50.0),
        (femur, "v", 50.0, 5.0),
    }
    assert all(line.get_xdata()[0] < figure.axes[0].get_xlim()[1] for line in figure.axes[0].lines)


def test_goals_at_the_same_point_show_both():
    figure = dvh_figure({name: DOSES_GY["Rectum"] for name in ("Rectum", "Bladder")}, PROTOCOL)
    together = [line for line in figure.axes[0].lines if (list(line.get_xdata()), list(line.get_ydata())) == ([50.0], [50])]
    assert len(together) == 2 and together[0].get_markersize() > together[1].get_markersize()


def test_colors_key_axes_title_and_note():
    figure = dvh_figure(DOSES_GY, PROTOCOL, title="case 7")
    expected = [PROTOCOL.structure("PTV70").color, PROTOCOL.structure("Rectum").color, "#FFFFFF"]
    assert [[line.get_color() for line in drawn] for drawn in curves(figure)] == [expected, expected]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [*DOSES_GY, "predicted", "reference", "goal: this way"]
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Dose [Gy]", "Volume [%]")
    assert figure.get_suptitle() == "case 7" and figure.get_supxlabel() == NOTE


def test_no_structure_is_still_a_picture():
    dvh_figure({}, PROTOCOL).savefig(picture := io.BytesIO(), format="png")
    assert picture.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("predicted, reference", [(np.ones(3), np.ones(4)), (np.ones(0), np.ones(0))])
def test_doses_of_different_or_no_voxels(predicted, reference):
    with pytest.raises(InputError, match="DVH of 'Rectum'"):
        dvh_figure({"Rectum": (predicted, reference)}, PROTOCOL)
