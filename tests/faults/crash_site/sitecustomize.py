"""Imported by every Python process whose PYTHONPATH has this folder."""

from tests.faults.crash_hook import install

install()
