"""Product quantization (Jegou et al. 2011, https://doi.org/10.1109/TPAMI.2010.57)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from quantizers.codebook import CodebookQuantizer, Step, Visit
from quantizers.grouped_rvq import near_multiples


class ProductVQ(CodebookQuantizer):
    """Cuts the latents into num_codebooks equal slices and quantizes each by itself; they decode together only.

    Args:
        dim: width of the latents, divisible by num_codebooks.
        num_codebooks, codebook_size: slices, and the number of vectors for each.
        decay: of the moving averages that train the codebooks.
    """

    centered = True

    def __init__(self, dim: int, num_codebooks: int = 8, codebook_size: int = 1024, decay: float = 0.99) -> None:
        if num_codebooks > 0 and dim % num_codebooks:
            raise ValueError(f"dim={dim} is not divisible by num_codebooks={num_codebooks}: "
                             f"use dim={near_multiples(dim, num_codebooks)}")
        super().__init__(dim, num_codebooks, codebook_size, width=dim // max(1, num_codebooks), decay=decay)

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.num_codebooks,)

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        for index, slice in enumerate(rows.chunk(k, 1)):
            codes, vectors = visit(index, slice)
            yield Step(codes, self._part(index, vectors), slice - vectors)

    def _part(self, index: int, vectors: Tensor) -> Tensor:
        """(..., dim / K) to (..., dim), 0 in the other slices."""
        width = vectors.shape[-1]
        return F.pad(vectors, (index * width, (self.num_codebooks - 1 - index) * width))
