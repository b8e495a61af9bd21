"""Free memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from codec import heap


def resident() -> int:
    with open("/proc/self/statm") as file:
        return 4096 * int(file.read().split()[1])


@pytest.mark.skipif(heap._glibc() is None, reason="needs glibc 2.33 or later")
def test_holes_are_given_back():
    parts = [torch.ones(20_000) for _ in range(1500)]  # 80 kB each: too little to be taken from the system by itself
    del parts[::2]
    before = resident()
    heap.trim(1 << 40)  # little is free
    assert resident() > before - 5_000_000
    heap.trim(20_000_000)
    assert resident() < before - 30_000_000
    assert all(part[-1] == 1 for part in parts)


LARGE = """
import torch
from codec import heap

def resident():
    with open("/proc/self/statm") as file:
        return 4096 * int(file.read().split()[1])

heap.return_large()
before = resident()
for _ in range(2):  # glibc would keep what is freed after the first
    parts = [torch.ones(heap.LARGE // 4) for _ in range(5)]
    del parts[:4]
    assert 0.9 < (resident() - before) / heap.LARGE < 1.5, (resident() - before) / heap.LARGE
    del parts
assert resident() - before < heap.LARGE / 2
"""


@pytest.mark.skipif(heap._glibc() is None, reason="needs glibc 2.33 or later")
def test_what_is_large_goes_back_at_once():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SMALLER = """
import resource
import torch
from codec import heap

heap.return_large()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
parts = [torch.ones(heap.LARGE // 8) for _ in range(6)]  # of 4 MB, in pages of 4 kB
del parts
before = faults()
for _ in range(20):
    parts = [torch.ones(heap.LARGE // 8) for _ in range(6)]
    del parts
assert faults() - before < 10_000, faults() - before
"""


@pytest.mark.skipif(heap._glibc() is None, reason="needs glibc 2.33 or later")
def test_what_is_smaller_is_not_taken_from_the_system_anew_each_time():
    done = subprocess.run([sys.executable, "-c", SMALLER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    heap.trim()
    heap.return_large()
