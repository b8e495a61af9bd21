"""Residual vector quantization (SoundStream, Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from quantizers import beam_search
from quantizers.codebook import CodebookQuantizer, Step, Visit

GRADIENTS = ("straight_through", "rotation")


class ResidualVQ(CodebookQuantizer):
    """K codebooks, each quantizing what the ones before it left over; the first k decode for every k.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        decay: of the moving averages that train the codebooks.
        gradient: how it reaches the latents: "straight_through" unchanged, "rotation" turned as the latents are to the
            quantized ones (Fifty et al. 2024, https://arxiv.org/abs/2410.06424).
        beam: width of the search (`beam_search`), in training, too: 1 is greedy, wider is better and slower.
        settle: encoding by a beam goes on to codes that survive decoding and encoding again, in more than twice the time.
            Training does not.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 8, codebook_size: int = 1024, decay: float = 0.99,
        gradient: str = "straight_through", beam: int = 1, settle: bool = True,
    ) -> None:
        super().__init__(dim, num_codebooks, codebook_size, width=dim, decay=decay)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient={gradient!r}: there is {' and '.join(GRADIENTS)}")
        if not isinstance(settle, bool):
            raise ValueError(f"settle={settle!r}: it must be true or false")
        self.gradient, self.beam, self.settle = gradient, beam_search.check_beam(beam), settle

    def _chosen(self, rows: Tensor) -> Tensor | None:
        if self.beam == 1:
            return None
        middle, tables = self._middle(self.num_codebooks), self._beam_tables(range(self.num_codebooks))
        return beam_search.search(rows if middle is None else rows - middle, tables, self.beam, choices=1)[:, 0]

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        residual = rows
        for index in range(k):
            codes, vectors = visit(index, residual)
            residual = residual - vectors
            yield Step(codes, vectors, residual)
