"""A run becomes one file: its evaluated weights, rounded, and what they are; what is not whole never takes its place."""

import json

import pytest
import torch

from monai_vmat import model_export
from monai_vmat.case import read_case, write_case
from monai_vmat.errors import InputError
from monai_vmat.model_export import DTYPES, export_model
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.weights import build_network, facts_of, load_weights, read_weights

SETTINGS = {"base_channels": 8, "use_film": False}


@pytest.fixture
def run(tmp_path, prostate, make_case):
    """The records and checkpoints of a run, whose weights do not say what they are, as earlier versions wrote them."""
    folder = tmp_path / "secret-host" / "mine"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    best, averaged, last = (FiLMUNet(prostate.in_channels, **SETTINGS).state_dict() for _ in range(3))
    torch.save({"network": best, "epoch": 3, "val_mae_gy": 2.5}, folder / "checkpoints" / "best-epoch=003-val_mae_gy=2.500.pt")
    torch.save({"network": last, "evaluated_network": averaged, "epoch": 5}, folder / "checkpoints" / "last.pt")
    cases = {"training": ["p1", "p2"], "validation": ["p3"], "test": []}
    datalist = {s: [{"case": f"{i}.npz", "case_id": i, "patient": i} for i in ids] for s, ids in cases.items()}
    for seed, case_id in enumerate(("p1", "p2", "p3")):
        write_case(make_case(prostate, seed=seed, case_id=case_id), folder / f"{case_id}.npz")
    (folder / "datalist.json").write_text(json.dumps({"protocol": prostate.name, **datalist}))
    network_def = {"_target_": "FiLMUNet", "in_channels": "$@protocol.in_channels", "base_channels": "@base_channels"}
    config = {
        "protocol_name": prostate.name,
        "max_epochs": 5,
        "patch_size": [32, 16, 16],
        "window": "@patch_size",
        "initial_weights": "/home/secret-host/earlier.pt",
        "network_def": network_def | {"use_film": False},
    }
    config["datalist"] = str(folder / "datalist.json")
    record = {"config": config, "seed": 7, "git_commit": "abc", "cases": cases}
    record["hardware"] = {"machine": "x86_64", "cpu": "a CPU", "gpu": None}
    (folder / "training_config.json").write_text(json.dumps(record))
    (folder / "training_summary.json").write_text(json.dumps({"seconds": 125.0}))
    return folder, best, averaged


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_best_weights_rounded_and_their_facts(run, tmp_path, prostate, dtype):
    folder, best, _ = run
    facts = export_model(folder, tmp_path / "model.pt", dtype=dtype)
    state = read_weights(tmp_path / "model.pt")
    assert facts_of(state) == facts and set(state) == set(best)
    assert all(
        tensor.dtype == DTYPES[dtype] and torch.equal(tensor, best[name].to(DTYPES[dtype])) for name, tensor in state.items()
    )
    assert facts["protocol"] == prostate.name and facts["settings"]["base_channels"] == 8 and not facts["settings"]["use_film"]
    assert facts["window"] == [32, 16, 16]
    assert facts["training"] == {
        "run": "mine",
        "initial_weights": "earlier.pt",
        "checkpoint": "best",
        "epoch": 3,
        "epochs": 5,
        "seed": 7,
        "commit": "abc",
        "machine": "a CPU",
        "minutes": 2,
        "training_cases": 2,
        "validation_cases": 1,
    }
    assert facts["ranges"]["voxel size X, mm"] == [3.0, 3.0] and facts["ranges"]["PTV70 prescription, Gy"] == [70.0, 70.0]
    least, most = facts["ranges"]["PTV70 volume, cc"]
    volumes = [read_case(folder / f"{case}.npz", prostate).structures["PTV70"].sum() * 0.027 for case in ("p1", "p2")]
    assert [least, most] == pytest.approx(sorted(volumes)) and least < most
    content = (tmp_path / "model.pt").read_bytes()
    assert b"secret-host" not in content and b"p1" not in json.dumps(facts).encode()


def test_of_the_last_epoch_the_average(run, tmp_path, prostate):
    folder, _, averaged = run
    assert export_model(folder, tmp_path / "model.pt", dtype="float32", checkpoint="last")["training"]["epoch"] == 5
    network = load_weights(tmp_path / "model.pt", build_network(tmp_path / "model.pt", prostate))
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in network.state_dict().items())


def test_the_training_cases_must_be_those_of_the_run(run, tmp_path):
    folder, *_ = run
    content = json.loads((folder / "datalist.json").read_text())
    content["validation"].append(content["training"].pop())
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    for name in ("p1", "p2", "p3"):
        (folder / f"{name}.npz").rename(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match="not those of the run. Name the folder that was trained on with --dataset_dir DIR"):
        export_model(folder, tmp_path / "model.pt", dataset_dir=tmp_path)
    (tmp_path / "datalist.json").write_text((folder / "datalist.json").read_text())
    assert export_model(folder, tmp_path / "model.pt", dataset_dir=tmp_path)["ranges"]


def test_nothing_that_is_not_whole_takes_the_place_of_a_model(run, tmp_path, monkeypatch):
    folder, best, _ = run
    out = tmp_path / "model.pt"
    out.write_text("mine")
    with pytest.raises(InputError, match="training_config.json: it is no run"):
        export_model(tmp_path, out)
    save = torch.save

    def flipped_bit(state, path):
        state["out_conv.bias"][0] += 1
        save(state, path)

    monkeypatch.setattr(model_export.torch, "save", flipped_bit)
    with pytest.raises(InputError, match="does not hold, read again"):
        export_model(folder, out)
    monkeypatch.setattr(model_export.torch, "save", save)
    best["out_conv.bias"][0] = 1e6
    torch.save({"network": best, "epoch": 4}, folder / "checkpoints" / "best-epoch=004-val_mae_gy=2.000.pt")
    with pytest.raises(InputError, match="'out_conv.bias' is not finite in float16. Store it as bfloat16"):
        export_model(folder, out)
    assert out.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "secret-host"]
