"""Codes in which a label is hidden, or not, for probes."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from codec.evaluation.probe_tokens import CodebookSet
from codec.evaluation.probe_view import View
from codec.tokens import TokenSpec
from quantizers.rvq import ResidualVQ

SIZE = 16


class SyntheticTokens:
    """Stands for `probe_tokens.Tokens`: two codebooks of 16 at 50 frames a second; codes by the digest of the recording."""

    def __init__(self, codes: dict[str, torch.Tensor]):
        quantizer = ResidualVQ(8, num_codebooks=2, codebook_size=SIZE)
        quantizer.codebooks.normal_(generator=torch.Generator().manual_seed(0))
        self.model = SimpleNamespace(quantizer=quantizer)
        self.spec = TokenSpec("synthetic", 16_000, 320, (SIZE, SIZE), "0" * 16, "0" * 16)
        self._codes = codes

    def of(self, recordings, progress=None):
        return [self._codes[recording.digest] for recording in recordings]


def view(codes: dict[str, torch.Tensor], codebook: int, **settings) -> View:
    return View("synthetic", SyntheticTokens(codes), CodebookSet(codebook, codebook), **settings)
