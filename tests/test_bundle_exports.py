"""The conditioned network as TorchScript and ONNX: the same dose, for any image size and batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_vmat.networks.film_unet import FiLMUNet

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "dose" / "configs"
GRIDS = [(1, (17, 20, 33)), (2, (32, 16, 16)), (3, (5, 31, 1))]  # batch and image: odd, multiples of 16, thinner than a patch
TOLERANCE = 1e-4


def samples():
    generator = torch.Generator().manual_seed(0)
    for batch, grid in GRIDS:
        yield torch.randn(batch, 9, *grid, generator=generator), torch.rand(batch, 13, generator=generator)


@pytest.fixture(scope="module")
def network(prostate):
    torch.manual_seed(0)
    net = FiLMUNet(9, base_channels=8, default_constraints=prostate.default_constraint_vector)
    with torch.no_grad():  # as trained ones, norms neither start at one nor biases at zero
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    """A checkpoint as training leaves it."""
    path = tmp_path_factory.mktemp("exports") / "best-epoch=003-val_mae_gy=2.500.pt"
    torch.save({"network": network.state_dict(), "epoch": 3, "val_mae_gy": 2.5}, path)
    return path


@pytest.fixture(scope="module")
def expected(network):
    with torch.no_grad():
        return [network(image, constraints).numpy() for image, constraints in samples()]


# Runs where neither this package nor MONAI can be imported: torch alone must do.
ELSEWHERE = """
import sys
sys.modules["monai_vmat"] = sys.modules["monai"] = None
import json, torch
file, inputs, outputs = sys.argv[1:]
extra = {"metadata.json": "", "inference.json": ""}
network = torch.jit.load(file, _extra_files=extra)
cases = torch.load(inputs, weights_only=True)
with torch.no_grad():
    doses = [network(image, constraints) for image, constraints in cases] + [network(cases[0][0])]
torch.save(doses, outputs)
metadata, configuration = json.loads(extra["metadata.json"]), json.loads(extra["inference.json"])
print(json.dumps([list(metadata["network_data_format"]["inputs"]), metadata["version"], configuration["protocol_name"]]))
"""


def python(folder, *arguments):
    call = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(call, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_torchscript(checkpoint, network, expected, tmp_path):
    file, inputs, outputs = (str(tmp_path / name) for name in ("model.ts", "inputs.pt", "outputs.pt"))
    command = ["-m", "monai.bundle", "ckpt_export", "network_def", "--filepath", file, "--ckpt_file", str(checkpoint)]
    command += ["--key_in_ckpt", "network", "--config_file", str(CONFIGS / "inference.json"), "--weights", str(checkpoint)]
    command += ["--meta_file", str(CONFIGS / "metadata.json")]
    python(tmp_path, *command)
    torch.save(list(samples()), inputs)
    told = python(tmp_path, "-c", ELSEWHERE, file, inputs, outputs)
    version = json.loads((CONFIGS / "metadata.json").read_text())["version"]
    assert json.loads(told) == [["image", "constraints"], version, "prostate_sib"]
    *doses, with_defaults = torch.load(outputs, weights_only=True)
    for dose, reference in zip(doses, expected, strict=True):
        np.testing.assert_allclose(dose.numpy(), reference, rtol=0, atol=TOLERANCE)
    with torch.no_grad():
        reference = network(next(samples())[0])
    torch.testing.assert_close(with_defaults, reference, rtol=0, atol=TOLERANCE)
    assert (with_defaults - doses[0]).abs().max() > 100 * TOLERANCE


@pytest.fixture(scope="module")
def onnx_file(checkpoint, tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[dev]')")
    path = tmp_path_factory.mktemp("onnx") / "models" / "model.onnx"
    workflow = ConfigWorkflow(
        str(CONFIGS / "inference.json"),
        logging_file=False,
        run_id="onnx",
        workflow_type="infer",
        bundle_root=str(path.parents[1]),
        weights=str(checkpoint),
    )
    workflow.parser.parse(reset=True)
    workflow.run()
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]  # one file, no weights beside it
    return path


def test_onnx(onnx_file, expected):
    from onnxruntime import InferenceSession

    session = InferenceSession(onnx_file)
    doses = []
    for (image, constraints), reference in zip(samples(), expected, strict=True):
        (dose,) = session.run(None, {"image": image.numpy(), "constraints": constraints.numpy()})
        np.testing.assert_allclose(dose, reference, rtol=0, atol=TOLERANCE)
        (other,) = session.run(["pred"], {"image": image.numpy(), "constraints": constraints.numpy() + 0.5})
        doses.append(np.abs(dose - other).max())
    assert min(doses) > 100 * TOLERANCE


def test_an_onnx_file_says_what_it_is(onnx_file):
    import onnx

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    grid = ["x", "y", "z"]
    assert sizes == {"image": ["batch", 9, *grid], "constraints": ["batch", 13], "pred": ["batch", 1, *grid]}
    kept = {p.key: p.value for p in model.metadata_props}
    assert json.loads(kept["metadata.json"]) == json.loads((CONFIGS / "metadata.json").read_text())
    assert "not a medical device" in model.doc_string
