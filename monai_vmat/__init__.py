"""Predict the 3D dose of a VMAT plan from CT, contours and planning constraints. Research software, not a medical device."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("monai_vmat")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
