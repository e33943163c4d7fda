"""VGG16's trunk: torchvision's names, checked weights, and what is said when there are none."""

import hashlib
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F

from monai_vmat.errors import InputError
from monai_vmat.networks.vgg16 import VGG16Trunk

# torchvision's names and shapes, up to relu3_3.
SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}


@pytest.fixture(scope="module")
def stored():
    torch.manual_seed(0)
    content = {"classifier.6.bias": torch.zeros(1000)}  # the official file has the other layers too
    for i, shape in SHAPES.items():
        content |= {f"features.{i}.weight": 0.05 * torch.randn(*shape, 3, 3), f"features.{i}.bias": torch.randn(shape[0])}
    return content


@pytest.fixture(scope="module")
def file(stored, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "weights.pth"
    torch.save(stored, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_parameters_are_frozen_and_as_many_as_they_should_be(file):
    parameters = list(VGG16Trunk(*file).parameters())
    assert sum(p.numel() for p in parameters) == 1_735_488 and not any(p.requires_grad for p in parameters)


def test_features_step_by_step(file, stored):
    picture = torch.rand(2, 3, 20, 12)

    def convolved(x, i):
        return F.relu(F.conv2d(x, stored[f"features.{i}.weight"], stored[f"features.{i}.bias"], padding=1))

    relu1_2 = convolved(convolved(picture, 0), 2)
    relu2_2 = convolved(convolved(F.max_pool2d(relu1_2, 2), 5), 7)
    relu3_3 = convolved(convolved(convolved(F.max_pool2d(relu2_2, 2), 10), 12), 14)
    for found, expected in zip(VGG16Trunk(*file)(picture), (relu1_2, relu2_2, relu3_3), strict=True):
        assert torch.equal(found, expected)


def test_other_weights_are_refused(file, tmp_path):
    path, sha256 = file
    with pytest.raises(InputError, match="weights.pth.*SHA-256.*397923af.*vgg16-397923af.pth"):
        VGG16Trunk(path)  # the official file's hash is the default
    with pytest.raises(InputError, match="8 digits"):
        VGG16Trunk(path, sha256[:4])
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(InputError, match="part.pth.*missing.*features.0.bias"):
        VGG16Trunk(tmp_path / "part.pth", hashlib.sha256((tmp_path / "part.pth").read_bytes()).hexdigest())
    with pytest.raises(InputError, match="none.pth.*cannot be read"):
        VGG16Trunk(tmp_path / "none.pth")


def test_offline_it_says_where_to_get_the_weights(tmp_path, monkeypatch):
    def offline(url, dst, hash_prefix):
        assert (url, hash_prefix) == ("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match="no route to host.*download.pytorch.org/models/vgg16-397923af.pth.*--vgg_weights"):
        VGG16Trunk()


def test_a_cached_file_is_checked_too(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").write_bytes(file[0].read_bytes())
    with pytest.raises(InputError, match="vgg16-397923af.pth.*SHA-256"):
        VGG16Trunk()
