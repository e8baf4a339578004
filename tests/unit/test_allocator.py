"""Freed memory stays with the process: measured in a process of its own, since it cannot be undone."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from dien.allocator import keep_freed_memory

if {keep}:
    assert keep_freed_memory()
for _ in range(30):  # until the heap has settled
    torch.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_blocks_are_faulted_in_once():
    faults = [
        int(subprocess.check_output([sys.executable, "-c", SCRIPT.format(keep=keep)], text=True))
        for keep in (False, True)
    ]
    assert faults[1] < 100 < faults[0]
