"""One large codebook (WavTokenizer, Ji et al. 2024, https://arxiv.org/abs/2408.16532)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from quantizers.codebook import CodebookQuantizer, Step, Visit


class SingleVQ(CodebookQuantizer):
    """One codebook for the whole frame, with a long k-means start and revival of codes that fall out of use.

    Args:
        dim: width of the latents.
        num_codebooks: 1.
        codebook_size: number of vectors; WavTokenizer has 4096.
        decay: of the moving averages that train the codebook.
        kmeans_iters: iterations of k-means from which it starts.
    """

    centered = True

    def __init__(
        self, dim: int, num_codebooks: int = 1, codebook_size: int = 4096, decay: float = 0.99, kmeans_iters: int = 50
    ) -> None:
        if num_codebooks != 1:
            raise ValueError(f"num_codebooks={num_codebooks}: this quantizer has 1; use rvq for more")
        super().__init__(dim, 1, codebook_size, width=dim, decay=decay, kmeans_iters=kmeans_iters)

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        codes, vectors = visit(0, rows)
        yield Step(codes, vectors, rows - vectors)
