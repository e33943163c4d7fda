"""Settings of a command line that are wrong."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from .json_text import as_json
from .values import Mutation

_SETTING_NAMES = (
    "max_epochs val_interval patience learning_rate weight_decay warmup_share max_gradient_norm average_decay base_channels "
    "patch_size pad_size patches_per_case flip_probability turn_probability motion_probability window batch_size workers "
    "cache_rate cache_dir threads amp channels_last resume seed device experiment split dataset_dir datalist output_dir "
    "protocol_name constraints spacing_mm mapping dose_spacing_mm input weights initial_weights turns predictions_dir "
    "loss#weights#mse loss#weights network_def#embedding_dim network_def#fold"
).split()

_SETTING_VALUES: tuple[Any, ...] = (
    *(-1, 0, 0.5, -3.5, 10**30, math.nan, math.inf, True, None, "abc", "", "1e", "/nowhere/at/all", "/proc/nowhere", "\0"),
    *([], [1, 2], [0, 0, 0], [-5, 8, 8], [[8, 8, 8], 0]),
    *(["a", "b", "c"], [1.5, 1.5, 1.5], {}, {"Rectum_V50Gy": -1}, {"nothing": 0.5}),
    *("$1/0", "$[", "$nothing", "@nowhere", "@max_epochs"),
)


def _setting(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        content["settings"][rng.choice(_SETTING_NAMES)] = rng.choice(_SETTING_VALUES)
    return as_json(content)


def _setting_unknown(data: bytes, rng: random.Random) -> bytes:
    content = json.loads(data)
    name = rng.choice(_SETTING_NAMES).partition("#")[0]
    misspelt = rng.choice((name + "s", name[:-1], name.upper(), name.replace("_", "-"), "x_" + name, "nothing"))
    content["settings"][misspelt] = rng.choice((3, "abc", [1, 2, 3], True, None))
    return as_json(content)


SETTINGS: tuple[Mutation, ...] = (_setting, _setting, _setting, _setting_unknown)
