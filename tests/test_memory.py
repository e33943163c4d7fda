"""Freed memory is used again without a page fault."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from monai_vmat.memory import keep_freed_memory
if {keep}: keep_freed_memory()
def work():
    a = torch.ones(1 << 24)  # 64 MiB: above what glibc ever keeps by itself
    b = a + 1
for _ in range(9): work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_step_makes_no_page_faults_once_the_memory_is_there():
    def faults(keep):
        done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 3 * 2 * (64 << 20) // 4096
    assert faults(keep=False) > pages // 2
    assert faults(keep=True) < pages // 100


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("asked"))
    from monai_vmat.memory import keep_freed_memory

    keep_freed_memory()
