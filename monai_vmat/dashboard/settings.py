"""The settings by which experiments differ, and the metrics by which they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_vmat.protocol import Protocol

Setting = str | int | float | bool

# How a machine works, what one call asks for, what follows from others, and switches of MONAI's experiment tracking.
_NO_SETTINGS = frozenset(
    ("resume", "workers", "threads", "cache_rate", "channels_last", "pad_size", "window", "total_steps")
    + ("save_execute_config", "is_not_rank0")
)


def settings(config: Mapping[str, Any]) -> dict[str, Setting]:
    """What a resolved configuration set.

    TensorBoard takes the columns of its table from one of the runs, so every run should have the same: what only some
    experiments have (terms of the loss with their weights, the network's own arguments) stands in one text each.

    Returns:
        ``experiment``, ``protocol_name``, ``loss``, ``network``, and every number, switch and list of numbers at the
        configuration's top level.
    """
    found: dict[str, Setting] = {name: str(config[name]) for name in ("experiment", "protocol_name") if name in config}
    for name, value in config.items():
        if name in _NO_SETTINGS or name in found:
            continue
        if str(value).lower() in ("true", "false"):  # text where it comes from the command line
            found[name] = str(value).lower() == "true"
        elif isinstance(value, (int, float)):
            found[name] = value
        elif isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
            found[name] = " x ".join(f"{v:g}" for v in value)
    # What an overlay added stands last in the configuration, and first here: a table cell shows only so much.
    weights = reversed(config.get("loss", {}).get("weights", {}).items())
    found["loss"] = " + ".join(f"{float(weight):g} {term}" for term, weight in weights if float(weight))
    network = config.get("network_def", {})
    arguments = {k: v for k, v in network.items() if not k.startswith("_") and not str(v).startswith(("@", "$"))}
    name = str(network.get("_target_", "")).rpartition(".")[2]
    found["network"] = ", ".join(f"{k} {v}" for k, v in arguments.items()) or name
    return found


def compared_metrics(protocol: Protocol) -> tuple[str, ...]:
    """Names of validation metrics (without ``val/``) by which experiments are compared."""
    gaps = (f"{target.name}_D95_abs_gap_gy" for target in protocol.targets)
    scores = ("openkbp_dose_score_gy", "openkbp_dvh_score_gy") if "openkbp" in protocol.scores else ()
    return ("mae_gy", "mae_body_gy", "gamma_pass_rate", *gaps, "goal_agreement_percent", *scores)
