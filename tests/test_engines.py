"""Batches, the conditioned inferer, weights and the learning rate."""

from dataclasses import replace

import pytest
import torch

from monai_vmat.engines import DoseInferer, PrepareDoseBatch, computes_bfloat16, flag, memory_format, warmup_cosine
from monai_vmat.errors import InputError
from monai_vmat.masks import DOSE_REGION, bit_names
from monai_vmat.networks.film_unet import FiLMUNet


def tiny(**options):
    torch.manual_seed(0)
    return FiLMUNet(2, 3, base_channels=8, embedding_dim=8, **options).eval()


def test_prepared_batch(head_and_neck):
    structures = torch.zeros(2, 1, 4, 4, 4, dtype=torch.int16)
    structures[0, 0, 0] |= 1 << bit_names(head_and_neck).index(DOSE_REGION)
    batch = {
        "image": torch.rand(2, 13, 4, 4, 4).half(),
        "label": torch.rand(2, 1, 4, 4, 4),
        "structures": structures,
        "prescription_gy": torch.full((2, 3), 70.0),
        "spacing_mm": torch.full((2, 3), 3.0),
        "constraints": torch.rand(2, 10),
    }
    image, reference, args, kwargs = PrepareDoseBatch(head_and_neck)(batch, "cpu")
    assert image.dtype == torch.float32 and torch.equal(kwargs["constraints"], batch["constraints"]) and args == ()
    assert set(reference) == {"dose", "structures", "region", "prescription_gy", "spacing_mm"}
    assert int(reference["region"].sum()) == 16 and torch.equal(kwargs["region"], reference["region"])
    del batch["label"]
    assert "dose" not in PrepareDoseBatch(head_and_neck)(batch, "cpu")[1]


def test_signed_distances_in_mm_on_the_grid_of_the_structures(head_and_neck):
    """A patch's own; of a validation image, cropped at its start, what lies in the crop, and 50 mm elsewhere."""
    batch = {
        "image": torch.rand(2, 13, 3, 4, 4).half(),
        "structures": torch.zeros(2, 1, 3, 4, 4, dtype=torch.int16),
        "prescription_gy": torch.full((2, 3), 70.0),
        "spacing_mm": torch.full((2, 3), 3.0),
        "constraints": torch.rand(2, 10),
    }
    channels = 50 * batch["image"][:, 1:11].float()
    prepare = PrepareDoseBatch(head_and_neck, signed_distances="true")
    assert torch.equal(prepare(batch)[1]["signed_distance_mm"], channels)
    batch |= {
        "structures": torch.zeros(2, 1, 6, 5, 4, dtype=torch.int16),
        "foreground_start_coord": torch.tensor([[1, 1, 0], [3, 0, 0]]),
    }
    batch["structures"][1, 0, 4, 2, 1] |= 1 << bit_names(head_and_neck).index(DOSE_REGION)
    _, reference, _, kwargs = prepare(batch)
    assert kwargs["region"].shape == (2, 1, 3, 4, 4) and kwargs["region"].nonzero().tolist() == [[1, 0, 1, 2, 1]]
    whole = reference["signed_distance_mm"]
    assert whole.shape == (2, 10, 6, 5, 4)
    assert torch.equal(whole[0, :, 1:4, 1:], channels[0]) and torch.equal(whole[1, :, 3:, :4], channels[1])
    assert int((whole == 50).sum()) >= 10 * 2 * (6 * 5 * 4 - 3 * 4 * 4)
    with pytest.raises(InputError, match="signed_distances"):
        PrepareDoseBatch(replace(head_and_neck, inputs=("ct",)), signed_distances=True)


def test_every_window_gets_its_own_patients_constraints():
    """A batch of two patients equals the two patients one by one: windows of both share forward passes."""
    network = tiny()
    images, constraints = torch.rand(2, 2, 40, 24, 24), torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]])
    inferer = DoseInferer((16, 16, 16), sw_batch_size=3, overlap=0.5)
    with torch.no_grad():
        both = inferer(images, network, constraints=constraints)
        singles = [inferer(images[i : i + 1], network, constraints=constraints[i : i + 1]) for i in (0, 1)]
        swapped = inferer(images, network, constraints=constraints.flip(0))
    assert torch.allclose(both, torch.cat(singles), atol=1e-5)
    assert not torch.allclose(both, swapped, atol=1e-3)


def test_windows_without_the_dose_region_are_left_out():
    """What lies in the region is the same to the bit, because every window over it runs."""
    network, image, constraints = tiny(), torch.rand(1, 2, 48, 32, 16), torch.rand(1, 3)
    region = torch.zeros(1, 1, 48, 32, 16, dtype=torch.bool)
    region[..., 2:14, 18:30, 3:9] = True
    seen = []

    def counting(windows, given):
        seen.append(len(windows))
        return network(windows, given)

    inferer = DoseInferer((16, 16, 16), overlap=0.25)
    with torch.no_grad():
        everywhere = inferer(image, counting, constraints=constraints)
        windows = sum(seen)
        seen.clear()
        some = inferer(image, counting, constraints=constraints, region=region)
    assert sum(seen) < windows / 2
    assert torch.equal(some[region], everywhere[region]) and some[region].any()
    assert not some[:, :, 32:].any()


def test_windows_blend_to_the_function_of_a_pointwise_network():
    def pointwise(image, constraints):
        return image[:, :1] * constraints[:, :1, None, None, None]

    image = torch.rand(1, 2, 37, 21, 18)
    out = DoseInferer((16, 16, 16), sw_batch_size=2, overlap=0.25)(image, pointwise, constraints=torch.tensor([[2.0, 0.0]]))
    assert torch.allclose(out, 2 * image[:, :1], atol=1e-5)


def test_whole_image_at_once_equals_the_network():
    network, image, constraints = tiny(), torch.rand(1, 2, 20, 17, 9), torch.rand(1, 3)
    with torch.no_grad():
        assert torch.equal(DoseInferer(-1)(image, network, constraints=constraints), network(image, constraints))
        channels_last = DoseInferer(-1, channels_last=True)(image, network, constraints=constraints)
    assert torch.allclose(channels_last, network(image, constraints), atol=1e-5)


@pytest.mark.parametrize(("capability", "mixed"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_mixed_precision_is_near_and_float32_and_only_where_the_cpu_has_it(capability, mixed, monkeypatch, caplog):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    computes_bfloat16.cache_clear()
    network, image, constraints = tiny(), torch.rand(1, 2, 16, 16, 16), torch.rand(1, 3)
    with torch.no_grad(), caplog.at_level("INFO"):
        full, ours, again = (DoseInferer(-1, amp=amp)(image, network, constraints=constraints) for amp in (False, True, True))
    computes_bfloat16.cache_clear()
    assert ours.dtype == torch.float32 and torch.equal(ours, again) and torch.equal(full, ours) != mixed
    assert torch.allclose(full, ours, atol=0.05)
    assert caplog.text.count("networks run in float32") == (not mixed)  # told once
    assert computes_bfloat16("cuda")


def test_switches_understand_the_command_line():
    assert all(flag(v) for v in (True, "true", "True")) and not any(flag(v) for v in (False, "false", "False"))
    assert memory_format("false") == torch.contiguous_format and memory_format(True) == torch.channels_last_3d
    assert DoseInferer(amp="false").amp is False
    for value in ("yes", 1, None):
        with pytest.raises(InputError, match="true or false"):
            flag(value)


def test_learning_rate():
    factors = [warmup_cosine(step, 10, 110) for step in range(112)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0.0) and factors[111] == pytest.approx(0.0)
    assert warmup_cosine(0, 0, 100) == 1.0
