import pytest
import torch

from monai_vmat.networks.group_norm import GroupNorm

# Channels, groups and grid; voxel counts are not all multiples of 64, and one is odd.
SIZES = [(16, 8, (4, 6, 8)), (24, 8, (5, 3, 7)), (8, 8, (2, 2, 2)), (12, 1, (3, 10, 1)), (48, 8, (8, 8, 8))]


def sample(channels, grid, dtype=torch.float64, offset=0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *grid, generator=generator, dtype=torch.float64) * 3 + offset
    return x.to(dtype).to(memory_format=torch.channels_last_3d)


def norm(channels, groups, dtype=torch.float64, **options) -> GroupNorm:
    layer = GroupNorm(groups, channels, **options).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for p in layer.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
    return layer


def run(layer, x, upstream) -> list[torch.Tensor]:
    """Output and gradients by input, weight and bias."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(upstream)
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


def fast(layer, x) -> bool:
    return "ChannelsLast" in type(layer(x).grad_fn).__name__


@pytest.mark.parametrize(("channels", "groups", "grid"), SIZES)
@pytest.mark.parametrize("upstream_format", [torch.channels_last_3d, torch.contiguous_format])
def test_equals_torch(channels, groups, grid, upstream_format):
    layer = norm(channels, groups)
    reference = torch.nn.GroupNorm(groups, channels).double()
    reference.load_state_dict(layer.state_dict())
    x = sample(channels, grid, offset=1.0)
    upstream = sample(channels, grid).roll(1, 0).contiguous(memory_format=upstream_format)
    assert fast(layer, x.clone().requires_grad_())
    for found, expected in zip(run(layer, x, upstream), run(reference, x.contiguous(), upstream), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_gradients_by_finite_differences():
    layer = norm(8, 4)

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    x = sample(8, (2, 1, 3)).requires_grad_()
    assert fast(layer, x)
    assert torch.autograd.gradcheck(function, (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()))


@pytest.mark.parametrize("offset", [0.0, 1.0, 6.0])
def test_bfloat16(offset):
    """Up to a mean of twice the deviation; the output is the exact one, rounded once."""
    layer = norm(16, 8, torch.float32)
    x, upstream = sample(16, (8, 10, 8), torch.bfloat16, offset), sample(16, (8, 10, 8), torch.bfloat16).roll(1, 0)
    reference = norm(16, 8).requires_grad_()
    reference.load_state_dict(layer.state_dict())
    expected = run(reference, x.double().contiguous(), upstream.double())
    assert fast(layer, x.clone().requires_grad_())
    found = run(layer, x, upstream)
    for f, e in zip(found, expected, strict=True):
        assert (f.double() - e).norm() <= 1e-2 * e.norm()
    torch.testing.assert_close(found[0].double(), expected[0], rtol=2**-8, atol=1e-4)


def test_the_fast_path_is_taken_where_it_pays():
    layer = norm(16, 8, torch.float32)
    x = sample(16, (4, 4, 4), torch.float32)
    assert fast(layer, x.clone().requires_grad_())
    assert not fast(layer, x.contiguous().requires_grad_())
    assert not fast(layer, x)  # no gradient by x is due
    assert not fast(layer, x[:, :, :, :, 0].requires_grad_())  # an image
    assert not fast(layer, x[..., ::2].requires_grad_())  # neither format
    assert not fast(layer, x[..., :1, :1, :1].contiguous().requires_grad_())  # both formats
    with torch.no_grad():
        assert layer(x.clone().requires_grad_()).grad_fn is None


def test_the_memory_format_is_kept():
    layer, x = norm(16, 8, torch.float32), sample(16, (4, 4, 4), torch.float32).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    for tensor in (y, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)


def test_without_weights():
    x, upstream = sample(16, (4, 4, 4)), sample(16, (4, 4, 4)).roll(1, 0)
    found = run(norm(16, 8, affine=False), x, upstream)
    torch.testing.assert_close(found, run(torch.nn.GroupNorm(8, 16, affine=False), x, upstream))


def test_second_derivatives_are_refused():
    """They would be wrong: mean and deviation are constants to the backward pass."""
    x = sample(8, (2, 2, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(norm(8, 8)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("affine", [True, False])
def test_exported_it_is_the_same(affine):
    layer, x = norm(12, 4, affine=affine), sample(12, (3, 4, 5))
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), rtol=1e-10, atol=1e-10)


def test_an_onnx_runtime_keeps_its_precision_on_large_volumes():
    """A runtime's own normalisation is off by 1e-4 and more on so many voxels."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install -e '.[dev]')")
    from onnxruntime import InferenceSession

    layer, x = norm(2, 1, torch.float32), sample(2, (96, 128, 160), torch.float32, offset=3.0).contiguous()
    program = torch.onnx.export(layer.eval(), (x,), input_names=["x"], verbose=False)
    (found,) = InferenceSession(program.model_proto.SerializeToString()).run(None, {"x": x.numpy()})
    expected = torch.nn.functional.group_norm(x.double(), 1, layer.weight.double(), layer.bias.double())
    assert (torch.as_tensor(found) - expected).abs().max() < 1e-5
