"""Settings that are columns, and what is none."""

from monai_vmat.dashboard.settings import compared_metrics, settings

CONFIG = {
    "imports": ["$import torch"],
    "experiment": "mine",
    "protocol_name": "prostate_sib",
    "dataset_dir": "/data",
    "seed": 42,
    "resume": True,
    "amp": "false",
    "learning_rate": 1e-3,
    "patch_size": [112, 80, 48],
    "window": [96, 96, 96],
    "workers": 2,
    "total_steps": 100,
    "loss": {"weights": {"mse": 1.0, "negative_dose": 0.0, "dvh": "0.5"}},
    "network_def": {"_target_": "a.b.FiLMUNet", "in_channels": "$9", "base_channels": "@base_channels", "use_film": False},
}


def test_scalars_the_loss_and_the_network():
    assert settings(CONFIG) == {
        "experiment": "mine",
        "protocol_name": "prostate_sib",
        "seed": 42,
        "amp": False,
        "learning_rate": 1e-3,
        "patch_size": "112 x 80 x 48",
        "loss": "0.5 dvh + 1 mse",
        "network": "use_film False",
    }


def test_a_network_without_settings_of_its_own_is_named():
    assert settings({"network_def": {"_target_": "a.b.FiLMUNet", "in_channels": "$9"}})["network"] == "FiLMUNet"


def test_every_configuration_has_the_same_columns():
    other = CONFIG | {"experiment": "other", "loss": {"weights": {"mse": 1.0}}, "network_def": {}}
    assert list(settings(other)) == list(settings(CONFIG))


def test_compared_by_every_target_and_by_the_protocols_scores(prostate, head_and_neck):
    assert {"mae_gy", "gamma_pass_rate", "PTV70_D95_abs_gap_gy", "PTV56_D95_abs_gap_gy"} < set(compared_metrics(prostate))
    scores = {"openkbp_dose_score_gy", "openkbp_dvh_score_gy"}
    assert scores < set(compared_metrics(head_and_neck)) and not scores & set(compared_metrics(prostate))
