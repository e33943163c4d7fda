"""The import of earlier checkpoints as users start it, and the bundle that predicts with the result."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_vmat.case import write_case
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.weights import load_weights

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data_scripts" / "import_checkpoint.py"


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of width 8, the names as the earlier project wrote them."""
    torch.manual_seed(0)
    state = {f"model.{name}": tensor for name, tensor in FiLMUNet(9, base_channels=8).state_dict().items()}
    path = tmp_path_factory.mktemp("old") / "best.ckpt"
    content = {"state_dict": {**state, "gradient_loss.kernel": torch.ones(3)}, "hyper_parameters": {"base_channels": 8}}
    torch.save(content | {"epoch": 41, "global_step": 900}, path)
    return path


def test_the_result_is_weights_that_the_bundle_predicts_with(checkpoint, tmp_path, make_case, prostate):
    done = run(SCRIPT, checkpoint, tmp_path / "w.pt")
    assert done.returncode == 0, done.stderr
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    network = load_weights(tmp_path / "w.pt", FiLMUNet(9, base_channels=8))
    assert all(torch.equal(tensor, state[f"model.{name}"]) for name, tensor in network.state_dict().items())
    stated = torch.load(tmp_path / "w.pt", weights_only=True)
    assert stated.pop("network") and stated == {
        "imported_from": "best.ckpt",
        "epoch": 41,
        "in_channels": 9,
        "base_channels": 8,
        "constraint_dim": 13,
        "embedding_dim": 256,
    }
    for row in (
        rf"tensors of the network +{len(state) - 1} +model\.\*",
        r"parameters +[\d,]+",
        r"in_channels +9 +weights",
        r"base_channels +8 +hyper_parameters and weights",
        r"epoch +41",
        r"left aside: gradient_loss +1 +tensors",
    ):
        assert re.search(row + r" *$", done.stdout, re.M), row

    write_case(make_case(prostate, with_dose=False, case_id="new"), tmp_path / "in" / "new.npz")
    shown = done.stdout.split("use it:\n")[1].replace("\\\n", " ").split()
    values = {"CASE_OR_FOLDER": tmp_path / "in", "OUT": tmp_path / "out", str(tmp_path / "w.pt"): tmp_path / "w.pt"}
    assert shown[0] == "python" and "--base_channels" not in shown  # the width is the file's
    done = run(*(values.get(word, word) for word in shown[1:]), "--window", "-1", "--amp", "false")
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "out" / "new_pred.npz", allow_pickle=False) as saved:
        assert saved["dose"].shape == (24, 20, 16) and saved["dose"].max() > 0


def test_nothing_is_overwritten_or_left_half(checkpoint, tmp_path):
    (tmp_path / "w.pt").write_text("mine")
    done = run(SCRIPT, checkpoint, tmp_path / "w.pt")
    assert done.returncode == 2 and "exists already" in done.stderr and (tmp_path / "w.pt").read_text() == "mine"
    assert run(SCRIPT, checkpoint, tmp_path / "w.pt", "--overwrite").returncode == 0
    load_weights(tmp_path / "w.pt", FiLMUNet(9, base_channels=8))
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[:-1000])
    done = run(SCRIPT, tmp_path / "half.ckpt", tmp_path / "new.pt")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "half.ckpt" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "new.pt").exists()
