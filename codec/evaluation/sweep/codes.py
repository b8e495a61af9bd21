"""What the codes of all recordings together tell: how many entries of each codebook are used, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec.evaluation.sweep import keep
from codec.evaluation.sweep.summary import Group
from codec.lm.predictability import cross_validated


def usage(out: Path, groups: Sequence[Group], models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """For each model with codes, its frames and a row for each codebook that was used.

    used: share of the entries that occur; entropy: bits a code, of the frequencies over all recordings (at most log2 of the
    size, and biased down for few frames); repeats: share of codes that are the one before. models: facts of each system,
    {"sizes", "frame_seconds"}.
    """
    found = []
    for name in dict.fromkeys(group.system for group in groups if group.system in models):
        kept = kept_codes(out, groups, name)
        if not kept:
            continue
        books = min(len(codes) for codes in kept)
        rows = [of_codebook([codes[book] for codes in kept], models[name]["sizes"][book]) for book in range(books)]
        found.append({"model": name, "frames": sum(codes.shape[1] for codes in kept), **models[name], "codebooks": rows})
    return found


def ngram_bits(out: Path, groups: Sequence[Group], system: str, sizes: Sequence[int]) -> tuple[float, ...]:
    """Bits a code of each codebook, by 4-grams of four fifths of the recordings for the last one; () for a single recording."""
    kept = kept_codes(out, groups, system)
    if len(kept) < 2:
        return ()
    books = min(len(codes) for codes in kept)
    return cross_validated([codes[:books] for codes in kept], sizes[:books], 1.0, folds=min(5, len(kept))).bits


def kept_codes(out: Path, groups: Sequence[Group], system: str) -> list[np.ndarray]:
    """Codes (K, frames) of every recording, with all codebooks that any setting has."""
    cells = {cell.file: cell for group in groups if group.system == system for cell in group.coded}
    return [codes for cell in cells.values() if (codes := keep.read(keep.codes_path(out, cell))) is not None]


def of_codebook(codes: Sequence[np.ndarray], size: int) -> dict[str, float | int]:
    """Of one codebook: codes (frames,) of each recording."""
    counts = np.bincount(np.concatenate(codes), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    pairs = sum(len(each) - 1 for each in codes)
    repeats = sum(int((each[1:] == each[:-1]).sum()) for each in codes)
    return {
        "size": size, "used": round(float((counts > 0).mean()), 6), "entropy": round(float(-(shares * np.log2(shares)).sum()) + 0.0, 6),
        "bits": round(float(np.log2(size)), 6), "repeats": round(repeats / pairs, 6) if pairs else 0.0,
    }
