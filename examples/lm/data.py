"""Recordings to tokens, once; tokens to one long stream of steps in the delay pattern, and crops of it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from codec.evaluation import sound
from codec.evaluation.datasets import recordings
from codec.lm.patterns import Pattern
from codec.model import Codec


def tokens(folder: Path, model: Codec, cache: Path) -> dict[str, Tensor]:
    """Codes (K, frames) int64 of every recording of a folder by its name, sorted. `cache`, a file, keeps them for the next run.
    Raises SystemExit when it holds those of another folder."""
    if not cache.is_file():
        found = {}
        for item in recordings(folder):
            wav = torch.from_numpy(sound.load(item.path, model.sample_rate).wav)
            found[item.name] = model.encode(wav).codes[0].to(torch.int32)
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(".part")
        save_file(found, part, {"folder": str(folder.resolve())})
        part.replace(cache)
    with safe_open(cache, "pt") as file:
        if file.metadata() != {"folder": str(folder.resolve())}:
            raise SystemExit(f"{cache} holds the tokens of {file.metadata()['folder']}, not of {folder}: choose another --out")
        return {name: file.get_tensor(name).long() for name in sorted(file.keys())}


def steps(codes: Tensor, pattern: Pattern) -> Tensor:
    """Codes (K, frames) to (K, 1 + S): a step without codes to start from, then the pattern's."""
    start = torch.full((len(codes), 1), pattern.special)
    return torch.cat([start, pattern.apply(codes[None])[0]], 1)


def stream(recordings: dict[str, Tensor], pattern: Pattern, seed: int) -> Tensor:
    """All recordings one after the other in an order drawn by `seed`, (K, N)."""
    names = list(recordings)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.cat([steps(recordings[names[i]], pattern) for i in order], 1)


def crops(long: Tensor, batch: int, length: int, seed: int, step: int) -> Tensor:
    """(B, K, length) from anywhere. The same for the same seed and step, so that a run that is resumed sees what it would
    have seen."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    starts = torch.randint(long.shape[1] - length + 1, (batch,), generator=generator).tolist()
    return torch.stack([long[:, start : start + length] for start in starts])
