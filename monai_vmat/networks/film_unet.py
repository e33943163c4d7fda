"""A residual 3D U-Net whose every block is modulated by the plan's constraint vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_vmat.networks.conv3d import Conv3d
from monai_vmat.networks.group_norm import GroupNorm

# Groups of every GroupNorm.
NORM_GROUPS = 8
# Where the weights themselves show settings: tensor and axis.
SHOWN_BY = {
    "in_channels": ("enc1.conv1.weight", 1),
    "base_channels": ("enc1.conv1.weight", 0),
    "constraint_dim": ("constraint_mlp.0.weight", 1),
    "embedding_dim": ("constraint_mlp.0.weight", 0),
}


def shown_settings(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of :class:`FiLMUNet` that the shapes and names of its weights show: all that shape it."""
    shown: dict[str, Any] = {
        name: int(weights[tensor].shape[axis])
        for name, (tensor, axis) in SHOWN_BY.items()
        if isinstance(weights.get(tensor), Tensor) and weights[tensor].dim() > axis
    }
    shown["attention"] = "att1.weight.weight" in weights
    head = weights.get("out_conv.weight")
    fold = round(len(head) ** (1 / 3)) if isinstance(head, Tensor) and head.dim() else 1
    if fold > 1:
        shown["fold"] = fold
        shown["in_channels"] //= fold**3
    return shown


class FiLMBlock(nn.Module):
    """Two 3x3x3 convolutions with GroupNorm and SiLU, FiLM between them, and a shortcut around them.

    FiLM (feature-wise linear modulation, Perez et al. 2018, doi:10.1609/aaai.v32i1.11671) scales and shifts every
    feature map by amounts computed from the condition: ``h * (1 + scale) + shift``.

    With ``checkpointing`` the backward pass computes the activations again instead of keeping them.

    Shapes: ``x`` (B, in_channels, X, Y, Z) and ``condition`` (B, condition_dim) give (B, out_channels, X, Y, Z).
    """

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.conv1 = Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm1 = GroupNorm(NORM_GROUPS, out_channels)
        self.cond_mlp = nn.Sequential(nn.SiLU(), nn.Linear(condition_dim, 2 * out_channels))
        self.conv2 = Conv3d(out_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(NORM_GROUPS, out_channels)
        self.residual = nn.Identity() if in_channels == out_channels else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if self.checkpointing and self.training:
                return checkpoint(self._compute, x, condition, use_reentrant=False)
        return self._compute(x, condition)

    def _compute(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.cond_mlp(condition)[:, :, None, None, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.conv1(x)))
        h = h * (1 + scale) + shift
        return F.silu(self.norm2(self.conv2(h))) + self.residual(x)


class AttentionGate(nn.Module):
    """Additive attention on a skip connection (Oktay et al. 2018, arXiv:1804.03999).

    Shapes: ``skip`` and ``gate`` (B, C, X, Y, Z), on the same grid, give ``skip`` weighted by a map in 0..1.
    """

    def __init__(self, skip_channels: int, gate_channels: int) -> None:
        super().__init__()
        hidden = max(skip_channels // 2, 1)
        self.from_skip = nn.Conv3d(skip_channels, hidden, 1)
        self.from_gate = nn.Conv3d(gate_channels, hidden, 1)
        self.weight = nn.Conv3d(hidden, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        return skip * torch.sigmoid(self.weight(F.relu(self.from_skip(skip) + self.from_gate(gate))))


class FiLMUNet(nn.Module):
    """Residual 3D U-Net that predicts dose from image channels, conditioned on the plan's constraints.

    Four encoder levels of widths b, 2b, 4b, 8b and a bottleneck of 8b; max-pooling by 2; a decoder of widths 4b, 2b, b, b
    with trilinear upsampling and concatenated skips (Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28); a 1x1x1
    output convolution, always in float32 because a bfloat16 step at 70 Gy is 0.5 Gy. Every block is modulated by the
    constraints (see :class:`FiLMBlock`). With 9 inputs and ``base_channels=48`` it has 23,732,801 parameters.

    Args:
        in_channels: channels of the image (CT, signed distances, ...).
        constraint_dim: length of the constraint vector; 13 for ``prostate_sib``.
        base_channels: width b of the first level, a multiple of 8.
        embedding_dim: width of the constraint embedding.
        attention: gate the skip connections by additive attention.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        fold: handle blocks of fold x fold x fold voxels as one, whose voxels are its channels, and unfold the result (sub-pixel
            convolution, Shi et al. 2016, arXiv:1609.05158): with 2 an eighth of the positions, so that whole patients are
            patches and steps are several times faster; most of the error of a predicted dose is coarse anyway.
        use_film: ``False`` ignores the constraints (the ``no_film`` ablation): every vector then acts as zeros do.
        default_constraints: the vector that holds where ``forward`` gets none, for programs that know of images alone; it is
            no part of the state dict. Without it the constraints must be given, so that no training forgets them.

    Shapes:
        ``image`` (B, in_channels, X, Y, Z), any size: padded inside to multiples of 4 x fold by repeating its far borders, the
        result cropped again; on coarser levels an odd extent is pooled to the half that is rounded up. ``constraints``
        (B, constraint_dim). Returns (B, 1, X, Y, Z): dose as a fraction of the primary prescription, float32.

    Raises:
        ValueError: when ``base_channels`` is not a positive multiple of 8, the inputs' shapes do not fit, or there are neither
            constraints nor their defaults.
    """

    def __init__(
        self,
        in_channels: int,
        constraint_dim: int = 13,
        base_channels: int = 48,
        embedding_dim: int = 256,
        attention: bool = False,
        checkpointing: bool = False,
        fold: int = 1,
        use_film: bool = True,
        default_constraints: Optional[Sequence[float]] = None,
    ) -> None:
        super().__init__()
        # By which the same network can be built again; weight files hold them.
        self.settings = {
            "in_channels": in_channels,
            "constraint_dim": constraint_dim,
            "base_channels": base_channels,
            "embedding_dim": embedding_dim,
            "attention": attention,
            "fold": fold,
            "use_film": use_film,
        }
        if base_channels < NORM_GROUPS or base_channels % NORM_GROUPS:
            raise ValueError(f"base_channels must be a positive multiple of {NORM_GROUPS}, got {base_channels}")
        if fold < 1:
            raise ValueError(f"fold must be positive, got {fold}")
        self.in_channels = in_channels
        self.constraint_dim = constraint_dim
        self.use_film = use_film
        self.fold = fold
        self.divisor = 4 * fold
        defaults = None
        if default_constraints is not None:
            defaults = torch.as_tensor(default_constraints, dtype=torch.float32)
            if defaults.shape != (constraint_dim,):
                raise ValueError(f"default_constraints: expected {constraint_dim} numbers, got {list(defaults.shape)}")
        self.register_buffer("default_constraints", defaults, persistent=False)
        b = base_channels
        self.constraint_mlp = nn.Sequential(
            nn.Linear(constraint_dim, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim)
        )
        self.enc1 = FiLMBlock(in_channels * fold**3, b, embedding_dim, checkpointing)
        self.enc2 = FiLMBlock(b, 2 * b, embedding_dim, checkpointing)
        self.enc3 = FiLMBlock(2 * b, 4 * b, embedding_dim, checkpointing)
        self.enc4 = FiLMBlock(4 * b, 8 * b, embedding_dim, checkpointing)
        self.bottleneck = FiLMBlock(8 * b, 8 * b, embedding_dim, checkpointing)
        self.dec4 = FiLMBlock(8 * b + 8 * b, 4 * b, embedding_dim, checkpointing)
        self.dec3 = FiLMBlock(4 * b + 4 * b, 2 * b, embedding_dim, checkpointing)
        self.dec2 = FiLMBlock(2 * b + 2 * b, b, embedding_dim, checkpointing)
        self.dec1 = FiLMBlock(b + b, b, embedding_dim, checkpointing)
        self.att4 = AttentionGate(8 * b, 8 * b) if attention else None
        self.att3 = AttentionGate(4 * b, 4 * b) if attention else None
        self.att2 = AttentionGate(2 * b, 2 * b) if attention else None
        self.att1 = AttentionGate(b, b) if attention else None
        self.out_conv = nn.Conv3d(b, fold**3, 1)
        with torch.no_grad():  # a block's voxels begin equal, without a checkerboard to unlearn (Aitken 2017, arXiv:1707.02937)
            for parameter in self.out_conv.parameters():
                parameter.copy_(parameter[:1].clone())

    def forward(self, image: Tensor, constraints: Optional[Tensor] = None) -> Tensor:
        if image.dim() != 5 or image.shape[1] != self.in_channels:
            raise ValueError(f"image: expected (B, {self.in_channels}, X, Y, Z), got {list(image.shape)}")
        if constraints is None:
            defaults = self.default_constraints
            if not isinstance(defaults, Tensor):
                raise ValueError(f"constraints: expected (B, {self.constraint_dim}), got none, and there are no defaults")
            constraints = defaults.expand(image.shape[0], -1)
        if constraints.dim() != 2 or constraints.shape[1] != self.constraint_dim:
            raise ValueError(f"constraints: expected (B, {self.constraint_dim}), got {list(constraints.shape)}")
        if constraints.shape[0] != image.shape[0]:
            raise ValueError(f"{constraints.shape[0]} constraint vectors for a batch of {image.shape[0]} images")
        nx, ny, nz = image.shape[2], image.shape[3], image.shape[4]
        pad = [0, self._missing(nz), 0, self._missing(ny), 0, self._missing(nx)]
        x = F.pad(image, pad, mode="replicate") if sum(pad) > 0 else image
        if self.fold > 1:
            x = _fold(x, self.fold)
        condition = self.constraint_mlp(constraints if self.use_film else torch.zeros_like(constraints))

        skip1 = self.enc1(x, condition)
        skip2 = self.enc2(_pool(skip1), condition)
        skip3 = self.enc3(_pool(skip2), condition)
        skip4 = self.enc4(_pool(skip3), condition)
        h = self.bottleneck(_pool(skip4), condition)

        up = _upsample(h, skip4)
        h = self.dec4(torch.cat([up, skip4 if self.att4 is None else self.att4(skip4, up)], 1), condition)
        up = _upsample(h, skip3)
        h = self.dec3(torch.cat([up, skip3 if self.att3 is None else self.att3(skip3, up)], 1), condition)
        up = _upsample(h, skip2)
        h = self.dec2(torch.cat([up, skip2 if self.att2 is None else self.att2(skip2, up)], 1), condition)
        up = _upsample(h, skip1)
        h = self.dec1(torch.cat([up, skip1 if self.att1 is None else self.att1(skip1, up)], 1), condition)
        dose = self._head(h)
        if self.fold > 1:
            dose = _unfold(dose, self.fold)
        return dose[:, :, :nx, :ny, :nz]

    def _missing(self, extent: int) -> int:
        # The next multiple minus the extent: torch.export cancels the extent when it pads, and its shapes stay simple.
        return (extent + self.divisor - 1) // self.divisor * self.divisor - extent

    def _head(self, h: Tensor) -> Tensor:
        h = h.float()
        if torch.jit.is_scripting():  # autocast cannot be switched off there: the 1x1x1 convolution as a sum of products
            bias = self.out_conv.bias
            assert bias is not None
            doses = [(h * weight[None]).sum(1, keepdim=True) for weight in self.out_conv.weight]
            return torch.cat(doses, 1) + bias[None, :, None, None, None]
        with torch.autocast(h.device.type, enabled=False):
            return self.out_conv(h)


def _fold(x: Tensor, n: int) -> Tensor:
    """(B, C, nX, nY, nZ) to (B, n^3 C, X, Y, Z): the voxels of each block become channels."""
    b, c, nx, ny, nz = x.shape
    blocks = x.reshape(b, c, nx // n, n, ny // n, n, nz // n, n).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(b, c * n * n * n, nx // n, ny // n, nz // n)


def _unfold(x: Tensor, n: int) -> Tensor:
    """The inverse of :func:`_fold` for one channel: (B, n^3, X, Y, Z) to (B, 1, nX, nY, nZ)."""
    b, _, nx, ny, nz = x.shape
    return x.reshape(b, n, n, n, nx, ny, nz).permute(0, 4, 1, 5, 2, 6, 3).reshape(b, 1, nx * n, ny * n, nz * n)


def _pool(x: Tensor) -> Tensor:
    # An odd last voxel is its own maximum. Autocast would pool in float32 on a CPU: the same maxima, with copies to and fro.
    if torch.jit.is_scripting():
        return F.max_pool3d(x, 2, ceil_mode=True)
    with torch.autocast(x.device.type, enabled=False):
        return F.max_pool3d(x, 2, ceil_mode=True)


def _upsample(x: Tensor, skip: Tensor) -> Tensor:
    """To the grid that ``x`` was pooled from, which is that of ``skip``."""
    doubled = F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
    return doubled[:, :, : skip.shape[2], : skip.shape[3], : skip.shape[4]]
