"""One step of many streams of one model: what runs in the worker thread."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec.coding import Decoding, Encoding
from codec.model import Codec
from codec.serving.pool import Pool

DIRECTIONS = ("encode", "decode", "both")


@dataclass(frozen=True)
class Job:
    """What a stream is given in a step.

    key: of the stream; one job of each key in a step.
    direction: encode, decode, or both: samples to codes and these to samples.
    inputs: float32 samples (n,), or codes (k, m) for decode.
    num_codebooks: of the codes to make. It may change from step to step.
    last: whether the signal ends here.
    """

    key: Hashable
    direction: str
    inputs: np.ndarray
    num_codebooks: int
    last: bool = False


@dataclass(frozen=True)
class Output:
    """What a stream gets of a step: codes (k, m) int64, none for decode, and samples (n,) float32 at
    `model.output_sample_rate`, none for encode."""

    codes: np.ndarray | None
    samples: np.ndarray | None


class Engine:
    """Every stream is coded as if it were alone: codes are those of `Codec.encode`, samples those of `Codec.decode`.

    Not to be called from two threads at once.
    Raises ValueError for a model that cannot run live (see `Codec.stream`).
    """

    def __init__(self, model: Codec):
        model.stream(1)  # whether it can
        self.model = model
        self._encoders = Pool(lambda rows: Encoding(model, rows, model.num_codebooks))
        self._decoders = Pool(lambda rows: Decoding(model, rows))

    @torch.no_grad()
    def step(self, jobs: Sequence[Job]) -> list[Output]:
        """Streams with as many inputs, and to be coded with as many codebooks, run together."""
        codes: dict[Hashable, Tensor] = {}
        encoded = [job for job in jobs if job.direction != "decode"]
        for same in _alike(encoded, lambda job: (job.num_codebooks, len(job.inputs), job.last)):
            codes |= self._encode(same)
        for job in jobs:
            if job.direction == "decode":
                codes[job.key] = torch.from_numpy(job.inputs).to(self.model.device)
        samples: dict[Hashable, Tensor] = {}
        decoded = [job for job in jobs if job.direction != "encode" and (codes[job.key].shape[1] or job.last)]
        for same in _alike(decoded, lambda job: (codes[job.key].shape[1], job.last)):
            samples |= self._decode(same, codes)
        self.remove(job.key for job in jobs if job.last)
        nothing = torch.zeros(0)
        return [Output(
            codes[job.key].cpu().numpy() if job.direction != "decode" else None,
            samples.get(job.key, nothing).cpu().numpy() if job.direction != "encode" else None,
        ) for job in jobs]

    def remove(self, keys) -> None:
        """Forget streams that end before their last job."""
        keys = list(keys)
        self._encoders.remove(keys)
        self._decoders.remove(keys)

    def __len__(self) -> int:
        """How many states are held."""
        return len(self._encoders) + len(self._decoders)

    def _encode(self, jobs: list[Job]) -> dict[Hashable, Tensor]:
        wav = torch.from_numpy(np.stack([job.inputs for job in jobs]))[:, None].to(self.model.device)  # (B, 1, n)

        def call(rows: Encoding, x: Tensor) -> Tensor:
            rows.num_codebooks = jobs[0].num_codebooks
            return rows.finish(x) if jobs[0].last else rows.push(x)

        keys = [job.key for job in jobs]
        return dict(zip(keys, self._encoders.run(call, keys, wav)))

    def _decode(self, jobs: list[Job], codes: dict[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        latents: dict[Hashable, Tensor] = {}
        for same in _alike(jobs, lambda job: codes[job.key].shape[0]):
            decoded = self.model.quantizer.decode(torch.stack([codes[job.key] for job in same]))  # (B, dim, m)
            latents |= {job.key: row for job, row in zip(same, decoded)}
        keys = [job.key for job in jobs]
        call = Decoding.finish if jobs[0].last else Decoding.push
        wav = self._decoders.run(call, keys, torch.stack([latents[key] for key in keys]))
        return {key: row[0] for key, row in zip(keys, wav)}


def _alike(jobs: Sequence[Job], trait) -> list[list[Job]]:
    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        groups.setdefault(trait(job), []).append(job)
    return list(groups.values())
