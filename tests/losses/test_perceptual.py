"""The perceptual loss against its formula, on the slices that it should see."""

import hashlib

import pytest
import torch

from monai_vmat.losses.perceptual import VGGPerceptualLoss
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.networks.vgg16 import VGG16Trunk


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random weights, as a file whose hash is stated."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
    content = {f"features.{i}.weight": 0.05 * torch.randn(*s, 3, 3) for i, s in shapes.items()}
    torch.save(content | {f"features.{i}.bias": torch.zeros(s[0]) for i, s in shapes.items()}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_formula(file):
    loss, trunk = VGGPerceptualLoss(*file), VGG16Trunk(*file)
    pred, dose = torch.rand(2, 1, 12, 8, 10), torch.rand(2, 1, 12, 8, 10)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    slices = [(volume[b, 0, :, :, k].expand(3, 12, 8) - mean) / std for volume in (pred, dose) for b in (0, 1) for k in (0, 8)]
    features = trunk(torch.stack(slices))
    expected = sum((f[:4] - f[4:]).abs().mean() for f in features)
    assert float(loss(pred, dose)) == pytest.approx(float(expected), rel=1e-5)
    assert float(loss(dose, dose)) == 0.0


def test_only_every_eighth_slice_is_seen_and_the_gradient_reaches_it(file):
    loss = VGGPerceptualLoss(*file)
    pred = torch.rand(1, 1, 8, 8, 17, requires_grad=True)
    loss(pred, torch.rand(1, 1, 8, 8, 17)).backward()
    assert [k for k in range(17) if pred.grad[..., k].any()] == [0, 8, 16]


def test_float32_under_autocast(file):
    loss = VGGPerceptualLoss(*file)
    pred, dose = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(pred, dose), loss(pred, dose)) and loss(pred, dose).dtype == torch.float32
        mixed = loss(pred, dose)
    assert torch.equal(mixed, loss(pred, dose))


def test_the_published_number_of_parameters(file):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    network = FiLMUNet(9, 13, base_channels=48)
    assert count(network) == 23_732_801 and count(network) + count(VGGPerceptualLoss(*file)) == 25_468_289
