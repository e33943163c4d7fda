"""Patient motion: rigid in millimetres, the same for all volumes, about the right axis."""

import numpy as np
import torch

from monai_vmat.masks import pack_masks, unpack_mask
from monai_vmat.transforms.augment import RandPatientMotiond, moved

SPACING = (2.0, 2.0, 4.0)


def centroid(volume):
    weights = volume.double().numpy()[0]
    return np.asarray([(weights * index).sum() / weights.sum() for index in np.indices(weights.shape)])


def blob(center, shape=(48, 48, 24)):
    grid = np.indices(shape) * np.reshape(SPACING, (3, 1, 1, 1))
    distance = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True))
    return torch.as_tensor(np.exp(-distance / (2 * 6.0**2)), dtype=torch.float32)[None]


def test_a_shift_moves_by_that_many_millimetres():
    volume = blob((48.0, 48.0, 48.0))
    out = moved(volume, [0.0], SPACING, 0.0, (10.0, -6.0, 8.0))
    shift = (centroid(out) - centroid(volume)) * SPACING
    assert np.allclose(np.abs(shift), (10.0, 6.0, 8.0), atol=0.2)


def test_rotation_is_about_the_superior_inferior_axis():
    volume = blob((70.0, 48.0, 48.0))
    out = moved(volume, [0.0], SPACING, 5.0, (0.0, 0.0, 0.0))
    before, after = (centroid(v) * SPACING - (47.0, 47.0, 46.0) for v in (volume, out))
    assert abs(np.hypot(*after[:2]) - np.hypot(*before[:2])) < 0.2  # same distance from the axis
    turn = np.degrees(np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0]))
    assert abs(abs(turn) - 5.0) < 0.3
    assert abs(after[2] - before[2]) < 0.1


def test_image_dose_and_structures_move_together(prostate, make_case):
    case = make_case(prostate, shape=(48, 40, 32), spacing=SPACING)
    structures = torch.as_tensor(pack_masks(case.structures, prostate)[None])
    image = torch.zeros(9, 48, 40, 32)
    image[1] = torch.as_tensor(np.where(case.structures["PTV70"], -0.2, 0.5))
    item = {
        "image": image,
        "label": torch.as_tensor(case.structures["PTV70"], dtype=torch.float32)[None],
        "structures": structures,
        "spacing_mm": torch.tensor(SPACING),
    }
    motion = RandPatientMotiond(
        ["image", "label", "structures"], protocol=prostate, max_shift_voxels=4, ct_noise_std=0, prob=1.0
    )
    out = motion.set_random_state(seed=5)(item)
    assert not torch.equal(out["label"], item["label"])
    ptv = unpack_mask(out["structures"], "PTV70", prostate)
    agreement = ((out["label"] > 0.5) == ptv).float().mean()
    assert agreement > 0.998 and out["structures"].dtype == structures.dtype
    assert set(out["structures"].unique().tolist()) <= set(structures.unique().tolist()) | {0}
    assert (((out["image"][1] < 0.15) == ptv[0]).float().mean()) > 0.998


def test_what_comes_in_from_outside_is_far_from_everything(prostate):
    image = torch.rand(9, 16, 16, 16) * 0.1
    image[8] = 0.0  # an absent structure
    item = {"image": image, "spacing_mm": torch.tensor(SPACING)}
    motion = RandPatientMotiond(["image"], protocol=prostate, max_degrees=0, max_shift_voxels=15, ct_noise_std=0, prob=1.0)
    out = motion.set_random_state(seed=2)(item)["image"]
    assert (out[1] == 1.0).float().mean() > 0.1  # 50 mm or more away
    assert out[0].min() >= image[0].min() - 1e-6  # air, no denser and no emptier than the CT's own
    assert (out[8] == 0.0).all()


def test_noise_is_on_the_ct_alone_and_of_the_stated_size(prostate):
    item = {"image": torch.zeros(9, 32, 32, 32), "spacing_mm": torch.tensor(SPACING)}
    motion = RandPatientMotiond(["image"], protocol=prostate, max_degrees=0, max_shift_voxels=0, prob=1.0).set_random_state(
        seed=0
    )
    out = motion(item)["image"]
    assert abs(float(out[0].std()) - 0.02) < 0.001 and (out[1:] == 0).all() and (item["image"] == 0).all()


def test_the_seed_decides_everything(prostate):
    item = {"image": torch.rand(9, 12, 12, 12), "spacing_mm": torch.tensor(SPACING)}
    a, b = (RandPatientMotiond(["image"], protocol=prostate).set_random_state(seed=9)(item)["image"] for _ in range(2))
    assert torch.equal(a, b)
