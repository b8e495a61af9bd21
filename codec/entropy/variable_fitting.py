"""Fitting a prior to codes of a variable bitrate, which depend on a prior themselves: by turns, from plain codes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.allocation import check_quantizer
from codec.entropy.fitting import fit_prior
from codec.entropy.prior import Prior
from codec.entropy.residual_fitting import fit_residual
from codec.model import Codec

LEARNING_RATE = 5e-4  # on codes of a variable bitrate

Progress = Callable[[str], None]


def fit_variable(
    model: Codec, recordings: Sequence[Tensor], part: int = 10, rounds: Sequence[int] = (1, 6),
    epochs: tuple[int, int] = (3, 4), seed: int = 0, progress: Progress = print,
) -> Prior:
    """A prior for `Codec.encode(variable=…)`, for all codebooks of a model.

    Args:
        recordings: mono (T,) each, at the model's rate. Take none that the prior is judged by.
        part: each `part`-th recording is encoded at a variable bitrate; all of them plainly, once.
        rounds: of such encoding and fitting, with the steps of refinement in each. Six take a fifth of the time that 30 take.
        epochs: times that each frame is seen, of plain codes and of those of a variable bitrate.
        progress: is told what is being done.

    Raises ValueError for other codebooks than plain residual ones, and where a round has no recording.
    """
    check_quantizer(model)
    if not recordings or not all(recordings[number::part] for number in range(len(rounds))):
        raise ValueError(f"{len(recordings)} recordings are too few to take each {part}th in {len(rounds)} rounds: give more, or a lower part")
    plain = [model.encode(wav, normalize=True).codes[0] for wav in recordings]
    progress(f"{len(plain)} recordings encoded")
    found = list(shallow(plain, model, seed))
    prior = fit_residual(model, found, epochs[0], seed)
    for number, steps in enumerate(rounds):
        found = list(encoded(model, recordings[number::part], prior, steps, seed + number))
        progress(f"round {number + 1}: {len(found)} recordings encoded in {steps} steps")
        prior = fit_prior(found, model.spec, epochs=epochs[1], learning_rate=LEARNING_RATE, seed=seed, start=prior)
    return prior


def smallest_vectors(model: Codec) -> Tensor:
    """The code of the vector nearest to zero of each codebook (K, 1)."""
    return model.quantizer.codebooks.float().square().sum(2).argmin(1)[:, None]


def shallow(recordings: Sequence[Tensor], model: Codec, seed: int) -> Iterator[Tensor]:
    """Codes (K, T) with the smallest vector of each codebook beyond some depth, which wanders from frame to frame: a start, in which
    that code means "no more"."""
    count, generator = model.num_codebooks, torch.Generator().manual_seed(seed)
    smallest = smallest_vectors(model)
    for codes in recordings:
        noise = torch.randn(1, 1, codes.shape[1] + 4, generator=generator)
        depth = 1 + (count - 2) * torch.rand(1, generator=generator) + 2.5 * F.avg_pool1d(noise, 5, 1)[0, 0]
        yield torch.where(torch.arange(count)[:, None] < depth.round().clamp(1, count), codes, smallest)


def encoded(model: Codec, recordings: Sequence[Tensor], prior: Prior, steps: int, seed: int) -> Iterator[Tensor]:
    """Codes (K, T) of recordings at variable bitrates, from the least to the most of the model."""
    generator = torch.Generator().manual_seed(seed)
    low, high = model.bitrate(1), model.bitrate()
    for wav in recordings:
        bitrate = low * (high / low) ** torch.rand(1, generator=generator).item()
        yield model.encode(wav, bitrate=bitrate, refine=steps, variable=prior, normalize=True).codes[0]
