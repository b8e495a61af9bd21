"""Codes of recordings, kept on disk for each model, and the sets of codebooks that a probe looks at."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codec.atomic import put
from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_report import ProbeError
from codec.model import Codec
from codec.training.data import DataError, decode
from quantizers.base import Quantizer


class CodebookSet(NamedTuple):
    """Codebooks first to last, counted from 1."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def rows(self) -> slice:
        """Of codes (K, T)."""
        return slice(self.first - 1, self.last)

    @property
    def is_prefix(self) -> bool:
        return self.first == 1


def codebook_sets(text: str, num_codebooks: int) -> list[CodebookSet]:
    """"1,3,1-4" as sets of the codebooks that a model has. `each` stands for every one alone, `all` for the first k together with
    k the number there is, `prefixes` for 1, 1-2, 1-3 and so on. Raises ProbeError for anything else."""
    sets: list[CodebookSet] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        if part == "each":
            sets += [CodebookSet(k, k) for k in range(1, num_codebooks + 1)]
        elif part == "prefixes":
            sets += [CodebookSet(1, k) for k in range(1, num_codebooks + 1)]
        elif part == "all":
            sets.append(CodebookSet(1, num_codebooks))
        elif match := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            sets.append(CodebookSet(int(match[1]), int(match[2] or match[1])))
        else:
            raise ProbeError(f"codebooks {part!r}: name them as 1 or 1-4, or say each, prefixes or all")
        if not 1 <= sets[-1].first <= sets[-1].last <= num_codebooks:
            raise ProbeError(f"codebooks {part}: the model has codebooks 1 to {num_codebooks}")
    if not sets:
        raise ProbeError("no codebooks are named: give for example 1,1-8")
    return list(dict.fromkeys(sets))


class Tokens:
    """All codes of recordings by one model, from `cache` where they are there: a folder of the model's fingerprint and search
    with a file for each content.

    Recordings are mixed to mono and coded whole with all codebooks.
    """

    def __init__(self, model: Codec, cache: str | os.PathLike[str] = ""):
        self.model, self.spec = model, model.spec
        name = "-".join(filter(None, (self.spec.fingerprint, model.quantizer.searched_by)))
        self.folder = (Path(cache).expanduser() if cache else user_cache()) / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def codes(self, recording: Recording) -> np.ndarray:
        """(K, T) uint16. Raises ProbeError for a file that cannot be read."""
        path = self.folder / f"{recording.digest}.npy"
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError):
            pass  # not there, or torn
        try:
            wav = decode(recording.path, self.model.sample_rate).astype(np.float32) / 32767
        except DataError as error:
            raise ProbeError(f"{recording.path} cannot be read ({error}): take it out of the data") from None
        codes = self.model.encode(wav).codes[0].cpu().numpy().astype(np.uint16)  # no codebook has more than 65536
        buffer = io.BytesIO()
        np.save(buffer, codes)
        put(path, buffer.getvalue())
        return codes

    def of(
        self, recordings: Sequence[Recording], progress: Callable[[int, int, str], None] | None = None
    ) -> list[Tensor]:
        """For each recording codes (K, T) int64."""
        codes = []
        for index, recording in enumerate(recordings):
            if progress is not None:
                progress(index, len(recordings), f"codes of {Path(recording.path).name}")
            codes.append(torch.from_numpy(self.codes(recording).astype(np.int64)))
        return codes


@torch.no_grad()
def code_vectors(quantizer: Quantizer, codebook: int) -> Tensor | None:
    """What each code of a codebook (counted from 1) adds to the decoded latents, (size, dim), less its mean over the codes.

    None for a quantizer that only makes labels. The families here decode to a sum (or a concatenation, which is one) over
    codebooks, so the vectors of a set of codebooks add up to its decoded latents but for a constant.
    """
    if not quantizer.decodes:
        return None
    together = min(count for count in quantizer.counts if count >= codebook)
    size = quantizer.codebook_sizes[codebook - 1]
    codes = torch.zeros(size, together, quantizer.frame_multiple, dtype=torch.int64, device=next(_tensors(quantizer)).device)
    codes[:, codebook - 1] = torch.arange(size, device=codes.device)[:, None]
    latents = quantizer.decode(codes).mean(2).float().cpu()
    return latents - latents.mean(0)


def _tensors(quantizer: Quantizer):
    yield from quantizer.parameters()
    yield from quantizer.buffers()
    yield torch.zeros(())


def user_cache() -> Path:
    """Of codes, where no folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neural-codec-toolkit" / "probes"
