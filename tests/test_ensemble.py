"""The mean and spread of several predictions, by networks and by mirroring."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from monai_vmat.engines import DoseInferer
from monai_vmat.ensemble import EnsembleInferer
from monai_vmat.errors import InputError
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.transforms.flip_left_right import mirror_constraints, mirror_image


def make_networks(protocol, count):
    networks = []
    for seed in range(count):
        torch.manual_seed(seed)
        networks.append(FiLMUNet(protocol.in_channels, protocol.constraint_dim, 8, 16).eval())
    return nn.ModuleList(networks)


def patient(protocol, batch=1, grid=(19, 17, 16)):
    torch.manual_seed(9)
    return torch.rand(batch, protocol.in_channels, *grid), torch.rand(batch, protocol.constraint_dim)


@torch.no_grad()
def test_mean_and_sample_deviation_of_several_networks(head_and_neck):
    networks, (image, constraints) = make_networks(head_and_neck, 3), patient(head_and_neck, 2)
    out = EnsembleInferer((16, 16, 16), protocol=head_and_neck)(image, networks, constraints=constraints)
    single = torch.stack([DoseInferer((16, 16, 16))(image, network, constraints=constraints) for network in networks])
    assert out.shape == (2, 2, 19, 17, 16)
    torch.testing.assert_close(out[:, :1], single.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(out[:, 1:], single.std(0), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("turns", [False, True])
def test_each_network_has_its_own_window(head_and_neck, turns):
    networks, (image, constraints) = make_networks(head_and_neck, 2), patient(head_and_neck)
    given = {"constraints": constraints, "spacing_mm": torch.tensor([[3.0, 3.0, 3.0]])}
    options = {"protocol": head_and_neck, "turns": turns}
    both = EnsembleInferer([[16, 16, 16], -1], **options)(image, networks, **given)
    one, two = (EnsembleInferer(window, **options)(image, net, **given) for net, window in zip(networks, ((16,) * 3, -1)))
    torch.testing.assert_close(both[:, :1], (one + two) / 2, rtol=0, atol=1e-6)
    assert (EnsembleInferer(-1, **options)(image, networks, **given) - both).abs().max() > 1e-3
    with pytest.raises(InputError, match="--window: 2 windows, networks: 1"):
        EnsembleInferer([[16, 16, 16], -1], **options)(image, networks[0], **given)


@torch.no_grad()
def test_one_network_is_the_plain_inferer(head_and_neck):
    (network,), (image, constraints) = make_networks(head_and_neck, 1), patient(head_and_neck)
    region = torch.rand(1, 1, 19, 17, 16) > 0.5
    plain = DoseInferer((16, 16, 16), amp=True)(image, network, constraints=constraints, region=region)
    ours = EnsembleInferer((16, 16, 16), protocol=head_and_neck, amp=True, flips="false")
    assert torch.equal(ours(image, network, constraints=constraints, region=region), plain)


@torch.no_grad()
@pytest.mark.parametrize("uncertainty", [None, "flips"])
def test_a_mirrored_patient_gets_the_mirrored_dose(head_and_neck, uncertainty):
    """The law of test-time flips, which no plain network obeys: pairs, their limits, beams and region change sides together."""
    (network,), (image, constraints) = make_networks(head_and_neck, 1), patient(head_and_neck, grid=(40, 16, 16))
    region = torch.ones(1, 1, 40, 16, 16, dtype=torch.bool)
    region[:, :, :28] = False  # two windows of three are left out
    inferer = EnsembleInferer((16, 16, 16), protocol=head_and_neck, flips=True, uncertainty=uncertainty)
    other_image = mirror_image(image[0], head_and_neck)[None]
    other = {"constraints": mirror_constraints(constraints, head_and_neck), "region": region.flip(2)}
    dose = inferer(image, network, constraints=constraints, region=region)
    mirrored = inferer(other_image, network, **other)
    torch.testing.assert_close(mirrored.flip(2), dose, rtol=0, atol=1e-6)
    assert dose[:, :, 30:].any() and not dose[:, :, :24].any()
    assert dose.shape[1] == (1 if uncertainty is None else 2)
    plain = DoseInferer((16, 16, 16))
    one, two = plain(image, network, constraints=constraints, region=region), plain(other_image, network, **other).flip(2)
    assert (one - two).abs().max() > 1e-3
    torch.testing.assert_close(dose[:, :1], (one + two) / 2, rtol=0, atol=1e-6)
    if uncertainty:
        torch.testing.assert_close(dose[:, 1:], (one - two).abs() / 2**0.5, rtol=0, atol=1e-6)


def test_flips_join_an_ensemble(prostate):
    networks, (image, constraints) = make_networks(prostate, 2), patient(prostate)
    with torch.no_grad():
        out = EnsembleInferer(protocol=prostate, flips="true")(image, networks, constraints=constraints)
        doses = [network(image, constraints) for network in networks]
        mirrored = mirror_image(image[0], prostate)[None]
        doses += [network(mirrored, mirror_constraints(constraints, prostate)).flip(2) for network in networks]
    torch.testing.assert_close(out[:, 1:], torch.stack(doses).std(0), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("flips", [False, True])
def test_a_turned_patient_gets_the_turned_dose(head_and_neck, flips):
    """The law of test-time turns, which no plain network obeys; exact for quarters of a turn."""
    protocol = replace(head_and_neck, gantry_angles_deg=(0.0, 90.0, 180.0, 270.0))
    (network,), (image, constraints) = make_networks(protocol, 1), patient(protocol, batch=2, grid=(20, 15, 12))
    region = torch.zeros(2, 1, 20, 15, 12, dtype=torch.bool)
    region[0, :, :17, 2:, :] = region[1, :, 2:, :7, 1:9] = True  # together they reach every face, as a cut image's region does
    here = {"constraints": constraints, "spacing_mm": torch.tensor([[3.0, 3.0, 2.0]] * 2)}
    inferer = EnsembleInferer((32, 32, 32), protocol=protocol, turns="true", flips=flips)
    dose = inferer(image, network, region=region, **here)
    other = inferer(image.rot90(1, (2, 3)), network, region=region.rot90(1, (2, 3)), **here)
    assert dose.shape == (2, 1, 20, 15, 12)
    torch.testing.assert_close(other.rot90(-1, (2, 3)), dose, rtol=0, atol=1e-4)
    plain = DoseInferer((32, 32, 32))
    one, two = (plain(image.rot90(k, (2, 3)), network, constraints=constraints).rot90(-k, (2, 3)) for k in (0, 1))
    assert (one - two).abs().max() > 1e-3


@torch.no_grad()
def test_turns_are_cut_to_their_region_and_put_back_in_place(head_and_neck):
    """A network that predicts its own CT channel and counts voxels: the mean of nine turns is the smooth channel again."""

    class Echo(nn.Module):
        def forward(self, image, constraints):
            sizes.append(tuple(image.shape[2:]))
            return image[:, :1]

    sizes = []
    x, y, z = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (60, 30, 8)), indexing="ij")
    image = torch.zeros(1, head_and_neck.in_channels, 60, 30, 8)
    image[0, 0] = torch.exp(-((x - 6) ** 2 + 4 * y**2) / 300)
    region = (image[:, :1] > 0.2) & (z.abs() < 3)
    inferer = EnsembleInferer(protocol=head_and_neck, turns=True)
    dose = inferer(image, Echo(), constraints=torch.zeros(1, 10), region=region, spacing_mm=torch.tensor([[2.0, 4.0, 3.0]]))
    assert (dose - image[:, :1]).abs()[region].max() < 0.02
    assert sizes[0] == (60, 30, 8) and len(sizes) == 9 and {size[2] for size in sizes[1:]} == {6}
    assert all(size[0] * size[1] < 60 * 30 * 1.5 for size in sizes[1:])


def test_unknown_uncertainty(prostate):
    with pytest.raises(InputError, match="--uncertainty: 'flips' or 'turns' was expected, got 'dropout'"):
        EnsembleInferer(protocol=prostate, uncertainty="dropout")
    with pytest.raises(InputError, match="equidistant"):
        EnsembleInferer(protocol=prostate, turns=True)
