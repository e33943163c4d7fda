"""The settings at the top level of the bundle's configurations: what each may be, checked before anything begins.

MONAI evaluates a configuration piece by piece: a wrong value would show as an error of whatever library meets it first, a
misspelt name not at all.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

import torch

from monai_vmat.datalist import SECTIONS
from monai_vmat.ensemble import are_windows
from monai_vmat.errors import InputError
from monai_vmat.networks.film_unet import NORM_GROUPS
from monai_vmat.provenance import running_parser

_MEND = "Correct it: the head of the configuration shows what there is"
# What MONAI itself takes out of a configuration.
_OF_MONAI = {"experiment_name", "tracking_uri", "run_name", "save_execute_config", "is_not_rank0"}


def _number(value: Any, low: float, high: float = 1e12) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _whole(value: Any, low: int, high: int = 2**31) -> bool:
    return isinstance(value, int) and _number(value, low, high)


def _triple(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(fits, value))


def _count(value: Any) -> str:
    return "" if _whole(value, 1) else "a whole number from 1"


def _number_of(value: Any) -> str:
    return "" if _whole(value, 0) else "a whole number from 0"


def _seed(value: Any) -> str:
    return "" if _whole(value, 0, 2**32 - 1) else "a whole number from 0 to 4294967295"


def _positive(value: Any) -> str:
    return "" if _number(value, 0) else "a number from 0"


def _share(value: Any) -> str:
    return "" if _number(value, 0, 1) else "a number from 0 to 1"


def _width(value: Any) -> str:
    fits = value is None or (_whole(value, NORM_GROUPS, 4096) and value % NORM_GROUPS == 0)
    return "" if fits else f"a multiple of {NORM_GROUPS} up to 4096"


def _block(value: Any) -> str:
    return "" if _whole(value, 1, 8) else "a whole number from 1 to 8"


def _size(value: Any) -> str:
    fits = _triple(value, lambda n: _whole(n, 1) or n == -1) or _whole(value, -1, -1)
    return "" if fits else "three whole numbers from 1, or -1 for the whole"


def _windows(value: Any) -> str:
    fits = all(not _size(window) for window in value) if are_windows(value) else not _size(value)
    return "" if fits else f"{_size(None)}; or a list of such windows, one for each file of --weights"


def _spacing(value: Any) -> str:
    fits = value is None or _triple(value, lambda n: _number(n, 1e-3, 50))
    return "" if fits else "three numbers above 0 in mm, at most 50"


def _switch(value: Any) -> str:
    return "" if str(value).lower() in ("true", "false") else "true or false"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and "\0" not in value and len(value) < 4096 else "text"


def _files(value: Any) -> str:
    fits = all(not _text(name) for name in (value if isinstance(value, (list, tuple)) and value else [value]))
    return "" if fits else "a file or a list of files"


def _optional_text(value: Any) -> str:
    return "" if value is None else _text(value)


def _name(value: Any) -> str:
    if value is None:  # an inference by the shipped model belongs to no experiment
        return ""
    parts = str(value).split("/") if isinstance(value, (str, int, float)) else [""]  # a sweep's runs are in its folder
    fits = all(re.fullmatch(r"[^\\\0]{1,200}", part) and part not in (".", "..") for part in parts)
    return "" if fits else "a name, or names with / between them,"


def _section(value: Any) -> str:
    return "" if value in SECTIONS else f"one of {', '.join(SECTIONS)}"


def _numbers_by_name(value: Any) -> str:
    fits = isinstance(value, dict) and all(isinstance(k, str) and _number(v, 0) for k, v in value.items())
    return "" if fits else "numbers from 0 by name"


def _device(value: Any) -> str:
    try:
        torch.empty(0, device=value)
    except Exception as error:  # PyTorch raises whatever its build lacks
        return f"a device of this machine ({error or type(error).__name__})"
    return ""


# Each says what was expected, or nothing when the value is good.
_EXPECTED: dict[str, Callable[[Any], str]] = {
    "weights": _files,  # first: other settings are read from them
    **dict.fromkeys(("max_epochs", "val_interval", "patience", "patches_per_case", "batch_size", "threads"), _count),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_gradient_norm", "loss_weights_learning_rate"), _positive),
    **dict.fromkeys(("warmup_share", "average_decay", "cache_rate"), _share),
    **dict.fromkeys(("flip_probability", "turn_probability", "motion_probability"), _share),
    **dict.fromkeys(("patch_size", "pad_size"), _size),
    "window": _windows,
    **dict.fromkeys(("amp", "channels_last", "resume", "flips", "turns"), _switch),
    **dict.fromkeys(("spacing_mm", "dose_spacing_mm"), _spacing),
    **dict.fromkeys(("bundle_root", "dataset_dir", "datalist", "output_dir", "run_dir", "predictions_dir", "cache_dir"), _text),
    **dict.fromkeys(("protocol_name", "input", "onnx_file"), _text),
    **dict.fromkeys(("mapping", "vgg_weights", "initial_weights"), _optional_text),
    **{"workers": _number_of, "seed": _seed, "base_channels": _width, "experiment": _name, "split": _section},
    **{"constraints": _numbers_by_name, "loss#weights": _numbers_by_name, "network_def#embedding_dim": _count},
    "network_def#fold": _block,
    "device": _device,
}


def check_settings() -> None:
    """Check the settings of the configuration that is being run.

    Raises:
        InputError: for a value that is none of what was expected, and for a plain value that nothing refers to.
    """
    parser = running_parser()
    if parser is None:
        return
    config = {name: value for name, value in parser.get().items() if not name.startswith("_")}
    used = {*re.findall(r"[@%](\w+)", json.dumps(config, default=str)), *_EXPECTED, *_OF_MONAI}
    for name, value in config.items():
        if name not in used and not _is_code(value):
            near = difflib.get_close_matches(name, used & ({*config} | {*_EXPECTED}), 1)
            mend = f"Did you mean {near[0]}?" if near else "Leave it out"
            raise InputError(f"setting '{name}'", f"nothing uses it; its value is {value!r}", mend)
    for name in _EXPECTED:
        if name not in parser:
            continue
        where = f"setting '{name}'"
        try:
            value = parser.get_parsed_content(name)
        except InputError:
            raise
        except Exception as error:  # an expression or a reference may fail in any way
            raise InputError(where, f"{parser[name]!r} cannot be evaluated ({error.__cause__ or error})", _MEND) from error
        expected = _EXPECTED[name](value)
        if expected:
            raise InputError(where, f"{expected} expected, got {value!r}", _MEND)


def _is_code(value: Any) -> bool:
    """Whether MONAI makes or runs something of it: then it may have a name of its own."""
    if isinstance(value, dict):
        return True
    if isinstance(value, list):
        return any(map(_is_code, value))
    return isinstance(value, str) and value.startswith("$")
