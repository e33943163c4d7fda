"""A 3D convolution that is safe to train in bfloat16 on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d``; under CPU autocast it computes in float32 where the first spatial extent is 2.

    There the bfloat16 weight gradient of oneDNN (torch 2.13; 3x3x3 kernels, 32 channels and more) reads memory that was never
    written: the gradient is right in a young process and infinite once the heap holds large numbers. It happens at the
    bottleneck of images 17 to 32 voxels wide, and costs nothing to avoid on so small a grid.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if input.shape[2] == 2 and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
                with torch.autocast("cpu", enabled=False):
                    return self._conv_forward(input.float(), self.weight, self.bias).to(torch.get_autocast_dtype("cpu"))
        return self._conv_forward(input, self.weight, self.bias)
