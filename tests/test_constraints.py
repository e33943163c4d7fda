"""The two sets of versions that the tests run with are those that setup.cfg promises."""

from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def required() -> list[Requirement]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in text.strip().splitlines() if not line.startswith("#")]


def pinned(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(package): version for package, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    return pins


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_every_dependency_is_pinned_to_a_version_that_is_allowed(name):
    pins = pinned(name)
    for requirement in required():
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lowest_versions_are_the_floors():
    pins = pinned("constraints-lowest.txt")
    for requirement in required():
        (floor,) = [s for s in requirement.specifier if s.operator == ">="]
        if requirement.name != "torch":  # no older one could be had for the tests
            assert Version(pins[canonicalize_name(requirement.name)]) == Version(floor.version), requirement
