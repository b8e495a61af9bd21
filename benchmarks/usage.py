"""How many codes each quantizer uses of real features: python benchmarks/usage.py FOLDER [--steps 300]

Each family with codebooks of 1024 is trained alone, as benchmarks/shannon.py does, on what the encoder of `speech-16k`
makes of a FOLDER of speech, about an hour of it; a third of the recordings is held out. Printed is the share of codes
that occur in 50,000 held-out frames, of each codebook, in percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from recoding import speech
from shannon import train
from torch import Tensor

import quantizers

SIZE, FRAMES, BLOCK = 1024, 50_000, 5000
CASES = (
    ("rvq", 2, {}), ("grouped_rvq", 2, {}), ("factorized_rvq", 2, {}), ("split_rvq", 2, {}),
    ("multiscale_rvq", 2, {"strides": (2, 1)}), ("single", 1, {}), ("product", 2, {}), ("fsq", 1, {}),
    ("residual_fsq", 2, {}), ("lfq", 1, {}), ("bsq", 1, {}), ("simvq", 2, {}), ("random_projection", 2, {}),
    ("kmeans", 2, {}), ("mvq", 2, {}),
)


@torch.no_grad()
def used(quantizer: quantizers.Quantizer, latents: Tensor) -> list[float]:
    """Of each codebook, the percentage of codes in latents (1, dim, T)."""
    codes = torch.cat([quantizer.encode(block) for block in latents.split(BLOCK, 2)], 2)[0]
    return [100 * len(column.unique()) / size for column, size in zip(codes, quantizer.codebook_sizes)]


def report(source: Callable[[int], Tensor], latents: Tensor, steps: int, only: str = "") -> None:
    """source: a number of frames to so many latents (1, dim, frames) to train on; latents (1, dim, T) held out."""
    print(f"{latents.shape[2]:,} held-out frames of {latents.shape[1]} dimensions, {steps} steps")
    for name, books, options in CASES:
        if only not in ("", name):
            continue
        torch.manual_seed(0)
        quantizer = quantizers.build(name, latents.shape[1], books, SIZE, **options)
        if quantizer.decodes:
            train(quantizer, source, steps)
        else:
            quantizer.initialize(source(20_000))
        shares = ", ".join(f"{share:.1f}" for share in used(quantizer, latents))
        print(f"{name:18} {books} x {SIZE}   {shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of speech")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", default="", help="one family")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report(*speech(args.folder, recordings=10**6, held_out=FRAMES, share=3), args.steps, args.only)


if __name__ == "__main__":
    main()
