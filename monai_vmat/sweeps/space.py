"""What a sweep tries: a JSON file, and the trials that follow from it.

    {"base": ["train.json", "quick.json"],
     "settings": {"val_interval": 2},
     "space": {"overlay": {"choice": ["grad_loss", "dvh_aware"]},
               "loss#weights#gradient": {"loguniform": [0.01, 1.0]},
               "seed": {"grid": [42, 43]}},
     "metric": "val/mae_gy", "mode": "min", "max_epochs": 14,
     "asha": {"grace_period": 2, "reduction_factor": 3},
     "trials": 6, "cpus_per_trial": 1, "gpus_per_trial": 0}

``base`` are files of the bundle's ``configs``, ``overlay`` a name in ``configs/experiments``; it comes after the base and so
counts most of the files. Every other key of ``space``, and ``settings`` for all trials alike, is what ``--key value`` is on a
bundle's command line. ``grid`` runs every value, ``choice`` draws one of a list, ``uniform`` and ``loguniform`` draw a number
between two, with four significant digits. Each draw is run in every combination of the grids; ``trials`` counts all of
them, without it there is one draw. A trial is named by its draw, its overlay and its seed: ``02-grad_loss-seed42``.

``asha`` stops, from ``grace_period`` epochs on and then ``reduction_factor`` times as late each time, every trial that is not
among the best 1/``reduction_factor`` that have come so far; without it all run to ``max_epochs``. What else may be left out:
``settings``, ``metric`` (a ``val/...`` column of metrics.csv), ``mode`` (``min`` or ``max``) and the resources of a trial.

A configuration is code: text that begins with ``$`` is evaluated. Run only files that you trust.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.errors import InputError
from monai_vmat.files import read_json

OVERLAY = "overlay"
SEED = "seed"

_DEFAULTS: Mapping[str, Any] = {
    "settings": {},
    "metric": "val/mae_gy",
    "mode": "min",
    "asha": None,
    "trials": None,
    "cpus_per_trial": 1,
    "gpus_per_trial": 0,
}
_REQUIRED = ("base", "space", "max_epochs")
_SET_BY_THE_SWEEP = ("experiment", "output_dir", "resume", "max_epochs")
_LISTS, _RANGES = ("grid", "choice"), ("uniform", "loguniform")


@dataclass(frozen=True)
class Trial:
    """One training of a sweep: its name, which is its folder's, and what it sets."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """A checked space file; see this module for the fields.

    Args:
        path: of the file, for messages.
        content: the file's, defaults filled in.
        trials: in the order in which they are begun; the same file always gives the same, and a larger number of trials the
            same ones first.
    """

    path: Path
    content: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def grace_period(self) -> int:
        """Epochs that every trial is given."""
        asha = self.content["asha"]
        return asha["grace_period"] if asha else self.content["max_epochs"]

    @property
    def reduction_factor(self) -> int:
        """One in how many goes on."""
        asha = self.content["asha"]
        return asha["reduction_factor"] if asha else 2


def read_space(path: str | Path, trials: int | None = None) -> Space:
    """Read a space file.

    Args:
        path: the JSON file.
        trials: in place of the file's number of trials.

    Raises:
        InputError: when it is missing or not JSON; for unknown keys and wrong values, naming the field.
    """
    path = Path(path)
    content = read_json(path)
    _require(isinstance(content, dict), path, "a JSON object was expected")
    missing = [key for key in _REQUIRED if key not in content]
    unknown = sorted(set(content) - {*_REQUIRED, *_DEFAULTS})
    _require(not missing and not unknown, path, f"keys missing {missing}, unknown {unknown}")
    content = {**_DEFAULTS, **content}
    if trials is not None:
        content["trials"] = trials

    _check(path, "base", content["base"], "a list of configuration files", lambda v: _is_list_of(v, str))
    _check(path, "settings", content["settings"], "an object", lambda v: isinstance(v, dict))
    _check(path, "metric", content["metric"], "a name 'val/...'", lambda v: isinstance(v, str) and v.startswith("val/"))
    _check(path, "mode", content["mode"], "min or max", lambda v: v in ("min", "max"))
    _check(path, "max_epochs", content["max_epochs"], "a whole number from 1", lambda v: _is_whole(v, 1))
    for key, least in (("cpus_per_trial", "above 0"), ("gpus_per_trial", "from 0")):
        _check(
            path, key, content[key], f"a number {least}", lambda v: _is_number(v) and (v > 0 or v == 0 and least == "from 0")
        )
    if content["asha"] is not None:
        _check_asha(path, content)
    _check(path, "space", content["space"], "an object with at least one key", lambda v: isinstance(v, dict) and len(v) > 0)
    for key in (*content["settings"], *content["space"]):
        _require(key not in _SET_BY_THE_SWEEP, path, f"'{key}' is set by the sweep itself")
    _require(OVERLAY not in content["settings"], path, f"'settings.{OVERLAY}': name the file in 'base', or vary it in 'space'")
    for key, domain in content["space"].items():
        _require(key not in content["settings"], path, f"'{key}' is in 'settings' and in 'space'")
        _check_domain(path, f"space.{key}", domain)
    for value in _values(content["space"].get(OVERLAY)):
        _check(
            path, f"space.{OVERLAY}", value, "a name in configs/experiments", lambda v: isinstance(v, str) and Path(v).name == v
        )
    for value in _values(content["space"].get(SEED)):
        _check(path, f"space.{SEED}", value, "a whole number from 0", lambda v: _is_whole(v, 0))
    return Space(path=path, content=content, trials=tuple(_trials(path, content)))


def _check_asha(path: Path, content: Mapping[str, Any]) -> None:
    asha = content["asha"]
    keys = {"grace_period", "reduction_factor"}
    _check(path, "asha", asha, f"an object of {sorted(keys)}", lambda v: isinstance(v, dict) and set(v) == keys)
    _check(
        path,
        "asha.grace_period",
        asha["grace_period"],
        f"a whole number of epochs from 1 to max_epochs ({content['max_epochs']})",
        lambda v: _is_whole(v, 1) and v <= content["max_epochs"],
    )
    _check(path, "asha.reduction_factor", asha["reduction_factor"], "a whole number from 2", lambda v: _is_whole(v, 2))


def _check_domain(path: Path, field: str, domain: Any) -> None:
    kinds = (*_LISTS, *_RANGES)
    _check(
        path,
        field,
        domain,
        f"an object with one of {', '.join(kinds)}",
        lambda v: isinstance(v, dict) and len(v) == 1 and set(v) <= {*kinds},
    )
    ((kind, values),) = domain.items()
    field = f"{field}.{kind}"
    if kind in _LISTS:
        _check(path, field, values, "a list of values", lambda v: isinstance(v, list) and len(v) > 0)
        _require(len({_key(v) for v in values}) == len(values), path, f"'{field}': {values!r} has a value twice")
    else:
        least = "above 0, " if kind == "loguniform" else ""
        _check(
            path,
            field,
            values,
            f"two numbers, {least}the smaller first,",
            lambda v: (
                isinstance(v, list) and len(v) == 2 and all(map(_is_number, v)) and v[0] < v[1] and (not least or v[0] > 0)
            ),
        )


def _trials(path: Path, content: Mapping[str, Any]) -> Iterator[Trial]:
    """The grid's combinations for one draw after the other."""
    grids = {key: domain["grid"] for key, domain in content["space"].items() if "grid" in domain}
    drawn = {key: domain for key, domain in content["space"].items() if "grid" not in domain}
    combinations = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    count = content["trials"] if content["trials"] is not None else len(combinations)
    several = f"a multiple of {len(combinations)} (combinations of the grids)"
    _check(path, "trials", count, several, lambda v: _is_whole(v, 1) and v % len(combinations) == 0)
    draws = count // len(combinations)
    different = math.prod(len(_values(domain)) or math.inf for domain in drawn.values())
    _require(draws <= different, path, f"'trials': {count}, but the space has {different * len(combinations)} different ones")

    numbers: dict[str, int] = {}
    for draw in itertools.islice(_draws(drawn), draws):
        for combination in combinations:
            settings = {key: {**draw, **combination}[key] for key in content["space"]}
            number = numbers.setdefault(_key({k: v for k, v in settings.items() if k != SEED}), len(numbers) + 1)
            parts = [f"{number:02d}"]
            parts += [settings[OVERLAY]] if OVERLAY in settings else []
            parts += [f"seed{settings[SEED]}"] if SEED in settings else []
            yield Trial("-".join(parts), settings)


def _draws(domains: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Different random settings, always the same ones in the same order."""
    rng = np.random.default_rng(0)
    seen = set()
    while True:
        draw = {key: _draw(kind, values, rng) for key, domain in domains.items() for kind, values in domain.items()}
        if _key(draw) not in seen:
            seen.add(_key(draw))
            yield draw


def _draw(kind: str, values: list[Any], rng: np.random.Generator) -> Any:
    if kind == "choice":
        return values[int(rng.integers(len(values)))]
    low, high = values
    share = rng.uniform()
    value = low + share * (high - low) if kind == "uniform" else low * (high / low) ** share
    return float(f"{value:.4g}")


def _values(domain: Mapping[str, Any] | None) -> list[Any]:
    """The values of a list domain; none of a range."""
    return [value for kind in _LISTS for value in (domain or {}).get(kind, [])]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_list_of(values: Any, kind: type) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(isinstance(value, kind) for value in values)


def _check(path: Path, field: str, value: Any, expected: str, holds: Callable[[Any], bool]) -> None:
    _require(holds(value), path, f"'{field}': {expected} was expected, got {value!r}")


def _require(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise InputError(path, problem, "Correct it; monai_vmat/sweeps/space.py says what a space file has")
