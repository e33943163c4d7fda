"""The linear model: it says what the engine says, and bixels lie where the gantry sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

from monai_vmat.planning.beam_model import LEAF_MM, DoseGrid, Field, arc, dose_engine  # noqa: E402
from monai_vmat.planning.influence import beams_eye_view, field_of, influence, openable_bixels  # noqa: E402


@pytest.fixture(scope="module")
def coarse(small) -> DoseGrid:
    return DoseGrid.around(small.ct_hu, small.structures["Body"], small.structures["PTV56"], 3.0).coarse


def test_views_by_hand():
    grid = DoseGrid(torch.ones(5, 5, 5), 10.0, (20.0, 20.0, 20.0), (slice(0, 5),) * 3)
    left_of_isocentre = np.ravel_multi_index(([2], [2], [3]), grid.shape)  # 10 mm to the patient's left
    across, along = beams_eye_view(grid, 0.0, left_of_isocentre)
    np.testing.assert_allclose((across, along), ([10.0], [0.0]), atol=1e-9)
    across, _ = beams_eye_view(grid, np.pi, left_of_isocentre)
    np.testing.assert_allclose(across, [-10.0], atol=1e-9)
    superior_and_far = np.ravel_multi_index(([3], [4], [2]), grid.shape)  # 20 mm beyond the isocentre from anterior
    np.testing.assert_allclose(beams_eye_view(grid, 0.0, superior_and_far)[1], [10 * 1000 / 1020])


@pytest.mark.parametrize("degrees", [0, 40, 90, 200])
def test_matrix_equals_the_engine(coarse, small, degrees):
    angles = np.deg2rad([degrees])
    field = Field(leaf_pairs=12, width_mm=60)
    openable = np.ones((1, *field.bixels), bool)
    voxels = np.flatnonzero(coarse.density.numpy() > 0.5)
    model = influence(coarse, field, angles, openable, voxels)
    fluence = torch.rand(field.bixels, generator=torch.Generator().manual_seed(1))
    pixels = fluence.repeat_interleave(5, 0).repeat_interleave(5, 1)[None, None]
    box = torch.tensor([0.5, 1, 1, 1, 1, 1, 0.5]) / 6  # a voxel's own width
    pixels = torch.nn.functional.conv2d(pixels, box.view(1, 1, 7, 1), padding=(3, 0))
    pixels = torch.nn.functional.conv2d(pixels, box.view(1, 1, 1, 7), padding=(0, 3))
    engine = dose_engine(coarse, field, final=False)
    engine._initialize_layers(arc(field, angles, coarse.isocentre_mm))
    with torch.no_grad():
        whole = engine.forward(None, None, None, coarse.density[None], fluence_maps=pixels).flatten()[torch.from_numpy(voxels)]
    linear = fluence.flatten() @ model.dose_gy
    assert float((linear - whole).abs().max()) < 0.03 * float(whole.max())
    assert float(linear.sum()) == pytest.approx(float(whole.sum()), rel=0.04)  # scatter out of the field is cut off


def test_targets_can_be_reached_from_everywhere(coarse, planner):
    target = planner.masks["PTV56"]
    field = field_of(coarse, target, 8.0)
    angles = np.arange(8) * np.pi / 4
    openable = openable_bixels(coarse, field, angles, target)
    for angle, opened in zip(angles, openable, strict=True):
        across, along = beams_eye_view(coarse, angle, np.flatnonzero(target))
        row = np.floor(along / LEAF_MM + field.bixels[0] / 2).astype(int)
        column = np.floor(across / LEAF_MM + field.bixels[1] / 2).astype(int)
        assert opened[row, column].all()
        assert not opened[:, [0, -1]].any()  # room to park leaves


def test_rows_of_the_matrix_are_bixels_in_order(planner):
    bixels = planner.bixels
    assert len(bixels.dose_gy) == int(bixels.openable.sum()) and (bixels.dose_gy >= -1e-7).all()
    angle, row, column = (int(i[len(i) // 2]) for i in torch.nonzero(bixels.openable, as_tuple=True))
    index = int(bixels.openable[:angle].sum() + bixels.openable[angle, :row].sum() + bixels.openable[angle, row, :column].sum())
    across, along = beams_eye_view(planner.fine.coarse, bixels.angles[angle], planner.voxels)
    dose = bixels.dose_gy[index].numpy()
    hit = dose > 0.5 * dose.max()
    assert abs(across[hit].mean() - (column + 0.5 - bixels.field.bixels[1] / 2) * LEAF_MM) < 4
    assert abs(along[hit].mean() - (row + 0.5 - bixels.field.bixels[0] / 2) * LEAF_MM) < 4
