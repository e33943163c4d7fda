"""What Ray is told before it is imported."""

import os

import pytest

from monai_vmat.sweeps.environment import prepare_environment

OF_LOCAL = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    return os.environ


def test_nothing_is_reported_to_anyone(environment):
    prepare_environment(local=False)
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0" and not {*OF_LOCAL} & {*environment}


def test_services_of_this_machine_alone_have_a_secret_of_their_own(environment):
    secrets = set()
    for _ in range(2):
        prepare_environment(local=True)
        assert environment["RAY_AUTH_MODE"] == "token"
        secrets.add(environment["RAY_AUTH_TOKEN"])
    assert len(secrets) == 2 and min(map(len, secrets)) >= 32
