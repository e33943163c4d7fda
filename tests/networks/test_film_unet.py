import pytest
import torch
from monai.data import MetaTensor, list_data_collate

from monai_vmat.networks.film_unet import FiLMUNet

BLOCKS = ("enc1", "enc2", "enc3", "enc4", "bottleneck", "dec4", "dec3", "dec2", "dec1")


def network(seed=0, **options) -> FiLMUNet:
    torch.manual_seed(seed)
    return FiLMUNet(9, base_channels=8, **options)


def sample(grid=(16, 16, 16), batch=1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 9, *grid, generator=generator), torch.rand(batch, 13, generator=generator)


def gradients(net, image, constraints) -> dict[str, torch.Tensor]:
    net.zero_grad()
    net(image, constraints).square().mean().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def test_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in FiLMUNet(9, base_channels=48).parameters()) == 23_732_801


def test_names_in_the_state_dict():
    modules = {name.rsplit(".", 1)[0] for name in network().state_dict()}
    parts = ("conv1", "norm1", "conv2", "norm2", "cond_mlp.1", "residual")
    expected = {f"{block}.{part}" for block in BLOCKS for part in parts}
    expected -= {"bottleneck.residual"}  # as many channels in as out: the identity
    assert modules == expected | {"constraint_mlp.0", "constraint_mlp.2", "out_conv"}


def test_widths():
    widths = {name: module.conv2.out_channels for name, module in network().named_children() if name in BLOCKS}
    assert widths == dict(zip(BLOCKS, (8, 16, 32, 64, 64, 32, 16, 8, 8), strict=True))


@pytest.mark.parametrize("fold", [1, 2])
@pytest.mark.parametrize("grid", [(16, 16, 16), (17, 31, 1), (1, 1, 1), (20, 16, 33)])
def test_any_size(grid, fold):
    with torch.no_grad():
        dose = network(fold=fold)(*sample(grid))
    assert dose.shape == (1, 1, *grid)
    assert dose.dtype == torch.float32 and dose.isfinite().all()


def test_folding_keeps_every_voxel_in_its_place():
    """Of a network that sees blocks of 2 x 2 x 2 voxels: input and output channels of a block are its voxels, in one order."""
    net, seen = network(fold=2), {}
    torch.nn.init.normal_(net.out_conv.weight)
    image, constraints = sample((32, 32, 64))
    net.enc1.register_forward_pre_hook(lambda _, args: seen.update(folded=args[0]))
    net.out_conv.register_forward_hook(lambda *a: seen.update(doses=a[2]))
    dose = net(image, constraints)
    assert seen["folded"].shape == (1, 9 * 8, 16, 16, 32) and seen["doses"].shape == (1, 8, 16, 16, 32)
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    for number, (i, j, k) in enumerate(corners):
        assert torch.equal(seen["folded"][0, number::8], image[0, :, i::2, j::2, k::2])
        assert torch.equal(seen["doses"][0, number], dose[0, 0, i::2, j::2, k::2])


def test_an_untrained_folded_network_makes_no_checkerboard():
    """The voxels of a block begin equal, and part as soon as their reference doses differ."""
    net, (image, constraints) = network(fold=2), sample((16, 16, 16))
    dose = net(image, constraints)
    blocks = dose[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    torch.testing.assert_close(blocks, blocks[..., :1].expand_as(blocks))
    assert dose.std() > 0
    (dose - torch.rand(dose.shape)).square().mean().backward()
    assert (net.out_conv.weight.grad.std(0) > 0).all()


def test_padding_repeats_the_border():
    image, constraints = sample((13, 16, 15))
    padded = torch.nn.functional.pad(image, (0, 1, 0, 0, 0, 3), mode="replicate")
    net = network()
    torch.testing.assert_close(net(image, constraints), net(padded, constraints)[:, :, :13, :, :15])


def test_odd_extents_of_coarser_levels():
    """Pooled as if their last voxel were there twice, and back on their own grid, none of their voxels shifted."""
    net, seen = network(), {}
    for name in ("enc1", "enc2", "enc3", "enc4", "bottleneck", "dec4", "dec3"):
        getattr(net, name).register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0], out)}))
    with torch.no_grad():
        net(*sample((20, 28, 36)))
    grids = [tuple(seen[name][1].shape[2:]) for name in ("enc1", "enc2", "enc3", "enc4", "bottleneck", "dec4", "dec3")]
    assert grids == [(20, 28, 36), (10, 14, 18), (5, 7, 9), (3, 4, 5), (2, 2, 3), (3, 4, 5), (5, 7, 9)]
    twice = torch.nn.functional.pad(seen["enc3"][1], (0, 1, 0, 1, 0, 1), mode="replicate")
    assert torch.equal(seen["enc4"][0], torch.nn.functional.max_pool3d(twice, 2))
    doubled = torch.nn.functional.interpolate(seen["dec4"][1], size=(6, 8, 10), mode="trilinear")
    channels = doubled.shape[1]
    assert torch.equal(seen["dec3"][0][:, :channels], doubled[:, :, :5, :7, :9])
    assert torch.equal(seen["dec3"][0][:, channels:], seen["enc3"][1])


def test_constraints_act():
    net, (image, constraints) = network(), sample()
    constraints.requires_grad_()
    found = gradients(net, image, constraints)
    assert (constraints.grad != 0).all()
    assert all((g != 0).any() for g in found.values())
    with torch.no_grad():
        assert (net(image, constraints) - net(image, constraints + 0.1)).abs().max() > 1e-4


def test_constraints_act_on_every_block():
    net = network()
    conditions = [net.constraint_mlp(torch.full((1, 13), c)) for c in (0.4, 0.5)]
    for name in BLOCKS:
        block = getattr(net, name)
        x = torch.randn(1, block.conv1.in_channels, 2, 2, 2)
        a, b = (block(x, condition) for condition in conditions)
        assert (a - b).abs().max() > 1e-4, name


def test_film_scales_and_shifts():
    """With scale s and shift t the modulated map is h (1 + s) + t, between the first norm and the second convolution."""
    block = network().enc2
    captured = {}
    block.norm1.register_forward_hook(lambda *a: captured.update(h=torch.nn.functional.silu(a[2])))
    block.conv2.register_forward_pre_hook(lambda _, args: captured.update(modulated=args[0]))
    with torch.no_grad():
        block.cond_mlp[1].weight.zero_()
        block.cond_mlp[1].bias.copy_(torch.cat([torch.full((16,), 0.5), torch.full((16,), -2.0)]))
        block(torch.randn(1, 8, 4, 4, 4), torch.zeros(1, 256))
    torch.testing.assert_close(captured["modulated"], 1.5 * captured["h"] - 2)


def test_without_film_constraints_do_not_act():
    net, (image, constraints) = network(use_film=False), sample()
    constraints.requires_grad_()
    dose = net(image, constraints)
    assert torch.equal(dose, net(image, constraints + 1))
    dose.sum().backward()
    assert constraints.grad is None or not constraints.grad.any()
    assert torch.equal(dose, network()(image, torch.zeros(1, 13)))


def test_a_batch_is_its_members():
    net, (image, constraints) = network().eval(), sample(batch=2)
    with torch.no_grad():
        together = net(image, constraints)
        alone = torch.cat([net(image[i : i + 1], constraints[i : i + 1]) for i in range(2)])
        swapped = net(image, constraints.flip(0))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together - swapped).abs().max() > 1e-4


def test_the_dose_is_float32_under_autocast():
    """To bfloat16's precision, but not in its steps: the head computes in float32."""
    net, (image, constraints) = network(), sample()
    expected = net(image, constraints)
    for module in (net, torch.jit.script(net)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            dose = module(image, constraints)
        assert dose.dtype == torch.float32
        assert (dose - dose.bfloat16().float()).any()
        torch.testing.assert_close(dose, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_checkpointing_gives_the_same_gradients(memory_format):
    image, constraints = sample()
    image = image.to(memory_format=memory_format)
    plain, thrifty = (network(checkpointing=c).to(memory_format=memory_format) for c in (False, True))
    runs = []
    thrifty.enc1.conv1.register_forward_hook(lambda *_: runs.append(1))
    expected = gradients(plain, image, constraints)
    for name, gradient in gradients(thrifty, image, constraints).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)
    assert len(runs) == 2  # forward, and again in the backward pass
    gradients(thrifty.eval(), image, constraints)
    assert len(runs) == 3  # in evaluation, once


def test_attention_gates_the_skips():
    net, (image, constraints) = network(attention=True), sample()
    gated = net(image, constraints)
    assert all((g != 0).any() for g in gradients(net, image, constraints).values())
    with torch.no_grad():
        for gate in (net.att1, net.att2, net.att3, net.att4):
            gate.weight.weight.zero_()
            gate.weight.bias.fill_(100.0)  # open: the skips pass as they are
    plain = network()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("att")})
    torch.testing.assert_close(net(image, constraints), plain(image, constraints))
    assert (net(image, constraints) - gated).abs().max() > 1e-4


def test_default_constraints_hold_where_none_are_given():
    defaults = [0.1 * i for i in range(13)]
    image, constraints = sample((5, 16, 16), batch=2)
    net = network(default_constraints=defaults)
    assert net.state_dict().keys() == network().state_dict().keys()
    for module in (net, torch.jit.script(net)):
        torch.testing.assert_close(module(image), net(image, torch.tensor([defaults, defaults])), rtol=0, atol=1e-5)
        assert (module(image, constraints) - module(image)).abs().max() > 1e-4
    for module in (network(), torch.jit.script(network())):
        with pytest.raises(Exception, match=r"constraints: expected \(B, 13\), got none, and there are no defaults"):
            module(image)
    with pytest.raises(ValueError, match=r"default_constraints: expected 13 numbers, got \[12\]"):
        network(default_constraints=defaults[1:])


@pytest.mark.parametrize(
    "options", [{}, {"attention": True}, {"checkpointing": True}, {"use_film": False}, {"fold": 2}], ids=str
)
def test_scripting(options):
    net, (image, constraints) = network(**options), sample((17, 8, 31))
    torch.nn.init.normal_(net.out_conv.weight)  # of an untrained one the voxels of a block are alike, whatever their order
    torch.testing.assert_close(torch.jit.script(net)(image, constraints), net(image, constraints), rtol=0, atol=1e-5)


def test_memory_formats_agree():
    """In channels-last the GroupNorm of this package works."""
    image, constraints = sample(batch=2)
    net = network()
    expected = gradients(net, image, constraints)
    net = net.to(memory_format=torch.channels_last_3d)
    found = gradients(net, image.to(memory_format=torch.channels_last_3d), constraints)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_meta_tensors():
    """MONAI's batches have metadata, which must not change the numbers."""
    image, constraints = sample(batch=2)
    batch = list_data_collate([{"image": MetaTensor(i), "constraints": c} for i, c in zip(image, constraints, strict=True)])
    net = network().to(memory_format=torch.channels_last_3d)
    found = gradients(net, batch["image"].to(memory_format=torch.channels_last_3d), batch["constraints"])
    expected = gradients(net, image.to(memory_format=torch.channels_last_3d), constraints)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize(
    ("image", "constraints", "problem"),
    [
        ((1, 8, 16, 16, 16), (1, 13), r"image: expected \(B, 9, X, Y, Z\), got \[1, 8, 16, 16, 16\]"),
        ((9, 16, 16, 16), (1, 13), "image: expected"),
        ((1, 9, 16, 16, 16), (1, 12), r"constraints: expected \(B, 13\), got \[1, 12\]"),
        ((1, 9, 16, 16, 16), (13,), "constraints: expected"),
        ((2, 9, 16, 16, 16), (1, 13), "1 constraint vectors for a batch of 2 images"),
    ],
)
def test_wrong_shapes(image, constraints, problem):
    with pytest.raises(ValueError, match=problem):
        network()(torch.zeros(image), torch.zeros(constraints))


@pytest.mark.parametrize("width", [0, -8, 4, 12])
def test_wrong_widths(width):
    with pytest.raises(ValueError, match=f"base_channels must be a positive multiple of 8, got {width}"):
        FiLMUNet(9, base_channels=width)


def test_wrong_fold():
    with pytest.raises(ValueError, match="fold must be positive, got 0"):
        network(fold=0)
