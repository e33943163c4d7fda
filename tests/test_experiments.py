"""Every overlay of configs/experiments trains, is resumed after a crash, and evaluates; what each of them changes."""

import csv
import hashlib
import json
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

from monai_vmat.case import write_case
from monai_vmat.errors import InputError, find_input_error
from monai_vmat.handlers.dashboard import Dashboard
from monai_vmat.handlers.training_checkpoint import TrainingCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "dose" / "configs"
OVERLAYS = sorted(path.stem for path in (CONFIGS / "experiments").glob("*.json"))
SMALL = {"base_channels": 8, "patch_size": [32, 32, 32], "patches_per_case": 1, "max_epochs": 2, "window": -1, "threads": 1}
TERMS = {
    "baseline": set(),
    "grad_loss": {"gradient"},
    "grad_vgg": {"gradient", "vgg"},
    "dvh_aware": {"gradient", "dvh"},
    "structure_weighted": {"gradient", "structure"},
    "asymmetric_ptv": {"gradient", "asymmetric"},
    "structure_dvh": {"gradient", "structure", "dvh"},
    "combined": {"gradient", "structure", "dvh", "asymmetric"},
    "adversarial": {"gradient", "adversarial"},
    "absolute_structure": {"absolute_error", "gradient", "structure"},
    "dvh_error": {"dvh_error"},
    "soft_gamma": {"soft_gamma"},
}


def files(*names):
    return [str(CONFIGS / name) for name in names]


def overlay(name):
    return f"experiments/{name}.json"


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory, prostate, head_and_neck, make_case):
    """Two patients to train on, one to validate and test; structures of more than 100 voxels."""
    folders = {}
    for protocol in (prostate, head_and_neck):
        folder = folders[protocol.name] = tmp_path_factory.mktemp(protocol.name)
        content = {"protocol": protocol.name, "training": [], "validation": [], "test": []}
        for i, section in enumerate(("training", "training", "validation", "test")):
            absent = [protocol.organs[-1].name] if i == 0 else []
            case = make_case(protocol, shape=(36, 32, 32), spacing=(4.0, 4.0, 4.0), seed=i, case_id=f"case_{i}", absent=absent)
            write_case(case, folder / f"case_{i}.npz")
            content[section].append({"case": f"case_{i}.npz", "case_id": f"case_{i}", "patient": f"case_{i}"})
        (folder / "datalist.json").write_text(json.dumps(content))
    return folders


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """The options that name weights of VGG16 that are there: random ones, by their own hash."""
    torch.manual_seed(0)
    widths = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
    content = {f"features.{i}.weight": 0.05 * torch.randn(*w, 3, 3) for i, w in widths.items()}
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    torch.save(content | {f"features.{i}.bias": torch.zeros(w[0]) for i, w in widths.items()}, path)
    return {"vgg_weights": str(path), "vgg_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture
def run(monkeypatch):
    """``run(run_id, configs, crash_after=None, **overrides)``: a bundle command, killed when an epoch's files are written."""
    monkeypatch.setattr("sys.excepthook", lambda *args: None)  # the bundle sets its own; put back afterwards
    monkeypatch.setattr(Dashboard, "_figures", lambda self, validator: None)  # a second each, tested elsewhere
    save = TrainingCheckpoint.save

    def run(run_id, configs, crash_after=None, **overrides):
        def save_and_crash(self, trainer):
            save(self, trainer)
            if trainer.state.epoch == crash_after:
                raise KeyboardInterrupt

        monkeypatch.setattr(TrainingCheckpoint, "save", save_and_crash)
        options = {"logging_file": False, **SMALL, **overrides}
        if crash_after is None:
            monai.bundle.run(run_id=run_id, config_file=files(*configs), **options)
        else:
            with pytest.raises(BaseException, match="KeyboardInterrupt|^$"):
                monai.bundle.run(run_id=run_id, config_file=files(*configs), **options)

    return run


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def last(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def extras(name, vgg):
    return {"grad_vgg": vgg, "adversarial": {"discriminator#channels": 4}, "width96": {"base_channels": 16}}.get(name, {})


def test_every_experiment_of_the_design_is_there():
    others = {"attention", "width96", "folded", "augmentation", "no_film", "full_volume", "absolute_error"}
    assert set(TERMS) | others == set(OVERLAYS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_trains_two_epochs_resumes_and_evaluates(name, cohorts, vgg, run, tmp_path):
    """On OpenKBP's protocol where the loss is new, on the prostate's otherwise."""
    site = ["openkbp.json"] if name in TERMS else []
    data = cohorts["openkbp_head_and_neck" if site else "prostate_sib"]
    configs = ["train.json", *site, overlay(name)]
    options = {"dataset_dir": str(data), "output_dir": str(tmp_path / "run"), **extras(name, vgg)}
    run("training", configs, crash_after=1, **options)
    assert last(tmp_path / "run")["epoch"] == 1
    run("training", configs, resume=True, **options)
    assert last(tmp_path / "run")["epoch"] == 2
    table = rows(tmp_path / "run")
    for term in TERMS.get(name, ()):
        weighted = [float(row[f"train/{term}_weighted"]) for row in table]
        assert all(float(row[f"train/{term}"]) > 0 for row in table) and all(w == w for w in weighted), term
    if "dvh" in TERMS.get(name, ()):
        assert all(float(row["train/dvh_skipped"]) >= 0 and float(row["train/dvh_cut"]) > 0 for row in table)
    run("evaluating", [*configs, "evaluate.json"], predictions_dir=str(tmp_path / "test"), **options)
    assert json.loads((tmp_path / "test" / "evaluation_results.json").read_text())["n_cases"] == 1


@pytest.mark.parametrize("name", ["combined", "adversarial"])
def test_interrupted_equals_undisturbed(name, cohorts, vgg, run, tmp_path):
    """What the loss learns is resumed to the bit, too; the quick overlay beside it, and the prostate protocol."""
    configs = ["train.json", overlay(name), "quick.json"]
    options = {"dataset_dir": str(cohorts["prostate_sib"]), "flip_probability": 0.5, **extras(name, vgg)}
    run("training", configs, output_dir=str(tmp_path / "whole"), **options)
    run("training", configs, crash_after=1, output_dir=str(tmp_path / "killed"), **options)
    run("training", configs, resume=True, output_dir=str(tmp_path / "killed"), **options)
    whole, resumed = last(tmp_path / "whole"), last(tmp_path / "killed")
    for part in ("network", "evaluated_network", "loss"):
        assert whole[part] and all(torch.equal(whole[part][k], resumed[part][k]) for k in whole[part]), part
    for first, second in zip(rows(tmp_path / "whole"), rows(tmp_path / "killed"), strict=True):
        del first["seconds"], second["seconds"]
        assert first == second
    if name == "combined":
        learned = {k: float(v) for k, v in whole["loss"].items() if k.startswith("log_variances.")}
        assert set(learned) == {f"log_variances.{k}" for k in ("mse", *TERMS["combined"])} and all(learned.values())
        assert [group["weight_decay"] for group in whole["optimizer"]["param_groups"]] == [0.01, 0.0]
    else:
        assert whole["discriminator_optimizer"]["state"][0]["step"] == 4


def content(*names, **overrides):
    parser = ConfigParser()
    parser.read_config(files(*names))
    parser.update(overrides)
    return parser


@pytest.mark.parametrize("name", OVERLAYS)
def test_site_and_experiment_commute(name):
    """Only the experiment's own name (and what both set) depends on the order."""
    one, other = (
        content("train.json", *pair).get() for pair in (("openkbp.json", overlay(name)), (overlay(name), "openkbp.json"))
    )
    assert {key for key in one if one[key] != other[key]} <= {"experiment"}


def test_one_override_sets_a_weight():
    parser = content(
        "train.json", overlay("combined"), **{"loss#weights#gradient": 0.2, "loss#terms#structure#boundary_mm": 50}
    )
    loss = parser.get_parsed_content("loss")
    assert loss.weights["gradient"] == 0.2 and loss.weights["mse"] == 1.0 and loss.terms["structure"].boundary_mm == 50
    openkbp = content("train.json", "openkbp.json", overlay("dvh_aware")).get_parsed_content("loss")
    assert openkbp.weights == {"mse": 0.0, "negative_dose": 0.0, "absolute_error": 1.0, "gradient": 0.1, "dvh": 0.5}


@pytest.mark.parametrize(
    "name, attribute, value", [("attention", "att1", None), ("no_film", "use_film", True), ("folded", "fold", 1)]
)
def test_architectures_serve_inference_too(name, attribute, value, tmp_path):
    settings = {"base_channels": 8, "weights": str(tmp_path / "none yet.pt")}
    for config in ("train.json", "inference.json"):
        network = content(config, overlay(name), **settings).get_parsed_content("network_def")
        plain = content(config, **settings).get_parsed_content("network_def")
        assert getattr(plain, attribute) is value and getattr(network, attribute) is not value


def test_without_vggs_weights_nothing_trains(cohorts, tmp_path, monkeypatch, run):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(Exception) as caught:
        run(
            "training",
            ["train.json", overlay("grad_vgg")],
            dataset_dir=str(cohorts["prostate_sib"]),
            output_dir=str(tmp_path / "run"),
        )
    error = find_input_error(caught.value)
    assert isinstance(error, InputError) and "--vgg_weights" in str(error) and not (tmp_path / "run").exists()
