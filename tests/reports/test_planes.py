"""The three-plane picture: what lies where on it, and on what scales."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import _pylab_helpers

from monai_vmat.errors import InputError
from monai_vmat.protocol import load_protocol
from monai_vmat.reports.planes import NOTE, three_planes

PROTOCOL = load_protocol("prostate_sib")
SHAPE, SPACING_MM = (24, 20, 16), (2.0, 3.0, 5.0)
PLANES = ("axial", "coronal", "sagittal")


def marker(x: int, y: int, z: int) -> np.ndarray:
    """A 3 x 3 x 3 block around a voxel."""
    mask = np.zeros(SHAPE, bool)
    mask[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = True
    return mask


def draw(masks=None, doses=None, **more):
    ct = np.zeros(SHAPE, np.int16)
    return three_planes(ct, masks or {}, doses or {}, PROTOCOL, SPACING_MM, **more)


def panel_axes(figure) -> list[list]:
    """Axes by plane, then panel; the last row holds the colour bars."""
    columns = len(figure.axes) // 4
    return [figure.axes[row * columns : (row + 1) * columns] for row in range(4)]


def place_on_paper(ax, contour) -> tuple[float, float]:
    """Centre of a contour as a part of its axes: (0, 0) bottom left, (1, 1) top right."""
    vertices = contour.get_paths()[0].vertices
    low, high = vertices.min(0), vertices.max(0)
    return tuple(ax.transAxes.inverted().transform(ax.transData.transform((low + high) / 2)))


@pytest.mark.parametrize(
    ("voxel", "right", "top"),
    [
        # patient's left, anterior, superior; where it lies in the axial, coronal and sagittal plane
        ((19, 4, 12), (True, True, False), (True, True, True)),
        # patient's right, posterior, inferior
        ((4, 15, 3), (False, False, True), (False, False, False)),
    ],
)
def test_radiological_orientation(voxel, right, top):
    dose = np.where(marker(*voxel), 60.0, 0.0)
    figure = draw({"PTV70": marker(*voxel)}, {"dose": dose}, center=voxel)
    figure.canvas.draw()
    axes = panel_axes(figure)
    for row, plane in enumerate(PLANES):
        for ax in axes[row]:
            (contour,) = ax.collections
            x, y = place_on_paper(ax, contour)
            assert (x > 0.5, y > 0.5) == (right[row], top[row]), plane
        # the pictures under the contour agree with it: dose at its centre, none one contour's size away
        wash, display = axes[row][1].images[1], axes[row][1].transAxes.transform((x, y))
        assert wash.get_cursor_data(SimpleNamespace(x=display[0], y=display[1])) == 60.0
        assert np.count_nonzero(~np.ma.getmaskarray(wash.get_array())) == 9


def test_edges_are_lettered():
    for row, (left, right, top, bottom) in zip(panel_axes(draw())[:3], ("RLAP", "RLSI", "APSI")):
        places = {text.get_text(): text.get_position() for text in row[0].texts}
        assert places[left][0] < 0.1 and places[right][0] > 0.9
        assert places[top][1] > 0.9 and places[bottom][1] < 0.1


def test_planes_are_in_millimetres_and_in_proportion():
    figure = draw()
    figure.canvas.draw()
    axes = panel_axes(figure)
    x, y, z = (n * s for n, s in zip(SHAPE, SPACING_MM))
    for row, (width, height) in zip(axes, ((x, y), (x, z), (y, z))):
        left, right, bottom, top = row[0].images[0].get_extent()
        assert (right - left, abs(top - bottom)) == (width, height)
        box = row[0].get_window_extent()
        assert box.width / box.height == pytest.approx(width / height, rel=0.02)


def test_ct_slices_pass_through_the_center():
    ct = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    figure = three_planes(ct, {}, {}, PROTOCOL, SPACING_MM, center=(5, 6, 7))
    shown = [row[0].images[0].get_array() for row in panel_axes(figure)[:3]]
    for array, expected in zip(shown, (ct[:, :, 7].T, ct[:, 6, :].T, ct[5].T)):
        np.testing.assert_array_equal(array, expected)


def test_default_center_is_the_primary_targets():
    target = marker(17, 5, 9)
    by_default = draw({"PTV70": target, "Rectum": marker(3, 3, 3)}, {"dose": target * 70.0})
    assert all(len(row[0].collections) == 1 for row in panel_axes(by_default)[:3])  # the target's outline in every plane
    for row in panel_axes(by_default)[:3]:
        assert np.count_nonzero(row[1].images[1].get_array().filled(0)) == 9


def test_two_doses_share_a_scale_and_their_difference_is_symmetric():
    reference, prediction = np.full(SHAPE, 60.0), np.full(SHAPE, 57.0)
    prediction[12, 10, 8] = 66.0
    axes = panel_axes(draw(doses={"reference": reference, "prediction": prediction}))
    assert [ax.get_title() for ax in axes[0]] == ["CT", "reference", "prediction", "prediction \N{MINUS SIGN} reference"]
    assert [ax.images[1].get_clim() for ax in axes[0][1:3]] == [(0.0, 66.0), (0.0, 66.0)]
    difference = axes[0][3].images[1]
    assert difference.get_array()[10, 12] == 6.0 and difference.get_array()[0, 0] == -3.0
    low, high = difference.get_clim()
    assert low == -high and high == pytest.approx(3.0)  # the one hot voxel does not stretch it
    assert [bar.get_xlabel() for bar in axes[3]] == ["CT number [HU]", "Dose [Gy]", "Dose [Gy]", "Difference [Gy]"]


def test_difference_scale_does_not_shrink_to_noise():
    reference = np.full(SHAPE, 60.0)
    axes = panel_axes(draw(doses={"reference": reference, "prediction": reference + 0.001}))
    assert axes[0][3].images[1].get_clim() == (-1.0, 1.0)


@pytest.mark.parametrize(("count", "columns"), [(0, 1), (1, 2), (2, 4), (3, 4)])
def test_one_column_per_dose_and_a_difference_of_two_only(count, columns):
    axes = panel_axes(draw(doses={f"dose {k}": np.full(SHAPE, 60.0) for k in range(count)}))
    assert len(axes[0]) == columns


def test_gamma_is_a_column_whose_colors_break_at_one():
    gamma = np.full(SHAPE, np.nan, np.float32)
    gamma[12, 10, 8], gamma[13, 10, 8] = 0.999, 1.0
    figure = draw(doses={"dose": np.full(SHAPE, 60.0)}, gamma=gamma, gamma_label="3 %/3 mm")
    figure.canvas.draw()
    axes = panel_axes(figure)
    assert [ax.get_title() for ax in axes[0]] == ["CT", "dose", "gamma"] and axes[3][2].get_xlabel() == "3 %/3 mm"
    overlay = axes[0][2].images[1]
    assert overlay.get_clim() == (0.0, 2.0)
    shown = overlay.to_rgba(overlay.get_array(), alpha=1.0)
    passes, fails, unknown = shown[10, 12], shown[10, 13], shown[0, 0]
    assert passes[2] > passes[0] and fails[0] > fails[2]  # blue, and the very next is yellow to red
    assert fails[:3].sum() - passes[:3].sum() > 0.5  # also seen in shades of grey
    assert unknown[3] == 0


def test_colors_key_title_and_note():
    figure = draw({"PTV70": marker(12, 10, 8), "Couch": marker(12, 10, 8), "Bladder": np.zeros(SHAPE, bool)}, title="case 7")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["PTV70", "Couch"]
    assert [line.get_color() for line in legend.get_lines()] == [PROTOCOL.structure("PTV70").color, "#FFFFFF"]
    assert NOTE in [text.get_text() for text in figure.texts]
    assert figure.get_suptitle() == "case 7"


@pytest.mark.parametrize("masks", [{}, {"PTV70": np.ones(SHAPE, bool)}, {"PTV70": np.zeros(SHAPE, bool)}])
def test_nothing_to_show_is_still_a_picture(masks):
    air = np.full(SHAPE, -1024, np.int16)
    figure = three_planes(air, masks, {"dose": np.zeros(SHAPE)}, PROTOCOL, SPACING_MM)
    figure.savefig(picture := io.BytesIO(), format="png")
    assert picture.getvalue().startswith(b"\x89PNG")


def test_air_around_the_patient_is_cut_off():
    ct = np.full((200, 200, 200), -1024, np.int16)
    ct[90:110, 90:110, 90:110] = 0
    figure = three_planes(ct, {}, {}, PROTOCOL, (2.0, 2.0, 2.0))
    for row in panel_axes(figure)[:3]:
        assert abs(np.diff(row[0].get_xlim())[0]) == abs(np.diff(row[0].get_ylim())[0]) == 20 * 2.0 + 2 * 15.0


def test_pyplot_keeps_no_figure():
    before = len(_pylab_helpers.Gcf.get_all_fig_managers())
    draw()
    assert len(_pylab_helpers.Gcf.get_all_fig_managers()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"masks": {"PTV70": np.ones((4, 4, 4), bool)}},
        {"doses": {"dose": np.ones((4, 4, 4))}},
        {"gamma": np.ones((4, 4, 4))},
        {"center": (24, 0, 0)},
        {"center": (0, -1, 0)},
        {"center": (0, 0)},
    ],
)
def test_what_does_not_fit_the_grid(arguments):
    with pytest.raises(InputError, match=r"\(24, 20, 16\)"):
        draw(**arguments)
