"""Weight files: the network that fits one, what it says of itself, and what is refused."""

import zipfile

import pytest
import torch

from monai_vmat.errors import InputError
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.weights import (
    build_network,
    describe,
    facts_of,
    load_checkpoint,
    load_weights,
    read_weights,
    trained_window,
    trainings_of,
    weight_files,
)


def tiny(**options):
    torch.manual_seed(0)
    return FiLMUNet(2, 3, base_channels=8, embedding_dim=8, **options).eval()


def small(**options):
    return FiLMUNet(9, 13, **({"base_channels": 8, "embedding_dim": 16} | options))


def test_facts_travel_beside_the_tensors_of_an_ordinary_state_dict(tmp_path):
    network, facts = tiny(), {"protocol": "a", "settings": {"base_channels": 8}, "ranges": [1.0, None]}
    assert facts_of(network.state_dict()) == {}
    torch.save(describe(network.state_dict(), facts), tmp_path / "w.pt")
    state = torch.load(tmp_path / "w.pt", weights_only=True)
    other = FiLMUNet(2, 3, base_channels=8, embedding_dim=8)
    other.load_state_dict(state)  # strictly: nothing but tensors is in it
    assert facts_of(state) == facts and torch.equal(other.out_conv.weight, network.out_conv.weight)


@pytest.mark.parametrize("described", [True, False])
def test_the_network_is_built_by_what_the_file_says_or_shows(tmp_path, prostate, described):
    network = small(base_channels=16, attention=True, fold=2)
    state = network.state_dict()
    torch.save({"network": describe(state, {"settings": network.settings}) if described else state}, tmp_path / "w.pt")
    built = build_network(
        tmp_path / "w.pt", prostate, default_constraints=prostate.default_constraint_vector, base_channels=None
    )
    assert built.settings == network.settings and built.default_constraints is not None
    load_weights(tmp_path / "w.pt", built)
    assert build_network(tmp_path / "w.pt", prostate, base_channels=16, use_film=True).settings == network.settings


def test_what_shapes_do_not_show_is_in_the_facts(tmp_path, prostate):
    network = small(use_film=False)
    torch.save(describe(network.state_dict(), {"settings": network.settings}), tmp_path / "w.pt")
    assert build_network(tmp_path / "w.pt", prostate).use_film is False
    torch.save(network.state_dict(), tmp_path / "old.pt")
    assert build_network(tmp_path / "old.pt", prostate, use_film=False).use_film is False
    with pytest.raises(InputError, match="w.pt.*use_film False, the configuration says True"):
        build_network(tmp_path / "w.pt", prostate, use_film=True)


def test_without_a_file_the_configuration_counts(tmp_path, prostate):
    assert build_network(tmp_path / "none.pt", prostate, in_channels=9, base_channels=24).settings["base_channels"] == 24
    assert build_network(tmp_path / "none.pt", prostate, in_channels=9).settings["base_channels"] == 48


def test_contradictions_are_one_line(tmp_path, prostate, head_and_neck):
    network = small()
    torch.save(describe(network.state_dict(), {"protocol": prostate.name, "settings": network.settings}), tmp_path / "w.pt")
    with pytest.raises(
        InputError, match="w.pt.*base_channels 8, the configuration says 16\\). Leave the setting out"
    ) as caught:
        build_network(tmp_path / "w.pt", prostate, base_channels=16)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        InputError, match=f"protocol '{prostate.name}'.*'{head_and_neck.name}'. Use --protocol_name prostate_sib"
    ):
        build_network(tmp_path / "w.pt", head_and_neck)
    with pytest.raises(InputError, match="multiple of 8"):
        build_network(tmp_path / "none.pt", prostate, in_channels=9, base_channels=12)
    torch.save(describe(network.state_dict(), {"settings": {"depth": 3}}), tmp_path / "later.pt")
    with pytest.raises(InputError, match="later.pt: no network.*depth"):
        build_network(tmp_path / "later.pt", prostate)


def test_of_a_trainings_checkpoint_the_evaluated_network_counts(tmp_path):
    trained, averaged = tiny(), tiny()
    with torch.no_grad():
        averaged.out_conv.bias.fill_(0.25)
    torch.save({"network": trained.state_dict(), "evaluated_network": averaged.state_dict(), "epoch": 1}, tmp_path / "last.pt")
    assert read_weights(tmp_path / "last.pt")["out_conv.bias"].item() == 0.25


def test_half_precision_is_read_as_single(tmp_path):
    network = tiny()
    torch.save({name: tensor.half() for name, tensor in network.state_dict().items()}, tmp_path / "w.pt")
    other = load_weights(tmp_path / "w.pt", FiLMUNet(2, 3, base_channels=8, embedding_dim=8))
    assert other.out_conv.weight.dtype == torch.float32
    assert torch.equal(other.out_conv.weight, network.out_conv.weight.half().float())


def test_several_files_are_an_ensemble(tmp_path, prostate):
    networks = {"a.pt": small(), "b.pt": small(base_channels=16)}
    for name, network in networks.items():
        torch.save(network.state_dict(), tmp_path / name)
    files = [tmp_path / name for name in networks]
    built = load_weights(files, build_network(files, prostate))
    for part, network in zip(built, networks.values(), strict=True):
        assert torch.equal(part.out_conv.weight, network.out_conv.weight)
    assert weight_files(f"[{files[0]}, '{files[1]}']") == weight_files(files) == files
    assert weight_files(str(files[0])) == [files[0]]


def test_weights_round_trip(tmp_path):
    network = tiny()
    for content in (network.state_dict(), {"network": network.state_dict(), "epoch": 3}):
        torch.save(content, tmp_path / "w.pt")
        other = FiLMUNet(2, 3, base_channels=8, embedding_dim=8)
        load_weights(tmp_path / "w.pt", other)
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("other, told", [({"base_channels": 16}, "shapes"), ({"attention": True}, "missing")])
def test_another_architecture_is_told_in_one_line(tmp_path, other, told):
    torch.save({"network": tiny().state_dict()}, tmp_path / "w.pt")
    network = FiLMUNet(2, 3, **({"base_channels": 8, "embedding_dim": 8} | other))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError, match=f"w.pt.*another architecture.*{told}") as caught:
        load_weights(tmp_path / "w.pt", network)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_pickle_in_a_checkpoint_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"network": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="evil.pt: holds a io.open, which is never loaded"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 cut short"])
def test_damaged_checkpoints(tmp_path, content):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(InputError, match="bad.pt"):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match="none.pt.*no such checkpoint.*--weights"):
        load_checkpoint(tmp_path / "none.pt")


def test_what_shipped_files_say_of_their_trainings(tmp_path):
    for run in ("one", "two"):
        torch.save(describe(tiny().state_dict(), {"training": {"run": run}}), tmp_path / f"{run}.pt")
    torch.save(tiny().state_dict(), tmp_path / "old.pt")
    files = [tmp_path / f"{name}.pt" for name in ("one", "old", "none", "two")]
    assert trainings_of(files) == [{"run": "one"}, {"run": "two"}]


def test_the_window_that_networks_were_judged_with(tmp_path):
    for name, facts in (
        ("one", {"window": [64, 48, 32]}),
        ("same", {"window": [64, 48, 32]}),
        ("other", {"window": -1}),
        ("old", {}),
    ):
        torch.save(describe(tiny().state_dict(), facts), tmp_path / f"{name}.pt")
    one, same, other, old, none = (tmp_path / f"{name}.pt" for name in ("one", "same", "other", "old", "none"))
    assert trained_window(one, 7) == trained_window([one, same], 7) == [64, 48, 32] and trained_window(other, 7) == -1
    assert trained_window(old, 7) == trained_window(none, 7) == 7
    assert trained_window([one, other, old], [8, 8, 8]) == [[64, 48, 32], -1, [8, 8, 8]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    weights = tiny().state_dict()
    name = list(weights)[3]
    weights[name].view(-1)[0] = value
    torch.save({"network": weights}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"w.pt: '{name}' holds NaN or infinity"):
        load_weights(tmp_path / "w.pt", tiny())


@pytest.mark.parametrize("network", [None, 3, [torch.ones(2)], {3: torch.ones(2)}, {"a": 1}])
def test_what_is_no_network_is_refused(tmp_path, network):
    torch.save({"network": network}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="w.pt: tensors by name were expected for the network"):
        load_weights(tmp_path / "w.pt", tiny())


def test_an_archive_bomb_is_not_inflated(tmp_path):
    torch.save({"network": tiny().state_dict()}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(InputError, match="b.pt: is a compressed archive"):
        load_weights(tmp_path / "b.pt", tiny())
