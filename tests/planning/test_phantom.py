from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from monai_vmat.masks import body_from_ct
from monai_vmat.planning import phantom as module
from monai_vmat.planning.phantom import AIR_HU, CT_STEP_HU, Phantom, expand, make_phantom

SEEDS = (0, 11, 27, 37)  # of the first 40: an average man, the most gas, the fullest bladder, the emptiest
NAMES = ("PTV70", "PTV56", "Prostate", "SeminalVesicles", "Rectum", "Bladder", "Femur_L", "Femur_R", "Bowel", "Body")
ORGANS = NAMES[2:-1]
VOXEL_CC = 0.027


made = cache(make_phantom)


@pytest.fixture(scope="module", params=SEEDS)
def phantom(request) -> Phantom:
    return made(request.param)


def share(part: np.ndarray, whole: np.ndarray) -> float:
    return np.count_nonzero(part & whole) / np.count_nonzero(whole)


def middle(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)


def test_a_seed_is_a_phantom():
    first, again, other = made(SEEDS[0]), make_phantom(SEEDS[0]), made(SEEDS[1])
    assert first.ct_hu.tobytes() == again.ct_hu.tobytes()
    for name in NAMES:
        assert first.structures[name].tobytes() == again.structures[name].tobytes()
    volumes = [[np.count_nonzero(p.structures[name]) for name in NAMES] for p in (first, other)]
    assert all(a != b for a, b in zip(*volumes, strict=True))


def test_arrays_and_names(phantom):
    assert phantom.spacing_mm == (3.0, 3.0, 3.0)
    assert (phantom.ct_hu.dtype, phantom.ct_hu.ndim) == (np.int16, 3)
    assert tuple(phantom.structures) == NAMES
    for mask in phantom.structures.values():
        assert mask.dtype == bool and mask.shape == phantom.ct_hu.shape


def test_volumes_are_clinical(phantom):
    cc = {name: VOXEL_CC * np.count_nonzero(mask) for name, mask in phantom.structures.items()}
    assert 25 <= cc["Prostate"] <= 70
    assert 3 <= cc["SeminalVesicles"] <= 20
    assert 40 <= cc["Rectum"] <= 110
    assert 70 <= cc["Bladder"] <= 400
    assert 80 <= cc["Femur_L"] <= 200 and 0.75 < cc["Femur_L"] / cc["Femur_R"] < 1.33
    assert cc["Bowel"] >= 50
    assert 6000 <= cc["Body"] <= 12000


def test_structures_are_solid_and_organs_disjoint(phantom):
    for name, mask in phantom.structures.items():
        labels, count = ndimage.label(mask)
        if name in ("SeminalVesicles", "Bowel"):
            assert VOXEL_CC * np.bincount(labels.ravel())[1:].min() > 1
        else:
            assert count == 1, name
        assert not (mask & ~phantom.structures["Body"]).any(), name
    assert sum(phantom.structures[name].astype(int) for name in ORGANS).max() == 1


def test_rectum_lies_against_the_prostate_within_reach_of_the_targets(phantom):
    masks = phantom.structures
    assert 0.05 <= share(masks["PTV56"], masks["Rectum"]) <= 0.15
    assert 0.01 <= share(masks["PTV56"], masks["Bladder"]) <= 0.20
    assert np.count_nonzero(masks["Prostate"][:, :-1] & masks["Rectum"][:, 1:]) >= 8  # faces of 9 mm2


def test_organs_lie_where_they_belong(phantom):
    at = {name: middle(mask) for name, mask in phantom.structures.items()}
    assert at["Femur_R"][0] < at["Prostate"][0] - 20 < at["Prostate"][0] + 20 < at["Femur_L"][0]
    assert at["Bladder"][1] < at["SeminalVesicles"][1] < at["Rectum"][1]
    assert at["Prostate"][2] < at["SeminalVesicles"][2] < at["Bowel"][2]
    assert at["Prostate"][2] < at["Bladder"][2]
    level = round(at["Prostate"][2])
    rectum, prostate = (np.argwhere(phantom.structures[name][..., level]) for name in ("Rectum", "Prostate"))
    assert rectum[:, 1].min() >= prostate[:, 1].mean() and abs(rectum[:, 0].mean() - prostate[:, 0].mean()) < 3


def test_ptv56_is_prostate_and_vesicles_with_7_mm(phantom):
    masks = phantom.structures
    tree = cKDTree(3.0 * np.argwhere(masks["Prostate"] | masks["SeminalVesicles"]))
    distance_mm, _ = tree.query(3.0 * np.argwhere(masks["Body"]))
    np.testing.assert_array_equal(masks["PTV56"][masks["Body"]], distance_mm <= 7.0)


def test_ptv70_is_the_prostate_with_5_to_7_mm_and_4_to_5_behind(phantom):
    prostate, target = phantom.structures["Prostate"], phantom.structures["PTV70"]
    assert not (expand(prostate, 5.0, 4.0) & ~target).any()
    assert not (target & ~expand(prostate, 7.0, 5.0)).any()
    assert not (target & ~phantom.structures["PTV56"]).any()
    ends = [np.flatnonzero(mask.any((0, 2)))[-1] for mask in (prostate, target)]
    assert ends[1] - ends[0] == 1  # 6 mm behind would be too far


@pytest.mark.parametrize(("margin_mm", "posterior_mm"), [(7.0, 7.0), (6.4, 4.4), (5.0, 4.0)])
def test_expand_keeps_to_its_margins(margin_mm, posterior_mm):
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 13, 11), bool)
    mask[4:8, 4:9, 4:7] = rng.random((4, 5, 3)) < 0.2
    offsets = 3.0 * (np.indices(mask.shape).reshape(3, -1).T[:, None] - np.argwhere(mask))
    offsets[..., 1] *= np.where(offsets[..., 1] > 0, margin_mm / posterior_mm, 1.0)
    within = np.linalg.norm(offsets, axis=-1).min(1) <= margin_mm + 1e-9
    np.testing.assert_array_equal(expand(mask, margin_mm, posterior_mm), within.reshape(mask.shape))
    if margin_mm == posterior_mm:
        np.testing.assert_array_equal(expand(mask, margin_mm), within.reshape(mask.shape))


def test_grid_is_cropped_to_what_a_plan_needs(phantom):
    def ends(name: str, axis: int) -> np.ndarray:
        return np.flatnonzero(phantom.structures[name].any(tuple({0, 1, 2} - {axis})))[[0, -1]]

    for axis in (0, 1):
        low, high = ends("Body", axis)
        assert (low, phantom.ct_hu.shape[axis] - 1 - high) == (2, 2)
    needs = [ends("PTV56", 2) + (-12, 12), ends("Rectum", 2) + (-2, 2), ends("Bladder", 2) + (-2, 2)]
    assert (min(n[0] for n in needs), max(n[1] for n in needs)) == (0, phantom.ct_hu.shape[2] - 1)


def test_body_is_what_the_ct_shows(phantom):
    body, outline = phantom.structures["Body"], body_from_ct(phantom.ct_hu)
    assert 2 * np.count_nonzero(body & outline) / (np.count_nonzero(body) + np.count_nonzero(outline)) > 0.98
    rim = body & ~ndimage.binary_erosion(body, np.ones((3, 3, 1)), border_value=1)
    assert not ((body ^ outline) & ~rim).any()
    assert (phantom.ct_hu[~body] == AIR_HU).all()


def test_tissues_have_their_hounsfield_units(phantom):
    ct, masks = phantom.ct_hu, phantom.structures
    inner = {name: ct[ndimage.binary_erosion(masks[name])] for name in ORGANS}
    assert -2 < np.median(inner["Bladder"]) < 14
    assert 34 < np.median(inner["Prostate"]) < 52
    assert 20 < np.median(inner["SeminalVesicles"]) < 46
    for side in "LR":
        assert 180 < np.percentile(inner[f"Femur_{side}"], 10) < 320  # marrow
        assert 600 < np.percentile(ct[masks[f"Femur_{side}"]], 98) < 1050  # cortex
    assert inner["Rectum"].max() < 150 and inner["Rectum"].min() > -850
    values = ct[masks["Body"]]
    assert (np.abs(values + 103) < 40).mean() > 0.15  # fat
    assert (np.abs(values - 52) < 30).mean() > 0.3  # muscle
    assert 0.02 < (values > 200).mean() < 0.15  # bone


def test_ct_has_noise_in_steps_of_4_hu(phantom):
    assert not (phantom.ct_hu % CT_STEP_HU).any()
    urine = ndimage.binary_erosion(phantom.structures["Bladder"], iterations=3)
    values = np.where(urine, phantom.ct_hu, 0).astype(float)
    assert 7 < values[urine].std() < 14
    pairs = urine[1:] & urine[:-1]
    assert 0.1 < np.corrcoef(values[1:][pairs], values[:-1][pairs])[0, 1] < 0.7


def test_draws_that_break_the_laws_are_drawn_again(monkeypatch):
    verdicts = iter([False, True])
    monkeypatch.setattr(module, "_obeys_laws", lambda masks: next(verdicts))
    second = make_phantom(SEEDS[0])
    assert next(verdicts, None) is None
    counts = [np.count_nonzero(p.structures["Prostate"]) for p in (second, made(SEEDS[0]))]
    assert counts[0] != counts[1]
    monkeypatch.setattr(module, "_MAX_DRAWS", 0)
    with pytest.raises(RuntimeError, match="seed 5: none of 0 draws"):
        make_phantom(5)


@pytest.mark.parametrize("wrong", ["far rectum", "small prostate"])
def test_laws_refuse(phantom, wrong):
    masks = dict(phantom.structures)
    assert module._obeys_laws(masks)
    if wrong == "far rectum":
        masks["Rectum"] = np.roll(masks["Rectum"], 3, axis=1)
    else:
        masks["Prostate"] = ndimage.binary_erosion(masks["Prostate"], iterations=2)
    assert not module._obeys_laws(masks)
