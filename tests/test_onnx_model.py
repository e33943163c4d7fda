"""What is refused before anything is exported, and a folded network's file; the bundle's files: test_bundle_exports.py."""

import pytest
import torch

from monai_vmat.errors import InputError
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.onnx_model import export_onnx


def tiny():
    return FiLMUNet(2, 3, base_channels=8, embedding_dim=8)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())
    with pytest.raises(InputError, match=f"m.onnx: writing ONNX files needs the package {package}. pip install"):
        export_onnx(tiny(), tmp_path / "m.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_file_holds_one_network(tmp_path):
    with pytest.raises(InputError, match="m.onnx: several weight files were named"):
        export_onnx(torch.nn.ModuleList([tiny(), tiny()]), tmp_path / "m.onnx", {})


def test_a_folded_network_of_any_size(tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = FiLMUNet(2, 3, base_channels=8, embedding_dim=8, fold=2).eval()
    torch.nn.init.normal_(network.out_conv.weight)  # the voxels of a block are alike in an untrained one
    export_onnx(network, tmp_path / "m.onnx", {})
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    for grid in ((17, 33, 5), (32, 32, 64)):
        image, constraints = torch.rand(1, 2, *grid), torch.rand(1, 3)
        (dose,) = session.run(None, {"image": image.numpy(), "constraints": constraints.numpy()})
        with torch.no_grad():
            expected = network(image, constraints)
        torch.testing.assert_close(torch.from_numpy(dose), expected, rtol=0, atol=1e-4)
