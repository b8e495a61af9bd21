"""Codebooks trained by moving averages: what the families that look for nearest vectors share.

`CodebookQuantizer` holds K codebooks of one size; a family says what each of them quantizes. Behind each codebook in
training stands a `CodebookTrainer`, whose averages `vector_quantize_pytorch` keeps: only `prepare_training` imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers import beam_search
from quantizers.base import QuantizerOutput, power, straight_through, usage_stats
from quantizers.processes import Processes
from quantizers.search import MANY_ROWS, Keys
from quantizers.start import DataStartedQuantizer, kmeans
from quantizers.unchanged import Unchanged

DEAD = 0.1  # a code used less than this share of the average is restarted

Visit = Callable[[int, Tensor], tuple[Tensor, Tensor]]  # (index, rows (N, width)) -> codes (N,), vectors (N, width)


class Step(NamedTuple):
    """Of one codebook: codes (N,), what it adds to the output (N, dim), what it left of its input (N, width), and the
    power that this is measured by, unless it is that of the latents."""

    codes: Tensor
    part: Tensor
    left: Tensor
    level: Tensor | None = None


class CodebookQuantizer(DataStartedQuantizer):
    """K codebooks of `codebook_size` vectors of `width`, which start by k-means and follow the averages of what they
    code (van den Oord et al. 2017, appendix A.1); codes that fall out of use restart at frames of the batch.

    A family implements `_walk` and `_part`. Codebooks are the buffer `codebooks` (K, size, width): change it in place
    or load it; through `.data` a change of few numbers would go unnoticed by the norms that are kept for the search.
    """

    gradient = "straight_through"
    centered = False  # search around the codebook's mean: vectors find themselves even when all are far from zero

    def __init__(
        self, dim: int, num_codebooks: int, codebook_size: int, width: int, decay: float, kmeans_iters: int = 10
    ) -> None:
        super().__init__(dim, (codebook_size,) * num_codebooks)
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} is outside [0, 1): 0.99 averages over about 100 steps")
        if kmeans_iters < 1:
            raise ValueError(f"kmeans_iters={kmeans_iters}: at least 1 is needed")
        self.codebook_size, self.decay, self.kmeans_iters = codebook_size, decay, kmeans_iters
        self.register_buffer("codebooks", torch.empty(num_codebooks, codebook_size, width).uniform_(-1.0, 1.0))
        self._tables = _KeptTables()

    # What a family says

    def _walk(self, rows: Tensor, mask: Tensor, k: int, visit: Visit) -> Iterator[Step]:
        """Quantize rows (N, dim), the frames where mask (B, T), by `visit`ing the first k codebooks in order."""
        raise NotImplementedError

    def _part(self, index: int, vectors: Tensor) -> Tensor:
        """Vectors (..., width) of codebook `index` to what they add to the output (..., dim)."""
        return vectors

    # Coding

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        batch, _, frames = latents.shape
        mask = torch.ones(batch, frames, dtype=torch.bool, device=latents.device)
        rows = latents.mT.reshape(batch * frames, self.dim)
        tables = self._tables.of(self.codebooks, self.centered)
        steps = self._walk(rows, mask, k, lambda index, rows: self._found(tables[index], rows))
        return torch.stack([step.codes for step in steps]).reshape(k, batch, frames).transpose(0, 1).contiguous()

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        decode = self._decode if self.settle else None
        return beam_search.encode(latents, self._beam_tables(range(k)), beam, decode, self._middle(k))

    def _middle(self, k: int) -> Tensor | None:
        """What the tables of the first k codebooks leave out of their sum (width,), if anything."""
        tables = self._tables.of(self.codebooks, self.centered)
        return sum(tables[index].mean for index in range(k)) if self.centered else None

    def _beam_tables(self, indices: Iterable[int]) -> list[beam_search.Table]:
        tables = self._tables.of(self.codebooks, self.centered)
        return [beam_search.Table(keys.vectors, keys.half_norms, among=keys) for keys in (tables[index].keys for index in indices)]

    def _decode(self, codes: Tensor) -> Tensor:
        (batch, k, frames), (_, size, width) = codes.shape, self.codebooks.shape
        places = codes + torch.arange(0, k * size, size, device=codes.device)[:, None]  # in all codebooks as one
        vectors = self.codebooks.reshape(-1, width).index_select(0, places.reshape(-1)).view(batch, k, frames, width)
        parts = [self._part(index, part) for index, part in enumerate(vectors.unbind(1))]  # each (B, T, dim)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total.mT

    @torch.no_grad()
    def _look_up(self, index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N,) of the vectors nearest to rows (N, width), and these vectors."""
        return self._found(self._tables.of(self.codebooks, self.centered)[index], rows)

    def _found(self, table: _Table, rows: Tensor) -> tuple[Tensor, Tensor]:
        centered = rows - table.mean if self.centered else rows
        if torch.compiler.is_exporting() or rows.shape[0] <= MANY_ROWS:  # in graphs rows are not counted yet
            codes = table.keys.nearest(centered)
        else:  # so many rows at once that their scores stay in a CPU's cache
            codes = torch.cat([table.keys.nearest(block) for block in centered.split(MANY_ROWS)])
        return codes, table.vectors.index_select(0, codes)

    # Training

    def _codebook(self, index: int) -> Tensor:
        return self.codebooks[index]

    def _build_trainers(self, frames_per_step: int, processes: Processes) -> nn.ModuleList:
        size, width = self.codebooks.shape[1:]
        return nn.ModuleList(
            CodebookTrainer(width, size, frames_per_step / stride, self.decay, self.kmeans_iters, processes)
            for stride in self.strides
        )

    def _start(self, rows: Tensor, mask: Tensor) -> None:
        for _ in self._walk(rows, mask, self.num_codebooks, self._begin):
            pass

    @torch.no_grad()
    def _begin(self, index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Start a codebook from rows (N, width), then look up."""
        self.trainer[index].start(rows)
        if self.trainer[index].started:
            self.codebooks[index].copy_(self.trainer[index].codebook)
        return self._look_up(index, rows)

    def _chosen(self, rows: Tensor) -> Tensor | None:
        """The codes (N, K) that training takes for rows (N, dim); None: for each codebook in turn the nearest."""
        return None

    @torch.no_grad()
    def _learn(self, index: int, rows: Tensor, codes: Tensor) -> None:
        """Move the codebook to rows (N, width) that have codes (N,)."""
        trainer = self.trainer[index]
        if trainer.started:
            trainer.follow(rows, codes)
            self.codebooks[index].copy_(trainer.codebook)

    def _pass_gradient(self, rows: Tensor, output: Tensor) -> Tensor:
        """The value of output (N, dim), with its gradient to rows (N, dim)."""
        return rotate(rows, output) if self.gradient == "rotation" else straight_through(rows, output)

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        rows = latents.mT[mask]  # (N, dim): padding is seen by nothing below
        if self.training:
            self._prepare_step(rows, mask)
        chosen = self._chosen(rows)

        def visit(index: int, rows: Tensor) -> tuple[Tensor, Tensor]:
            if chosen is None:
                codes, vectors = self._look_up(index, rows)
            else:
                codes, vectors = chosen[:, index], self.codebooks[index].float()[chosen[:, index]]
            if self.training:
                self._learn(index, rows, codes)
            return codes, vectors

        reach = active[:, None].expand(mask.shape)[mask]  # codebooks (N,) of each frame
        level = power_of(rows)
        total, output = torch.zeros_like(rows), torch.zeros_like(rows)
        codes, commitment, error = [], [], []
        for index, step in enumerate(self._walk(rows, mask, self.num_codebooks, visit)):
            used = (index < reach)[:, None]
            total, output = total + step.part, output + step.part * used
            codes.append(step.codes)
            commitment.append(mean_square(step.left * used) / (level if step.level is None else step.level))
            error.append(mean_square((rows - total).detach()) / level)
        if self.counts == (self.num_codebooks,):
            error = error[-1:] * self.num_codebooks
        all_codes = spread(torch.stack(codes, 1), mask).mT
        return QuantizerOutput(
            quantized=spread(self._pass_gradient(rows, output), mask).mT,
            codes=all_codes,
            losses={"commitment": torch.stack(commitment).mean()},
            stats={"relative_error": torch.stack(error)} | usage_stats(all_codes, mask, self.codebook_sizes),
        )


class CodebookTrainer(nn.Module):
    """Averages behind one codebook (size, width), in one `vector_quantize_pytorch.VectorQuantize`."""

    COUNTS = "vq._codebook.cluster_size"

    def __init__(
        self, width: int, size: int, frames_per_step: float, decay: float, kmeans_iters: int, processes: Processes
    ) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.vq = VectorQuantize(
            width, size, decay=decay, kmeans_init=True, threshold_ema_dead_code=0, sync_codebook=processes.synchronized
        )
        self.frames_per_step, self.kmeans_iters, self.processes = frames_per_step, kmeans_iters, processes

    @property
    def codebook(self) -> Tensor:
        return self.vq._codebook.embed[0]

    @property
    def started(self) -> bool:
        return bool(self.vq._codebook.initted)

    def start(self, rows: Tensor) -> None:
        """Start by k-means on rows (N, width); without any, the start is left to the next batch.

        The library's own k-means holds all distances at once and waits for ever where a process has no frames.
        """
        found = kmeans(rows, self.codebook.shape[0], self.kmeans_iters, self.processes)
        if found is not None:
            # As if counted over one step, or the many frames of the start would outweigh hundreds of steps.
            centers, counts = found
            self._set(centers, counts * (self.frames_per_step / counts.sum()))

    def start_from(self, codebook: Tensor) -> None:
        self._set(codebook, torch.full_like(codebook[:, 0], self.frames_per_step / codebook.shape[0]))

    def _set(self, codebook: Tensor, counts: Tensor) -> None:
        inner = self.vq._codebook
        inner.embed[0] = codebook
        inner.embed_avg[0] = codebook * counts[:, None]
        inner.cluster_size[0] = counts
        inner.initted.fill_(True)

    def forget(self) -> None:
        """Start again."""
        self.vq._codebook.initted.fill_(False)

    def expect(self, frames_per_step: float) -> None:
        """Measure use by another number of frames a step."""
        self.vq._codebook.cluster_size *= frames_per_step / self.frames_per_step
        self.vq._codebook.embed_avg *= frames_per_step / self.frames_per_step
        self.frames_per_step = frames_per_step

    def follow(self, rows: Tensor, codes: Tensor) -> None:
        """Move vectors to the averages of the rows (N, width) that have their codes (N,), and restart the dead."""
        self.vq.update_indices(rows[None], codes[None])
        inner = self.vq._codebook
        least = DEAD * self.frames_per_step / self.codebook.shape[0]
        dead = (inner.cluster_size[0] < least).nonzero()[:, 0]
        if dead.numel() == 0:
            return
        fresh = self.processes.draw(rows, dead.numel())
        dead = dead[: fresh.shape[0]]  # where there are fewer frames than dead codes, the others wait for the next step
        inner.embed[0, dead] = fresh
        inner.embed_avg[0, dead] = fresh * least
        inner.cluster_size[0, dead] = least


def rotate(rows: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` (N, dim), with its gradient passed to `rows` by the rotation and scaling that take each
    row there (the rotation trick, Fifty et al. 2024, https://arxiv.org/abs/2410.06424)."""
    with torch.no_grad():
        source, target = F.normalize(rows, dim=1), F.normalize(quantized, dim=1)
        half_way = F.normalize(source + target, dim=1)
        scale = quantized.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)
    mirrored = rows - 2 * (rows * half_way).sum(1, keepdim=True) * half_way
    rotated = scale * (mirrored + 2 * (rows * source).sum(1, keepdim=True) * target)
    return rotated + (quantized - rotated).detach()


def carry(vectors: Tensor, rows: Tensor) -> Tensor:
    """Exactly `vectors`, with their gradient passed on to `rows` unchanged: where codes are still to be found from it,
    `straight_through` would be off by its rounding."""
    return vectors.detach() + (rows - rows.detach())


def mean_square(values: Tensor) -> Tensor:
    """0 where there are none."""
    return values.square().sum() / max(1, values.numel())


def power_of(rows: Tensor) -> Tensor:
    """`base.power` of rows (N, dim), all of which count."""
    return power(rows[None], rows.new_ones(1, rows.shape[0], dtype=torch.bool))


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values (N, ...) of the frames where mask (B, T) is True to (B, T, ...), 0 elsewhere."""
    result = values.new_zeros(*mask.shape, *values.shape[1:])
    result[mask] = values
    return result


class _Table(NamedTuple):
    vectors: Tensor  # (size, width) float32
    mean: Tensor  # (width,), of a centered search
    keys: Keys


class _Tables:
    """What a search needs to know of codebooks (K, size, width), each made when it is asked for."""

    def __init__(self, codebooks: Tensor, centered: bool) -> None:
        self._codebooks, self._centered = codebooks.detach(), centered
        self._made: dict[int, _Table] = {}

    def __getitem__(self, index: int) -> _Table:
        table = self._made.get(index)
        if table is None:
            vectors = self._codebooks[index].float()
            mean = vectors.mean(0)
            table = self._made[index] = _Table(vectors, mean, Keys(vectors - mean if self._centered else vectors))
        return table


class _KeptTables:
    """Tables, kept until the codebooks change. Copies of it start empty."""

    def __init__(self) -> None:
        self._kept: tuple[Unchanged, _Tables] | None = None  # set at once: threads may be here together

    def __reduce__(self):
        return _KeptTables, ()

    def of(self, codebooks: Tensor, centered: bool) -> _Tables:
        if codebooks.is_inference() or torch.compiler.is_compiling():  # without a version to tell that they changed
            return _Tables(codebooks, centered)
        kept = self._kept
        if kept is None or not kept[0].of([codebooks]):
            kept = self._kept = Unchanged([codebooks], codebooks.detach().unbind()), _Tables(codebooks, centered)
        return kept[1]
