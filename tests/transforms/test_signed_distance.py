"""Signed distances against SciPy on the whole grid, and by hand."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_vmat.case import lps_affine
from monai_vmat.masks import pack_masks
from monai_vmat.transforms.signed_distance import SignedDistanced, signed_distance


def by_scipy(mask, spacing, clip=50.0):
    outside, inside = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (~mask, mask))
    return np.clip((outside - inside) / clip, -1, 1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (3.9, 3.9, 2.5), (7.0, 2.0, 5.0)])
def test_equals_the_whole_grid_transform(spacing):
    rng = np.random.default_rng(1)
    mask = ndimage.gaussian_filter(rng.normal(size=(40, 36, 30)), 2) > 0.12
    mask[30:] = False
    assert signed_distance(mask, spacing) == pytest.approx(by_scipy(mask, spacing), abs=1e-5)


def test_the_box_clips_and_nothing_more():
    mask = np.zeros((80, 20, 20), bool)
    mask[5:8, 8:12, 8:12] = True
    assert signed_distance(mask, (2.0, 2.0, 2.0)) == pytest.approx(by_scipy(mask, (2.0, 2.0, 2.0)), abs=1e-6)


def test_by_hand():
    mask = np.zeros((7, 1, 1), bool)
    mask[2:5] = True
    found = signed_distance(mask, (10.0, 10.0, 10.0))[:, 0, 0] * 50
    assert found.tolist() == pytest.approx([20, 10, -10, -20, -10, 10, 20])


@pytest.mark.parametrize("absent", [0.0, 1.0])
def test_absent_structures(absent):
    assert (signed_distance(np.zeros((4, 4, 4), bool), (1, 1, 1), absent=absent) == absent).all()


def test_a_structure_that_fills_the_grid_is_inside_everywhere():
    assert (signed_distance(np.ones((4, 4, 4), bool), (1.0, 1.0, 1.0)) == -1.0).all()


def test_threads_do_not_change_the_result():
    mask = np.random.default_rng(0).random((30, 30, 30)) > 0.7
    assert np.array_equal(signed_distance(mask, (1, 2, 3), threads=1), signed_distance(mask, (1, 2, 3), threads=4))


def test_channels_follow_the_protocol(prostate, make_case):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0), absent=("Bowel",))
    packed = MetaTensor(torch.as_tensor(pack_masks(case.structures, prostate)[None]), affine=lps_affine((2.0, 3.0, 4.0)))
    out = SignedDistanced(protocol=prostate)({"structures": packed})["signed_distances"]
    assert out.dtype == torch.float16 and out.shape == (8, *case.ct_hu.shape)
    for channel, name in enumerate(prostate.structure_names[:-1]):
        assert out[channel].numpy() == pytest.approx(by_scipy(case.structures[name], (2.0, 3.0, 4.0)), abs=1e-3)
    assert (out[-1] == 0).all()


def test_stored_distances_are_used_as_they_are(prostate):
    stored = MetaTensor(torch.full((8, 3, 3, 3), 0.25))
    packed = MetaTensor(torch.zeros((1, 3, 3, 3), dtype=torch.int16))
    item = SignedDistanced(protocol=prostate)({"structures": packed, "stored_distances": stored})
    assert (item["signed_distances"] == 0.25).all() and "stored_distances" not in item
