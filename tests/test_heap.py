"""Free memory goes back to the system."""

from __future__ import annotations

import pytest
import torch

from codec import heap


def resident() -> int:
    with open("/proc/self/statm") as file:
        return 4096 * int(file.read().split()[1])


@pytest.mark.skipif(heap._glibc() is None, reason="needs glibc 2.33 or later")
def test_holes_are_given_back(monkeypatch):
    parts = [torch.ones(20_000) for _ in range(1500)]  # 80 kB each: too little to be taken from the system by itself
    del parts[::2]
    monkeypatch.setattr(heap, "KEPT", 1 << 40)
    before = resident()
    heap.trim()  # little is free
    assert resident() > before - 5_000_000
    monkeypatch.setattr(heap, "KEPT", 20_000_000)
    heap.trim()
    assert resident() < before - 30_000_000
    assert all(part[-1] == 1 for part in parts)


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    heap.trim()
