"""Grouped residual vector quantization (HiFi-Codec, Yang et al. 2023, https://arxiv.org/abs/2305.02765)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizers import beam_search
from quantizers.beam_search import check_beam
from quantizers.codebook import CodebookQuantizer, Step, Visit


class GroupedResidualVQ(CodebookQuantizer):
    """Each of `groups` equal slices of the latents has a residual quantizer of num_codebooks / groups stages.

    Codes are ordered by stage: the first stage of every group, then the second ones. The first k decode for every k; a
    slice of which there is no code yet is 0.

    Args:
        dim, num_codebooks: width of the latents and codebooks of all groups together; `groups` divides both.
        codebook_size: vectors in each codebook.
        decay: of the moving averages that train the codebooks.
        beam: width of the search in encoding (`beam_search`) for each slice: 1 is greedy, wider is better and slower.
            Training is greedy.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 4, codebook_size: int = 1024, groups: int = 2, decay: float = 0.99,
        beam: int = 1,
    ) -> None:
        if groups < 1:
            raise ValueError(f"groups={groups}: at least 1 is needed")
        for name, value in (("dim", dim), ("num_codebooks", num_codebooks)):
            if value % groups:
                near = near_multiples(value, groups)
                raise ValueError(f"{name}={value} is not divisible by groups={groups}: use {near}")
        super().__init__(dim, num_codebooks, codebook_size, width=dim // groups, decay=decay)
        self.groups, self.beam = groups, check_beam(beam)

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        residuals = list(rows.chunk(self.groups, 1))
        for index in range(k):
            group = index % self.groups
            codes, vectors = visit(index, residuals[group])
            residuals[group] = residuals[group] - vectors
            yield Step(codes, self._part(index, vectors), residuals[group])

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        codes = torch.empty(latents.shape[0], k, latents.shape[2], dtype=torch.int64, device=latents.device)
        for group, slice in enumerate(latents.chunk(self.groups, 1)[:k]):
            indices = range(group, k, self.groups)

            def decode(codes: Tensor, indices: range = indices) -> Tensor:
                return sum(self.codebooks[index][codes[:, n]] for n, index in enumerate(indices)).mT

            tables = self._beam_tables(indices)
            codes[:, group :: self.groups] = beam_search.encode(slice, tables, beam, decode)
        return codes

    def _part(self, index: int, vectors: Tensor) -> Tensor:
        """(..., dim / groups) to (..., dim), 0 in the other groups."""
        group, width = index % self.groups, vectors.shape[-1]
        return F.pad(vectors, (group * width, (self.groups - 1 - group) * width))


def near_multiples(value: int, divisor: int) -> str:
    """The multiples of `divisor` around a value that is none, in words."""
    below = value - value % divisor
    return f"{below} or {below + divisor}" if below else str(divisor)
