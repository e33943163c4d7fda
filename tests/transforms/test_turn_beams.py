"""A patient turned by a step of the beams sees the same beams."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from monai_vmat.case import write_case
from monai_vmat.errors import InputError
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.transforms.compose_image import ComposeImaged
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.transforms.signed_distance import SignedDistanced
from monai_vmat.transforms.turn_beams import RandBeamTurnd, beam_steps, turned, turned_shape

KEYS = ["image", "label", "structures"]
CUBE = (1.0, 1.0, 1.0)


def ramp(*shape):
    return torch.arange(float(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("quarter", [1, 2, 3])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.int16])
def test_right_angles_are_exact(quarter, kind):
    volume = ramp(2, 5, 4, 3).to(kind)
    result = turned(volume, 90.0 * quarter, CUBE, [0.0, 0.0])
    assert result.dtype == kind and torch.equal(result, torch.rot90(volume, quarter, (1, 2)))


def test_a_turn_is_rigid_in_millimetres():
    """A point 30 mm along X turns by 30 degrees to (30 cos 30, 30 sin 30) = (25.98, 15), on voxels of 1 x 3 mm."""
    spacing, volume = (1.0, 3.0, 2.0), torch.zeros(1, 81, 27, 2)
    volume[0, 70, 13] = 1.0
    result = turned(volume, 30.0, spacing, [0.0])
    assert result.shape[1:3] == turned_shape((81, 27), 30.0, spacing) == (111, 37)
    weight = result[0, :, :, 0]
    x = ((torch.arange(111.0) - 55) @ weight.sum(1)) / weight.sum()
    y = ((torch.arange(37.0) - 18) @ weight.sum(0)) / weight.sum() * 3
    assert float(x) == pytest.approx(25.98, abs=0.2) and float(y) == pytest.approx(15.0, abs=0.2)
    assert torch.equal(result[..., 0], result[..., 1])


def test_there_and_back_gives_a_smooth_volume_again():
    x, y = torch.meshgrid(torch.arange(60.0) - 29.5, torch.arange(50.0) - 24.5, indexing="ij")
    smooth = torch.exp(-(x**2 + 2 * y**2) / 150)[None, :, :, None]
    there = turned(smooth, 40.0, CUBE, [0.0])
    back = turned(there, -40.0, CUBE, [0.0], shape=(60, 50))
    assert back.shape == smooth.shape and float((back - smooth).abs().max()) < 0.02
    assert float((turned(smooth, 40.0, CUBE, [0.0], shape=(60, 50))[0] - smooth[0]).abs().max()) > 0.1


def test_a_window_is_a_part_of_the_whole():
    volume, fill = torch.rand(3, 12, 10, 4), [0.5, -1.0, 0.0]
    whole = turned(volume, 40.0, CUBE, fill)
    part = turned(volume, 40.0, CUBE, fill, (slice(3, 9), slice(2, 12)))
    assert torch.equal(part, whole[:, 3:9, 2:12])
    assert [float(v) for v in whole[:, 0, 0, 0]] == pytest.approx(fill)  # a corner, seen by none before


def load(case, protocol, folder):
    write_case(case, folder / "a.npz")
    item = {"case": str(folder / "a.npz")}
    for transform in (LoadCased, SignedDistanced, ComposeImaged):
        item = transform(protocol=protocol)(item)
    return item | {key: item[key].as_tensor() for key in KEYS}


def test_turned_channels_are_those_of_a_turned_patient(tmp_path, head_and_neck, make_case):
    """The law: the beams' dose of a patient turned by a step is the turned dose. Four beams, a quarter of a turn: exact."""
    protocol = replace(head_and_neck, gantry_angles_deg=(0.0, 90.0, 180.0, 270.0))
    case = make_case(protocol)
    cubic = np.diag([-3.0, -3.0, 3.0, 1.0])
    case = replace(case, affine=cubic)

    def rotated(volume):
        return np.ascontiguousarray(np.rot90(volume, 1, (0, 1)))

    other = replace(
        case,
        ct_hu=rotated(case.ct_hu),
        dose_gy=rotated(case.dose_gy),
        structures={name: rotated(mask) for name, mask in case.structures.items()},
    )
    item, expected = load(case, protocol, tmp_path), load(other, protocol, tmp_path)
    whole = unpack_mask(item["structures"], DOSE_REGION, protocol)
    assert whole.any()
    turn = RandBeamTurnd(KEYS, protocol=protocol, prob=1.0)
    turn.R = _Drawn(0.0, 0)  # one step
    result = turn(item)
    inside = np.argwhere(unpack_mask(expected["structures"], DOSE_REGION, protocol)[0].numpy())
    window = (slice(None), *(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True)))
    assert torch.equal(result["structures"], expected["structures"][window])
    assert torch.allclose(result["label"], expected["label"][window], atol=1e-5) and result["label"].max() > 0.5
    beams = len(protocol.channel_names) - 2
    assert torch.allclose(result["image"][:beams], expected["image"][window][:beams], atol=1e-3)
    assert expected["image"][beams:].max() > 0.5
    assert torch.allclose(result["image"][beams:], expected["image"][window][beams:], rtol=5e-3, atol=1e-3)


class _Drawn:
    """Random numbers as given."""

    def __init__(self, share, step):
        self.share, self.step = share, step

    def random(self):
        return self.share

    def randint(self, below):
        assert 0 <= self.step < below
        return self.step


def test_all_steps_are_drawn_and_the_stream_is_the_same_whether_turned_or_not(head_and_neck):
    structures = torch.full((1, 6, 6, 2), -1, dtype=torch.int16)
    item = {"structures": structures, "label": ramp(1, 6, 6, 2), "spacing_mm": torch.ones(3)}
    always, half = (
        RandBeamTurnd(["label", "structures"], protocol=head_and_neck, prob=p).set_random_state(seed=1) for p in (1.0, 0.5)
    )
    results = [(always(item)["label"], half(item)["label"]) for _ in range(200)]
    assert len({tuple(full.flatten().tolist()) for full, _ in results}) == 8
    unturned = [torch.equal(some, item["label"]) for _, some in results]
    assert 70 < sum(unturned) < 130
    assert all(torch.equal(full, some) for (full, some), left in zip(results, unturned, strict=True) if not left)


def test_beams_that_are_no_symmetry_are_refused(head_and_neck, prostate):
    assert beam_steps(head_and_neck) == 9
    for protocol in (prostate, replace(head_and_neck, gantry_angles_deg=(0.0, 40.0, 90.0))):
        with pytest.raises(InputError, match="equidistant gantry_angles_deg .* Leave turn_probability at 0"):
            RandBeamTurnd(KEYS, protocol=protocol)
