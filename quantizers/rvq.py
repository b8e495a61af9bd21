"""Residual vector quantization (SoundStream, Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from quantizers.beam_search import check_beam
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
        beam: width of the search in encoding (`beam_search`): 1 is greedy, wider is better and slower. Training is
            greedy.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 8, codebook_size: int = 1024, decay: float = 0.99,
        gradient: str = "straight_through", beam: int = 1,
    ) -> None:
        super().__init__(dim, num_codebooks, codebook_size, width=dim, decay=decay)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient={gradient!r}: there is {' and '.join(GRADIENTS)}")
        self.gradient, self.beam = gradient, check_beam(beam)

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        residual = rows
        for index in range(k):
            codes, vectors = visit(index, residual)
            residual = residual - vectors
            yield Step(codes, vectors, residual)
