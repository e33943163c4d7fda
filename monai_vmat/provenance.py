"""What a result came from: configuration, code, versions, machine, data."""

from __future__ import annotations

import hashlib
import inspect
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

_SETTINGS = (str, int, float, bool, torch.device)
_PACKAGES = ("monai_vmat", "monai", "torch", "pytorch-ignite", "numpy", "torchio", "edt", "nibabel")


def running_parser() -> ConfigParser | None:
    """The parser of the bundle configuration that is being run: MONAI hands a component only its own arguments, so it is
    looked up among the callers."""
    parsers = (caller.frame.f_locals.get("self") for caller in inspect.stack())
    return next((parser for parser in parsers if isinstance(parser, ConfigParser)), None)


def running_config() -> dict[str, Any]:
    """The bundle configuration that is being run: overlays and overrides merged, settings at the top level with their values.

    What stands for an object (a transform, a network) keeps its text. ``{}`` when there is none.
    """
    parser = running_parser()
    if parser is None:
        return {}
    values = parser.ref_resolver.resolved_content
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    return {k: _plain(values[k] if isinstance(values.get(k), _SETTINGS) else v) for k, v in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def git_commit(folder: str | Path) -> str | None:
    """The commit checked out in ``folder``, with ``-dirty`` after it when files differ; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """Processor, threads and GPU; nothing that names the machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"machine": platform.machine(), "cpu": _cpu_name(), "torch_threads": torch.get_num_threads(), "gpu": gpu}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def checksums(paths: Mapping[str, str | Path]) -> dict[str, str]:
    """SHA-256 of files, under the names that they are given."""
    found = {}
    for name, path in paths.items():
        with open(path, "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
