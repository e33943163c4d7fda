"""The convolution equals PyTorch's, and its bfloat16 gradient does not depend on what the heap held before."""

import os
import subprocess
import sys

import pytest
import torch

from monai_vmat.networks.conv3d import Conv3d

GRADIENT = """
import torch
from monai_vmat.networks.conv3d import Conv3d
torch.manual_seed(0)
conv = Conv3d(32, 32, 3, padding=1).to(memory_format=torch.channels_last_3d)
x = torch.randn(1, 32, {extent}, 3, 6).contiguous(memory_format=torch.channels_last_3d)
with torch.autocast("cpu", torch.bfloat16):
    y = conv(x)
assert y.dtype == torch.bfloat16
y.float().square().sum().backward()
print(float(conv.weight.grad.abs().max()))
"""


@pytest.mark.parametrize("extent", [1, 2, 3, 4])
def test_the_gradient_reads_no_memory_that_was_never_written(extent):
    """glibc fills fresh memory with a pattern of huge numbers here; any that is read shows in the gradient."""
    environment = os.environ | {"MALLOC_PERTURB_": "128", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", GRADIENT.format(extent=extent)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e5


@pytest.mark.parametrize("extent", [2, 5])
def test_equals_pytorch(extent):
    conv = Conv3d(4, 8, 3, padding=1)
    reference = torch.nn.Conv3d(4, 8, 3, padding=1)
    reference.load_state_dict(conv.state_dict())
    x = torch.randn(2, 4, extent, 5, 6)
    assert torch.equal(conv(x), reference(x))
    assert torch.equal(torch.jit.script(conv)(x), reference(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(conv(x), reference(x), atol=0.05)
