"""MLflow stays silent. What is tracked of a run: test_bundle_anywhere.py."""

import pytest

import monai_vmat.tracking  # noqa: F401  the import is what silences


def test_mlflow_reports_to_nobody(monkeypatch):
    utils = pytest.importorskip("mlflow.telemetry.utils", reason="mlflow is not installed (pip install -e '.[dev]')")
    monkeypatch.setattr(utils, "_IS_IN_CI_ENV_OR_TESTING", False)
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    assert utils.is_telemetry_disabled()
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    assert not utils.is_telemetry_disabled()  # so it was the import's doing
