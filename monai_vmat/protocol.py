"""What a treatment site is made of: structures, prescriptions, constraints and goals. Everything else reads this."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.metrics.dvh import dvh_metric

ROLES = ("target", "organ", "volume")
INPUTS = ("ct", "signed_distances", "prescribed_dose", "dose_region", "beam_doses")
_MOST = 1e6  # of any objective and scale: their quotients are numbers of single precision
MAX_STRUCTURES = 22  # with body and dose region they share the bits of an int32 (see masks.py)


@dataclass(frozen=True)
class Structure:
    """One structure of a protocol.

    ``role`` is ``target`` (has a prescription), ``organ`` (to be spared) or ``volume`` (drawn, without goals of its own).
    """

    name: str
    role: str
    color: str
    required: bool = False
    prescription_gy: float | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constraint:
    """One entry of the constraint vector: the plan's objective ``value / scale``.

    ``metric`` is ``prescription`` (of the target ``structure``; 0 where it is absent) or the name of the limited
    quantity (``V50Gy``, ``Dmax``); ``unit`` is that of ``default`` and ``scale``. The structure need not be an image
    channel: a cord limit may shape a plan whose cord is not drawn.
    """

    name: str
    structure: str
    metric: str
    unit: str
    scale: float
    default: float | None


@dataclass(frozen=True)
class Goal:
    """A clinical goal: ``metric`` of ``structure`` at least (``>=``) or at most (``<=``) ``limit`` ``unit``."""

    structure: str
    metric: str
    op: str
    limit: float
    unit: str


@dataclass(frozen=True)
class Protocol:
    """A treatment site. Read one with :func:`load_protocol`."""

    name: str
    description: str
    fractions: int
    primary: str
    structures: tuple[Structure, ...]
    pairs: tuple[tuple[str, str], ...]
    inputs: tuple[str, ...]
    dose_region: str | None
    absent_signed_distance: float
    constraints: tuple[Constraint, ...]
    goals: tuple[Goal, ...]
    scores: tuple[str, ...]
    gantry_angles_deg: tuple[float, ...] = ()

    @cached_property
    def structure_names(self) -> tuple[str, ...]:
        """Structures in channel order."""
        return tuple(s.name for s in self.structures)

    @cached_property
    def targets(self) -> tuple[Structure, ...]:
        return tuple(s for s in self.structures if s.role == "target")

    @cached_property
    def organs(self) -> tuple[Structure, ...]:
        return tuple(s for s in self.structures if s.role == "organ")

    @property
    def rx_gy(self) -> float:
        """The primary prescription in Gy; doses are fractions of it inside the network."""
        dose = self.structure(self.primary).prescription_gy
        assert dose is not None  # checked when the protocol was read
        return dose

    @property
    def constraint_dim(self) -> int:
        return len(self.constraints)

    @cached_property
    def default_constraint_vector(self) -> np.ndarray:
        """The constraint vector (constraint_dim,) of a plan for every target that states no objective of its own."""
        return self.encode_constraints({t.name: t.prescription_gy for t in self.targets if t.prescription_gy is not None})

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the image channels in order."""
        names: list[str] = []
        for group in self.inputs:
            several = {"ct": ["CT"], "signed_distances": self.structure_names, "beam_doses": ["open_beams", "best_fluence"]}
            names += several.get(group, [group])
        return tuple(names)

    @property
    def in_channels(self) -> int:
        return len(self.channel_names)

    def structure(self, name: str) -> Structure:
        return self.structures[self.structure_names.index(name)]

    def encode_constraints(self, prescription_gy: Mapping[str, float], stated: Mapping[str, float] | None = None) -> np.ndarray:
        """The constraint vector of a plan.

        Args:
            prescription_gy: prescribed dose of each target that the plan has.
            stated: the plan's own objectives by constraint name, in each constraint's unit; the protocol's defaults hold
                for the others.

        Returns:
            float32 (constraint_dim,), every entry divided by its scale.

        Raises:
            InputError: for an unknown name or a value that is not a finite number >= 0.
        """
        stated = dict(stated or {})
        known = {c.name for c in self.constraints}
        for name, value in stated.items():
            if name not in known:
                raise InputError(f"constraint '{name}'", f"unknown to protocol {self.name}", f"Known: {sorted(known)}")
            if not _is_number(value) or not 0 <= value <= _MOST:
                raise InputError(
                    f"constraint '{name}'", f"a number >= 0 was expected, at most {_MOST:g}, got {value!r}", "Correct it"
                )
        vector = []
        for c in self.constraints:
            default = prescription_gy.get(c.structure, 0.0) if c.default is None else c.default
            vector.append(stated.get(c.name, default) / c.scale)
        return np.asarray(vector, np.float32)


def available_protocols() -> tuple[str, ...]:
    """Names of the protocols that come with the package."""
    folder = files("monai_vmat") / "protocols"
    return tuple(sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json")))


def load_protocol(name_or_path: str | Path) -> Protocol:
    """Read a protocol by name (``prostate_sib``, ``openkbp_head_and_neck``) or from a JSON file.

    Raises:
        InputError: for an unknown name or a file that breaks the rules; the message names the field.
    """
    if Path(name_or_path).suffix == ".json":
        return _parse(read_json(name_or_path), str(name_or_path))
    if str(name_or_path) not in available_protocols():
        raise InputError(
            f"protocol '{name_or_path}'", "unknown", f"Use one of {', '.join(available_protocols())} or the path of a JSON file"
        )
    path = Path(str(files("monai_vmat") / "protocols" / f"{name_or_path}.json"))
    return _parse(read_json(path), str(path))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _is_pattern(value: Any) -> bool:
    try:
        return _is_text(value) and re.compile(value) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _parse(raw: Any, where: str) -> Protocol:
    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise InputError(where, problem, "Correct the protocol (see monai_vmat/protocols for examples)")

    def build(kind: type, entry: Any, field: str) -> Any:
        require(isinstance(entry, dict), f"{field} must be an object")
        try:
            return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
        except TypeError as error:
            raise InputError(where, f"{field} ({error})", "Correct the field names") from error

    require(isinstance(raw, dict), "a JSON object was expected")
    raw = {"gantry_angles_deg": [], **raw}
    expected = set(Protocol.__dataclass_fields__)
    require(set(raw) == expected, f"fields missing {sorted(expected - set(raw))}, unknown {sorted(set(raw) - expected)}")
    for field in ("structures", "pairs", "inputs", "constraints", "goals", "scores", "gantry_angles_deg"):
        require(isinstance(raw[field], list), f"{field} must be a list")
    structures = tuple(build(Structure, s, f"structures[{i}]") for i, s in enumerate(raw["structures"]))
    constraints = tuple(build(Constraint, c, f"constraints[{i}]") for i, c in enumerate(raw["constraints"]))
    goals = tuple(build(Goal, g, f"goals[{i}]") for i, g in enumerate(raw["goals"]))
    names = [s.name for s in structures]

    for field in ("name", "description"):
        require(_is_text(raw[field]), f"{field} must be text, got {raw[field]!r}")
    require(all(_is_text(n) for n in names), f"structure names must be text: {names}")
    require(len(set(names)) == len(names) and names != [], f"structure names must be unique and at least one: {names}")
    require(len(names) <= MAX_STRUCTURES, f"at most {MAX_STRUCTURES} structures are possible, got {len(names)}")
    for s in structures:
        require(_is_text(s.color), f"structure {s.name}: color must be text, got {s.color!r}")
        require(isinstance(s.required, bool), f"structure {s.name}: required must be true or false, got {s.required!r}")
        require(isinstance(s.aliases, tuple), f"structure {s.name}: aliases must be a list, got {s.aliases!r}")
        require(all(_is_pattern(a) for a in s.aliases), f"structure {s.name}: aliases must be regular expressions: {s.aliases}")
        require(s.role in ROLES, f"structure {s.name}: role must be one of {ROLES}, got {s.role!r}")
        dose = s.prescription_gy
        ok = dose is None if s.role != "target" else _is_number(dose) and 0 < dose < 200
        require(ok, f"structure {s.name}: prescription_gy in Gy (0 to 200) for targets only, got {dose!r}")
    targets = [s.name for s in structures if s.role == "target"]
    require(raw["primary"] in targets, f"primary must be one of the targets {targets}, got {raw['primary']!r}")
    fractions = raw["fractions"]
    require(type(fractions) is int and fractions > 0, f"fractions must be a whole number > 0, got {fractions!r}")
    for pair in raw["pairs"]:
        ok = isinstance(pair, list) and len(pair) == 2 and all(n in names for n in pair) and pair[0] != pair[1]
        require(ok, f"pair {pair} must be two structures")
    paired = [n for pair in raw["pairs"] for n in pair]
    require(len(set(paired)) == len(paired), f"a structure can be in one pair only: {raw['pairs']}")
    inputs = raw["inputs"]
    require(inputs[:1] == ["ct"] and all(i in INPUTS for i in inputs), f"inputs must start with ct and be among {INPUTS}")
    require(len(set(inputs)) == len(inputs), f"inputs must differ: {inputs}")
    angles = raw["gantry_angles_deg"]
    require(all(map(_is_number, angles)), f"gantry_angles_deg must be numbers, got {angles}")
    require(
        bool(angles) == ("beam_doses" in inputs), "gantry_angles_deg must be given with the input beam_doses, and only then"
    )
    region = raw["dose_region"]
    require(_is_text(region) or (region is None and "dose_region" not in inputs), f"dose_region must be a name, got {region!r}")
    absent = raw["absent_signed_distance"]
    require(_is_number(absent) and absent in (0.0, 1.0), "absent_signed_distance must be 0.0 or 1.0")
    for i, c in enumerate(constraints):
        texts = (c.name, c.structure, c.metric, c.unit)
        require(all(map(_is_text, texts)), f"constraints[{i}]: name, structure, metric and unit must be text, got {texts}")
        require(
            _is_number(c.scale) and 1 / _MOST <= c.scale <= _MOST, f"constraint {c.name}: scale must be > 0, up to {_MOST:g}"
        )
        stated = c.metric == "prescription"  # by the plan, where a default would hide that a target is absent
        ok = c.default is None if stated else _is_number(c.default) and 0 <= c.default <= _MOST
        require(ok, f"constraint {c.name}: default must be null for a prescription, a number >= 0 otherwise, got {c.default!r}")
    labels = [c.name for c in constraints]
    require(len(set(labels)) == len(labels), f"constraint names must be unique: {labels}")
    for g in goals:
        label = f"goal {g.structure} {g.metric}"
        require(g.structure in names, f"{label}: unknown structure")
        require(g.op in ("<=", ">="), f"{label}: op must be '<=' or '>='")
        require(_is_number(g.limit), f"{label}: limit must be a number, got {g.limit!r}")
        require(_is_text(g.metric), f"{label}: metric must be text")
        try:
            dvh_metric(np.zeros(1), g.metric, g.unit, 1.0)
        except InputError as error:
            raise InputError(where, f"{label}: {error.where} is {error.problem}", error.mend) from error
    fields = {
        **raw,
        "structures": structures,
        "constraints": constraints,
        "goals": goals,
        "pairs": tuple(tuple(p) for p in raw["pairs"]),
        "inputs": tuple(raw["inputs"]),
        "scores": tuple(raw["scores"]),
        "gantry_angles_deg": tuple(raw["gantry_angles_deg"]),
    }
    return Protocol(**fields)
