"""Ray's settings that it reads when it is imported."""

from __future__ import annotations

import os
import secrets

_ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: what is shown is our own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run has its own records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep at once: a running trial loses at most its epoch
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no metric
}


def prepare_environment(local: bool) -> None:
    """Set this process's environment; call it before Ray is imported.

    Args:
        local: Ray will be started here, for this process alone: its services listen to 127.0.0.1 only, under a secret that
            is in no file.
    """
    os.environ.update(_ALWAYS)
    if local:
        os.environ.update(
            {
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray use the loopback address, on Linux too
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
            }
        )
