"""Checkpoints of the earlier project: the imported network computes what the earlier one did."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_vmat.errors import InputError
from monai_vmat.lightning_checkpoint import read_lightning_checkpoint

HYPER_PARAMETERS = {"in_channels": 9, "base_channels": 8, "constraint_dim": 13, "learning_rate": 1e-4}


class EarlierBlock(nn.Module):
    """The earlier project's block, written from its description with PyTorch's own layers."""

    def __init__(self, ins: int, outs: int, condition: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(ins, outs, 3, padding=1), nn.GroupNorm(8, outs)
        self.conv2, self.norm2 = nn.Conv3d(outs, outs, 3, padding=1), nn.GroupNorm(8, outs)
        self.cond_mlp = nn.Sequential(nn.SiLU(), nn.Linear(condition, 2 * outs))
        self.residual = nn.Conv3d(ins, outs, 1) if ins != outs else nn.Identity()

    def forward(self, x, condition):
        h = F.silu(self.norm1(self.conv1(x)))
        film = self.cond_mlp(condition)
        half = film.shape[1] // 2
        scale, shift = film[:, :half, None, None, None], film[:, half:, None, None, None]
        h = F.silu(self.norm2(self.conv2(h * (1 + scale) + shift)))
        return h + self.residual(x)


class EarlierNetwork(nn.Module):
    def __init__(self, ins: int, b: int, constraints: int) -> None:
        super().__init__()
        self.constraint_mlp = nn.Sequential(nn.Linear(constraints, 256), nn.SiLU(), nn.Linear(256, 256))
        widths = {"enc1": (ins, b), "enc2": (b, 2 * b), "enc3": (2 * b, 4 * b), "enc4": (4 * b, 8 * b)}
        widths |= {"bottleneck": (8 * b, 8 * b)}
        widths |= {"dec4": (16 * b, 4 * b), "dec3": (8 * b, 2 * b), "dec2": (4 * b, b), "dec1": (2 * b, b)}
        for name, (i, o) in widths.items():
            self.add_module(name, EarlierBlock(i, o, 256))
        self.out_conv = nn.Conv3d(b, 1, 1)

    def forward(self, x, constraints):
        condition = self.constraint_mlp(constraints)
        skips = []
        for name in ("enc1", "enc2", "enc3", "enc4"):
            x = getattr(self, name)(x, condition)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        x = self.bottleneck(x, condition)
        for name in ("dec4", "dec3", "dec2", "dec1"):
            x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = getattr(self, name)(torch.cat([x, skips.pop()], dim=1), condition)
        return self.out_conv(x)


class EarlierModule(nn.Module):
    """The Lightning module's parameters: the network, and a loss with a buffer beside it."""

    def __init__(self, ins: int = 9, b: int = 8, constraints: int = 13) -> None:
        super().__init__()
        self.model = EarlierNetwork(ins, b, constraints)
        self.gradient_loss = nn.Module()
        self.gradient_loss.register_buffer("kernel_x", torch.ones(1, 1, 3, 3, 3))
        self.gradient_loss.register_buffer("kernel_y", torch.ones(1, 1, 3, 3, 3))
        with torch.no_grad():
            for parameter in self.parameters():  # norms and biases, too: nothing stays at 0 or 1
                parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def write(path, module: nn.Module, **content) -> None:
    """A checkpoint with what Lightning puts into one."""
    torch.save(
        {
            "epoch": 57,
            "global_step": 4000,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": module.state_dict(),
            "hyper_parameters": HYPER_PARAMETERS,
            "hparams_name": "kwargs",
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val/mae_gy'}": {"best_model_score": torch.tensor(1.9), "dirpath": "/x"}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(4000.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
            "lr_schedulers": [{"T_max": 100}],
        }
        | content,
        path,
    )


@pytest.mark.parametrize(
    ("ins", "b", "constraints", "parameters"),
    [
        (9, 8, 13, HYPER_PARAMETERS),
        (9, 48, 13, {"constraint_dim": 13}),  # the published width; the rest is seen in the weights
        (8, 8, 5, {}),  # as many channels in as out: the first shortcut is the identity
        (11, 16, 13, {"in_channels": 11, "base_channels": None}),
    ],
)
def test_the_imported_network_computes_the_same(tmp_path, ins, b, constraints, parameters):
    module = EarlierModule(ins, b, constraints)
    write(tmp_path / "a.ckpt", module, hyper_parameters=parameters)
    found = read_lightning_checkpoint(tmp_path / "a.ckpt")
    image, condition = torch.randn(2, ins, 16, 16, 32), torch.rand(2, constraints)
    with torch.no_grad():
        theirs, ours = module.model(image, condition), found.network(image, condition)
    assert theirs.std() > 0.01 and (theirs[0] - theirs[1]).abs().max() > 0.01
    assert (theirs - ours).abs().max() <= 1e-5
    sizes = {"in_channels": ins, "base_channels": b, "constraint_dim": constraints, "embedding_dim": 256}
    assert found.sizes == sizes and found.left_aside == {"gradient_loss": 2}
    assert found.stated == tuple(name for name in sizes if parameters.get(name))
    assert (found.epoch, found.global_step) == (57, 4000)
    if b == 48:
        assert sum(p.numel() for p in found.network.parameters()) == 23_732_801


def test_without_hyper_parameters_and_in_half_precision(tmp_path):
    module = EarlierModule().half()
    write(tmp_path / "a.ckpt", module, hyper_parameters=None, epoch="last")
    found = read_lightning_checkpoint(tmp_path / "a.ckpt")
    assert (found.sizes["base_channels"], found.stated, found.epoch) == (8, (), None)
    for name, tensor in found.network.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, module.state_dict()[f"model.{name}"].float())


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {**EarlierModule().state_dict(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda: {"state_dict": changed(model__dec2__conv2__bias=None)}, "missing: dec2.conv2.bias"),
        (lambda: {"state_dict": changed(model__att4__weight=torch.ones(1))}, "unknown: att4.weight"),
        (
            lambda: {"state_dict": changed(model__out_conv__bias=torch.ones(2))},
            r"shapes: out_conv.bias \(2,\) instead of \(1,\)",
        ),
        (lambda: {"state_dict": changed(model__enc1__conv1__weight=None)}, "'model.enc1.conv1.weight': 5 dimensions.*missing"),
        (
            lambda: {"state_dict": changed(model__enc1__conv1__weight=torch.ones(3))},
            r"5 dimensions were expected, got shape \(3,\)",
        ),
        (
            lambda: {"state_dict": changed(model__constraint_mlp__0__weight=torch.ones(3))},
            r"'model.constraint_mlp.0.weight': 2 dimensions were expected, got shape \(3,\)",
        ),
        (
            lambda: {"state_dict": changed(model__enc1__conv1__weight=torch.ones(12, 9, 3, 3, 3)), "hyper_parameters": {}},
            "width 12: a multiple of 8",
        ),
        (lambda: {"state_dict": changed(model__out_conv__bias=torch.full((1,), torch.nan))}, "'out_conv.bias' holds NaN"),
        (
            lambda: {"state_dict": changed(model__out_conv__bias=torch.full((1,), -torch.inf))},
            "'out_conv.bias' holds NaN",
        ),
        (
            lambda: {"hyper_parameters": {"base_channels": 48}},
            "hyper-parameter 'base_channels' is 48, but its weights are for 8",
        ),
        (lambda: {"state_dict": {"net.a": torch.ones(1)}}, "has no names that start with 'model.'"),
        (lambda: {"state_dict": {"model.a": 1}}, "'state_dict': tensors by name were expected"),
        (lambda: {"state_dict": None}, "'state_dict': tensors by name were expected; it holds callbacks, epoch"),
        (
            lambda: {"hyper_parameters": {"root": pathlib.PurePosixPath("/x")}},
            "holds a pathlib.PurePosixPath, which is never loaded",
        ),
        (lambda: {"best": np.float64(1.0)}, "holds a numpy._?core.multiarray.scalar, which is never loaded"),
    ],
)
def test_what_is_refused(tmp_path, content, problem):
    write(tmp_path / "bad.ckpt", EarlierModule(), **content())
    with pytest.raises(InputError, match=f"bad.ckpt: .*{problem}") as error:
        read_lightning_checkpoint(tmp_path / "bad.ckpt")
    assert "\n" not in str(error.value)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "evil.ckpt", EarlierModule(), callbacks={"x": Evil()})
    with pytest.raises(InputError, match="holds a posix.system, which is never loaded"):
        read_lightning_checkpoint(tmp_path / "evil.ckpt")
    assert os.listdir() == ["evil.ckpt"]
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert sorted(os.listdir()) == ["evil.ckpt", "executed"]  # so it would have been
