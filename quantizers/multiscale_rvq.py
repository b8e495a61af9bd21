"""Residual vector quantization at several frame rates (SNAC, Siuzdak et al. 2024, https://arxiv.org/abs/2410.14411)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizers import layered_search
from quantizers.beam_search import check_beam
from quantizers.codebook import CodebookQuantizer, Step, Visit, spread


class MultiScaleResidualVQ(CodebookQuantizer):
    """Residual codebooks, of which the first ones hold a code for several frames.

    A codebook of stride s quantizes the average of what is left in each group of s frames, counted from the first
    frame; at the end a group may have fewer. Codes are (B, K, T) with the code of a group on each of its frames, so
    that frames decode one by one. The first k codebooks decode for every k.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        strides: frames a code of each codebook holds for, each a multiple of the next and the last 1. By default
            halved down to 1, and never above 8: (4, 2, 1) for 3, (8, 4, 2, 1, 1) for 5 codebooks.
        decay: of the moving averages that train the codebooks.
        beam: width of the search in encoding (`layered_search`): 1 is greedy, wider is better and slower. Training is
            greedy.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 4, codebook_size: int = 4096, strides: tuple[int, ...] | None = None,
        decay: float = 0.99, beam: int = 1,
    ) -> None:
        if strides is None:
            strides = tuple(2 ** max(0, min(3, num_codebooks - 1) - index) for index in range(num_codebooks))
        self._strides = checked_strides(strides, num_codebooks)
        super().__init__(dim, num_codebooks, codebook_size, width=dim, decay=decay)
        self.beam = check_beam(beam)

    @property
    def strides(self) -> tuple[int, ...]:
        return self._strides

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        return layered_search.encode(latents, self._beam_tables(range(k)), self.strides[:k], beam)

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        residual = rows
        for index in range(k):
            means, group = average(residual, mask, self.strides[index])
            codes, vectors = visit(index, means)
            residual = residual - vectors[group]
            yield Step(codes[group], vectors[group], (means - vectors)[group])


def checked_strides(strides: Sequence[int], num_codebooks: int) -> tuple[int, ...]:
    """The strides as a tuple. Raises ValueError unless there is one for each codebook, and they fit each other."""
    strides = tuple(strides)
    whole = all(isinstance(stride, int) and stride >= 1 for stride in strides)
    if len(strides) != num_codebooks or not whole or any(a % b for a, b in zip(strides, strides[1:] + (1,))):
        raise ValueError(f"strides={strides}: they must be {num_codebooks}, each a multiple of the next")
    if num_codebooks and strides[-1] != 1:
        raise ValueError(f"strides={strides}: the last must be 1, or no codebook has the rate of the frames")
    return strides


def average(rows: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Means (M, dim) of the groups of `stride` frames that have any, and the group (N,) of each frame.

    rows (N, dim) are the frames where mask (B, T) is True, and only these are averaged.
    """
    if stride == 1:
        return rows, torch.arange(rows.shape[0], device=rows.device)
    batch, length = mask.shape
    missing = -length % stride
    groups = (length + missing) // stride
    frames = F.pad(spread(rows, mask), (0, 0, 0, missing)).reshape(batch, groups, stride, rows.shape[1])
    sizes = F.pad(mask, (0, missing)).reshape(batch, groups, stride).sum(2)  # (B, groups)
    total = frames[:, :, 0]
    for offset in range(1, stride):  # one by one: the order of a sum over a dimension may depend on the others' length
        total = total + frames[:, :, offset]
    occupied = sizes > 0
    means = (total / sizes.clamp_min(1)[..., None])[occupied]
    group = (occupied.flatten().cumsum(0) - 1).reshape(sizes.shape).repeat_interleave(stride, 1)[:, :length]
    return means, group[mask]
