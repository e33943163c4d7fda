"""The files that the tests write are what the standard calls DICOM."""

from __future__ import annotations

import shutil
import subprocess

import pytest


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("name", ("ct_001", "rs", "rd", "rp"))
def test_the_written_files_are_valid(tmp_path_factory, pelvis, prostate, write_dicom_set, name):
    # 16 bits: dciodvfy stumbles over its own assertion with doses of 32
    folder = write_dicom_set(pelvis, tmp_path_factory.mktemp("valid"), prostate, dose_bits=16)
    said = subprocess.run(["dciodvfy", folder / f"{name}.dcm"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0 and "Error" not in said.stderr + said.stdout, said.stderr
