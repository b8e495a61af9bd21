"""Residual vector quantization split into a semantic and an acoustic half (Mimi, in Moshi, Defossez et al. 2024,
https://arxiv.org/abs/2410.00037)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers.beam_search import Table, check_beam, search, settled
from quantizers.codebook import CodebookQuantizer, Step, Visit, carry, mean_square
from quantizers.layered_search import PULLS, add_up
from quantizers.projection import Kept
from quantizers.search import products
from quantizers.start import principal_axes

MAX_WIDTH = 4096


class SplitResidualVQ(CodebookQuantizer):
    """Two residual quantizers, whose outputs are added: the first codebooks are the semantic one, to be taught by a
    teacher through `decode_semantic`, the others the acoustic one.

    The acoustic half quantizes what the semantic one leaves, so that the first k codebooks decode for every k with
    falling error. In parallel both quantize the latents, and learn to share them.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: of both halves together, and the number of vectors in each.
        semantic_codebooks: how many of them are semantic; at least one is left to each half.
        codebook_dim: width of the codebooks, with linear maps of each half's own from and to the latents, trained by
            gradients; None: no maps, and codebooks as wide as the latents.
        parallel: both halves quantize the latents, as in Mimi's published weights; needs codebook_dim.
        decay: of the moving averages that train the codebooks.
        beam: width of the search in encoding (`layered_search`) for each half, so that semantic codes do not depend on
            acoustic ones: 1 is greedy, wider is better and slower. Acoustic codes are then searched for the least error
            of the latents, not of what is mapped from them, and such that the semantic ones are found again. Training
            is greedy.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 8, codebook_size: int = 2048, semantic_codebooks: int = 1,
        codebook_dim: int | None = None, parallel: bool = False, decay: float = 0.99,
        beam: int = 1,
    ) -> None:
        if not 1 <= semantic_codebooks < num_codebooks:
            raise ValueError(f"semantic_codebooks={semantic_codebooks} of num_codebooks={num_codebooks}: "
                             "at least 1 must be semantic and 1 acoustic")
        if codebook_dim is not None and not 1 <= codebook_dim <= MAX_WIDTH:
            raise ValueError(f"codebook_dim={codebook_dim} is outside 1..{MAX_WIDTH}")
        if parallel and codebook_dim is None:
            raise ValueError("parallel=True needs codebook_dim: without maps both halves would code the same")
        super().__init__(dim, num_codebooks, codebook_size, width=codebook_dim or dim, decay=decay)
        self.semantic_codebooks, self.codebook_dim, self.parallel = semantic_codebooks, codebook_dim, parallel
        self.beam, self._kept = check_beam(beam), Kept()
        if codebook_dim is not None:
            self.semantic_in, self.acoustic_in = (nn.Linear(dim, codebook_dim, bias=False) for _ in range(2))
            self.semantic_out, self.acoustic_out = (nn.Linear(codebook_dim, dim, bias=False) for _ in range(2))

    def decode_semantic(self, codes: Tensor) -> Tensor:
        """The semantic half's share (B, dim, T) of what codes (B, k, T), of the first k codebooks, decode to."""
        self.check_count(codes.shape[1])
        with torch.autocast(codes.device.type, enabled=False):
            return self._decode_half(0, codes[:, : self.semantic_codebooks])

    def _decode(self, codes: Tensor) -> Tensor:
        semantic = self._decode_half(0, codes[:, : self.semantic_codebooks])
        if codes.shape[1] <= self.semantic_codebooks:
            return semantic
        return semantic + self._decode_half(self.semantic_codebooks, codes[:, self.semantic_codebooks :])

    def _decode_half(self, first: int, codes: Tensor) -> Tensor:
        """Codes (B, k, T) of the codebooks from `first` on, all of one half."""
        total = self.codebooks[first][codes[:, 0]]  # (B, T, width)
        for index in range(1, codes.shape[1]):
            total = total + self.codebooks[first + index][codes[:, index]]
        return self._part(first, total.flatten(0, 1)).reshape(*total.shape[:2], self.dim).mT

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        left_over = rows
        for index in range(k):
            if index in (0, self.semantic_codebooks):  # a half begins
                source = residual = self._narrow(index, rows if self.parallel else left_over)
            codes, vectors = visit(index, residual)
            residual = residual - vectors
            if self.codebook_dim is None:
                part, level = vectors, None
            else:
                # The first of a half hands its gradient on to what the half quantizes.
                first = index in (0, self.semantic_codebooks)
                passed = carry(vectors, unscaled(source)) if first else vectors
                part, level = self._part(index, passed), mean_square(source - source.mean(0)) + 1e-8
            left_over = left_over - part
            yield Step(codes, part, residual, level)

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        batch, dim, frames = latents.shape
        first = min(k, self.semantic_codebooks)
        semantic, (acoustic, inverse) = self._beam_tables(range(first)), self._outward(k)

        def restore(codes: Tensor) -> Tensor:
            return self._decode(codes[:, :, None])[:, :, 0]

        def propose(rows: Tensor, pull: float = 0.0) -> Tensor:
            choices = search(self._narrow(0, rows), semantic, beam)
            if not acoustic:
                return choices
            codes = choices[:, 0]
            target = rows - restore(codes)
            if pull:
                astray = self._narrow(0, rows) - add_up(semantic, codes)
                target = target - pull * (astray if inverse is None else products(astray, inverse))
            choices = search(target, acoustic, beam)
            return torch.cat([codes[:, None].expand(-1, choices.shape[1], -1), choices], 2)

        rows = latents.mT.reshape(batch * frames, dim)
        if self.parallel and not acoustic:  # half of the latents is not coded as all of them
            codes = propose(rows)[:, 0]
        else:
            codes, stays = settled(rows, propose, restore, further=0)
            for pull in PULLS:
                waiting = (~stays).nonzero()[:, 0]
                if waiting.numel() == 0:
                    break
                found, there = settled(rows[waiting], partial(propose, pull=pull), restore, propose, further=0)
                codes[waiting[there]], stays[waiting] = found[there], there
        return codes.reshape(batch, frames, k).mT

    def _outward(self, k: int) -> tuple[list[Table], Tensor | None]:
        """The acoustic ones of the first k codebooks, as wide as the latents, and what takes (N, width) to latents that the
        semantic map takes back to them; None where there is none."""
        first = self.semantic_codebooks
        if self.codebook_dim is None:
            return self._beam_tables(range(first, k)), None
        widen, narrow = self.acoustic_out.weight, self.semantic_in.weight

        def make() -> tuple[list[Table], Tensor]:
            tables = []
            for keys in self.codebooks[first:].float():
                vectors = self._part(first, keys)
                tables.append(Table(vectors, 0.5 * vectors.square().sum(1), widen.detach().float(), keys))
            return tables, torch.linalg.pinv(narrow.detach().float()).T.contiguous()

        tables, inverse = self._kept.of([self.codebooks, widen, narrow], make)
        return tables[: max(0, k - first)], inverse

    def _narrow(self, index: int, rows: Tensor) -> Tensor:
        """(N, dim) to what the half of codebook `index` quantizes (N, width)."""
        if self.codebook_dim is None:
            return rows
        narrow = self.semantic_in if index < self.semantic_codebooks else self.acoustic_in
        return products(rows, narrow.weight.float().T)

    def _part(self, index: int, vectors: Tensor) -> Tensor:
        """(N, width) to (N, dim)."""
        if self.codebook_dim is None:
            return vectors
        widen = self.semantic_out if index < self.semantic_codebooks else self.acoustic_out
        return products(vectors, widen.weight.to(vectors.dtype).T)

    # Training

    def _start(self, rows: Tensor, mask: Tensor) -> None:
        if self.codebook_dim is None:
            return super()._start(rows, mask)
        first = self.semantic_codebooks
        self._start_maps(self.semantic_in, self.semantic_out, rows)
        parts = [step.part for step in self._walk(rows, mask, first, self._begin)]
        self._start_maps(self.acoustic_in, self.acoustic_out, rows if self.parallel else rows - sum(parts))

        def begin_acoustic(index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
            return self._look_up(index, rows) if index < first else self._begin(index, rows)

        for _ in self._walk(rows, mask, self.num_codebooks, begin_acoustic):
            pass

    def _start_maps(self, narrow: nn.Linear, widen: nn.Linear, rows: Tensor) -> None:
        """Onto the axes along which rows (N, dim) reach farthest, and back; in parallel each half gives half."""
        _, axes = principal_axes(rows, min(self.dim, self.codebook_dim), self.trainer[0].processes, centered=False)
        axes = F.pad(axes, (0, 0, 0, self.codebook_dim - axes.shape[0]))  # wider than the latents: nothing lies there yet
        narrow.weight.copy_(axes)
        widen.weight.copy_(0.5 * axes.T if self.parallel else axes.T)

    def _pass_gradient(self, rows: Tensor, output: Tensor) -> Tensor:
        return super()._pass_gradient(rows, output) if self.codebook_dim is None else output  # the maps have passed it


def unscaled(rows: Tensor) -> Tensor:
    """rows (N, width), without gradients to their scale: the codebooks follow it, so that it means nothing, and
    gradients that are passed straight through would let it grow for ever."""
    scale = (mean_square(rows) + 1e-8).sqrt()
    return rows / scale * scale.detach()
