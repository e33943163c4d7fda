"""The settings of the bundle's own configurations, checked as the bundle does it."""

from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from monai_vmat.errors import InputError, find_input_error
from monai_vmat.settings import check_settings

CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "dose" / "configs"
OVERLAYS = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("experiments/*.json")) + [
    "quick.json",
    "openkbp.json",
]


def check(files, **settings):
    """Initialise the bundle with these settings; its own error when there is one."""
    paths = [str(CONFIGS / name) for name in files]
    kind = "infer" if files[0] == "inference.json" else "train"
    options = {"logging_file": False, "workflow_type": kind, "bundle_root": str(CONFIGS.parent)}
    workflow = ConfigWorkflow(paths, **(options | settings))
    try:
        workflow.initialize()
    except Exception as error:
        raise find_input_error(error) or error


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_bundles_own_configurations_are_good(overlay):
    check(["train.json", overlay])


def test_what_the_readme_sets_is_good():
    check(
        ["train.json", "quick.json"], experiment="mine", patch_size=[112, 64, 96], max_epochs=11, val_interval=4, resume="true"
    )
    check(["train.json"], **{"cache_dir": "cache", "cache_rate": 0, "loss#weights#negative_dose": 0.2, "seed": 3})
    given = {"constraints": {"Rectum_V50Gy": 0.3}, "window": -1, "dose_spacing_mm": [2.5, 2.5, 2.5], "mapping": "names.json"}
    check(["inference.json"], weights="model.pt", input="case.npz", **given)
    check(["inference.json"], weights=["a.pt", "b.pt"], window=[[112, 64, 96], -1])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_epochs", 0, "a whole number from 1 expected, got 0"),
        ("max_epochs", "many", "a whole number from 1 expected, got 'many'"),
        ("max_epochs", True, "a whole number from 1 expected, got True"),
        ("workers", -1, "a whole number from 0 expected"),
        ("seed", 2**32, "a whole number from 0 to 4294967295 expected"),
        ("learning_rate", float("nan"), "a number from 0 expected, got nan"),
        ("weight_decay", float("inf"), "a number from 0 expected, got inf"),
        ("cache_rate", 1.5, "a number from 0 to 1 expected"),
        ("base_channels", 20, "a multiple of 8 up to 4096 expected, got 20"),
        ("patch_size", [16, 16], r"three whole numbers from 1, or -1 for the whole expected, got \[16, 16\]"),
        ("patch_size", [-16, 16, 16], "three whole numbers from 1"),
        ("window", 0, "three whole numbers from 1"),
        (
            "window",
            [[16, 16, 16], 0],
            "three whole numbers .*; or a list of such windows, one for each file of --weights expected",
        ),
        ("network_def#fold", 9, "a whole number from 1 to 8 expected"),
        ("amp", "maybe", "true or false expected, got 'maybe'"),
        ("experiment", "../mine", "a name, or names with / between them, expected"),
        ("split", "testing", "one of training, validation, test expected"),
        ("output_dir", 3, "text expected, got 3"),
        ("device", "toaster", "a device of this machine .* expected, got 'toaster'"),
        ("loss#weights", {"mse": "much"}, "numbers from 0 by name expected"),
        ("loss#weights#mse", -1, "numbers from 0 by name expected"),
        ("network_def#embedding_dim", -3, "a whole number from 1 expected"),
        ("seed", "$1/0", "cannot be evaluated .division by zero"),
        ("seed", "@nowhere", "'@nowhere' cannot be evaluated"),
    ],
)
def test_a_wrong_value_is_told_before_anything_begins(name, value, expected):
    with pytest.raises(InputError, match=f"setting '{name.removesuffix('#mse')}': .*{expected}"):
        check(["train.json"], **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("constraints", {"Rectum_V50Gy": -1}, "numbers from 0 by name expected"),
        ("spacing_mm", [1, 1], "three numbers above 0 in mm, at most 50 expected"),
        ("dose_spacing_mm", [0, 1, 1], "three numbers above 0 in mm"),
        ("weights", None, "a file or a list of files expected, got None"),
    ],
)
def test_a_wrong_value_for_inference(name, value, expected):
    with pytest.raises(InputError, match=f"setting '{name}': {expected}"):
        check(["inference.json"], **({"weights": "model.pt"} | {name: value}))


@pytest.mark.parametrize(("name", "mend"), [("max_epoch", "Did you mean max_epochs?"), ("nonsense", "Leave it out")])
def test_a_name_that_nothing_uses_is_told(name, mend):
    with pytest.raises(InputError, match=f"setting '{name}': nothing uses it; its value is 3. {mend}"):
        check(["train.json"], **{name: 3})


def test_an_overlay_may_bring_names_of_its_own():
    check(["train.json"], depth=3, patience="@depth", mine=["$print('my own task')"], part={"_target_": "Identity"})


def test_without_a_configuration_there_is_nothing_to_check():
    check_settings()
