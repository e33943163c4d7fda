"""Patches: where they lie, how often they see dose, and that they are the same piece of every volume."""

import numpy as np
import torch

from monai_vmat.transforms.dose_weighted_crop import DoseWeightedCropd


def item(shape=(40, 30, 20)):
    position = torch.arange(int(np.prod(shape))).reshape(1, *shape)
    dose = torch.zeros(1, *shape)
    dose[0, 30:33, 20:23, 10:13] = 1.0
    return {"image": torch.cat([position.float()] * 2), "label": dose, "structures": position.int(), "case_id": "a"}


def crop(**options):
    return DoseWeightedCropd(["image", "label", "structures"], patch_size=(8, 8, 8), **options).set_random_state(seed=3)


def test_all_volumes_are_cut_alike():
    for patch in crop(num_samples=20)(item()):
        assert patch["image"].shape == (2, 8, 8, 8) and patch["case_id"] == "a"
        assert torch.equal(patch["image"][1].int(), patch["structures"][0])


def test_a_high_dose_patch_is_centred_on_it():
    for patch in crop(num_samples=30, high_dose_share=1.0)(item()):
        assert patch["label"][0, 4, 4, 4] == 1.0


def test_the_share_of_high_dose_patches_is_half():
    hits = [float(p["label"].max()) for p in crop(num_samples=400)(item())]
    anywhere = [float(p["label"].max()) for p in crop(num_samples=400, high_dose_share=0.0)(item())]
    expected = 0.5 + 0.5 * np.mean(anywhere)
    assert abs(np.mean(hits) - expected) < 0.08


def test_threshold_says_what_high_dose_is():
    data = item()
    data["label"] *= 0.09
    found = [float(p["label"].max()) for p in crop(num_samples=200, high_dose_share=1.0)(data)]
    assert min(found) == 0.0  # nothing above 10 %: patches lie anywhere
    data["label"] *= 2
    assert min(float(p["label"].max()) for p in crop(num_samples=200, high_dose_share=1.0)(data)) > 0


def test_every_place_is_reached_and_none_outside():
    starts = {
        tuple(int(v) for v in np.unravel_index(int(p["structures"][0, 0, 0, 0]), (40, 30, 20)))
        for p in crop(num_samples=4000, high_dose_share=0.0)(item())
    }
    low, high = np.min(list(starts), axis=0), np.max(list(starts), axis=0)
    assert low.tolist() == [0, 0, 0] and high.tolist() == [32, 22, 12]


def test_smaller_volumes_are_taken_whole():
    (patch,) = crop()(item(shape=(40, 30, 5)))
    assert patch["image"].shape == (2, 8, 8, 5)


def test_half_precision_becomes_single_and_the_source_stays():
    data = item()
    data["image"] = data["image"].half()
    before = data["image"].clone()
    (patch,) = crop()(data)
    patch["image"] += 1
    assert patch["image"].dtype == torch.float32 and torch.equal(data["image"], before)


def test_seeds_decide():
    a, b = (crop(num_samples=3)(item()) for _ in range(2))
    assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))
