"""Residual vector quantization in a few dimensions by cosine (DAC, Kumar et al. 2023,
https://arxiv.org/abs/2306.06546), also at several frame rates (SNAC, Siuzdak et al. 2024, https://arxiv.org/abs/2410.14411)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers import beam_search, layered_search
from quantizers.base import QuantizerOutput, usage_stats
from quantizers.beam_search import check_beam
from quantizers.codebook import DEAD, carry, mean_square, power_of, spread
from quantizers.multiscale_rvq import average, checked_strides
from quantizers.processes import Processes
from quantizers.projection import Kept
from quantizers.search import products
from quantizers.start import DataStartedQuantizer, kmeans, most_similar, principal_axes

USE_DECAY = 0.99  # of the averages that tell which codes are out of use
KMEANS_ITERS = 10


class FactorizedResidualVQ(DataStartedQuantizer):
    """Residual codebooks of `codebook_dim`: each stage maps to them, takes the vector of the most similar direction,
    and maps back. The first k decode for every k.

    Maps and codebooks are trained by gradients: losses "commitment" and "codebook", each relative to the power of what
    a stage quantizes, and whatever reaches `quantized`. They start from the principal axes and the k-means of what each
    stage quantizes.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        codebook_dim: width of the codebooks, at most `dim`.
        strides: frames a code of each codebook holds for, as in "multiscale_rvq": a stage of stride s quantizes the average
            of what is left in each group of s frames. 1 for all by default.
        beam: width of the search in encoding (`beam_search`, `layered_search`), for the least error of the latents: wider is
            better and slower. 1 is greedy and by cosine. Training is greedy.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 9, codebook_size: int = 1024, codebook_dim: int = 8,
        strides: tuple[int, ...] | None = None, beam: int = 1,
    ) -> None:
        self._strides = (1,) * num_codebooks if strides is None else checked_strides(strides, num_codebooks)
        super().__init__(dim, (codebook_size,) * num_codebooks)
        if not 1 <= codebook_dim <= dim:
            raise ValueError(f"codebook_dim={codebook_dim} is outside 1..{dim}, the width of the latents")
        self.beam = check_beam(beam)
        self._kept = Kept()
        self.stages = nn.ModuleList(FactorizedStage(dim, codebook_size, codebook_dim) for _ in range(num_codebooks))

    @property
    def strides(self) -> tuple[int, ...]:
        return self._strides

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        batch, _, frames = latents.shape
        mask = torch.ones(batch, frames, dtype=torch.bool, device=latents.device)
        residual = latents.mT.reshape(batch * frames, self.dim)
        codes = []
        for stage, stride in zip(self.stages[:k], self._strides):
            means, group = average(residual, mask, stride)
            index = stage.search(stage.narrow(means))
            residual = residual - stage.widen(stage.codebook.weight[index])[group]
            codes.append(index[group].reshape(batch, frames))
        return torch.stack(codes, 1)

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        weights = [weight for stage in self.stages for weight in stage.outward()]
        tables = self._kept.of(weights, lambda: [stage.table() for stage in self.stages])
        if self._strides[0] > 1:
            return layered_search.encode(latents, tables[:k], self._strides[:k], beam)
        return beam_search.encode(latents, tables[:k], beam, self._decode)

    def _decode(self, codes: Tensor) -> Tensor:
        flat = codes.transpose(0, 1).flatten(1)  # (k, B * T)
        total = self.stages[0].widen(self.stages[0].codebook.weight[flat[0]])
        for stage, index in zip(self.stages[1:], flat[1:]):
            total = total + stage.widen(stage.codebook.weight[index])
        return total.reshape(codes.shape[0], codes.shape[2], self.dim).mT

    # Training

    def _codebook(self, index: int) -> Tensor:
        return self.stages[index].codebook.weight

    def _build_trainers(self, frames_per_step: int, processes: Processes) -> nn.ModuleList:
        return nn.ModuleList(
            UseCounter(size, frames_per_step / stride, processes) for size, stride in zip(self.codebook_sizes, self._strides)
        )

    def _start(self, rows: Tensor, mask: Tensor) -> None:
        residual = rows
        for stage, trainer, stride in zip(self.stages, self.trainer, self._strides):
            means, group = average(residual, mask, stride)
            mean, axes = principal_axes(means, stage.codebook_dim, trainer.processes, centered=True)
            found = kmeans((means - mean) @ axes.T, stage.size, KMEANS_ITERS, trainer.processes, cosine=True)
            if found is None:
                return
            stage.start(mean, axes, found[0])
            trainer.start_from(stage.codebook.weight)
            residual = residual - stage.widen(stage.codebook.weight[stage.search(stage.narrow(means))])[group]

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        rows = latents.mT[mask]  # (N, dim): padding is seen by nothing below
        if self.training:
            self._prepare_step(rows, mask)
        reach = active[:, None].expand(mask.shape)[mask]  # codebooks (N,) of each frame
        level = power_of(rows)
        residual, output = rows, torch.zeros_like(rows)
        codes, commitment, codebook, error = [], [], [], []
        for index, stage in enumerate(self.stages):
            means, group = average(residual, mask, self._strides[index])
            narrow = stage.narrow(means)
            code = stage.search(narrow.detach())
            vectors = stage.codebook.weight[code]
            used, narrow_level = (index < reach)[:, None], mean_square(narrow - narrow.mean(0)) + 1e-8
            commitment.append(mean_square((narrow - vectors.detach())[group] * used) / narrow_level)
            codebook.append(mean_square((narrow.detach() - vectors)[group] * used) / narrow_level.detach())
            part = stage.widen(carry(vectors, turning(narrow)))[group]
            residual, output = residual - part, output + part * used
            codes.append(code[group])
            error.append(mean_square(residual.detach()) / level)
            if self.training and self.trainer[index].started:
                self.trainer[index].follow(stage.codebook.weight, narrow.detach(), code)
        all_codes = spread(torch.stack(codes, 1), mask).mT
        return QuantizerOutput(
            quantized=spread(output, mask).mT,
            codes=all_codes,
            losses={"commitment": torch.stack(commitment).mean(), "codebook": torch.stack(codebook).mean()},
            stats={"relative_error": torch.stack(error)} | usage_stats(all_codes, mask, self.codebook_sizes),
        )


def turning(rows: Tensor) -> Tensor:
    """rows (N, d), with gradients to their directions only: lengths have no part in the choice of a code, and gradients
    that are passed straight through would let them grow for ever."""
    lengths = rows.norm(dim=1, keepdim=True).clamp_min(1e-8)
    return rows / lengths * lengths.detach()


class FactorizedStage(nn.Module):
    """in_proj dim -> codebook_dim, codebook (size, codebook_dim), out_proj back."""

    def __init__(self, dim: int, size: int, codebook_dim: int) -> None:
        super().__init__()
        self.size, self.codebook_dim = size, codebook_dim
        self.in_proj = nn.Linear(dim, codebook_dim)
        self.codebook = nn.Embedding(size, codebook_dim)
        self.out_proj = nn.Linear(codebook_dim, dim)

    def narrow(self, rows: Tensor) -> Tensor:
        """(N, dim) to (N, codebook_dim)."""
        return products(rows, self.in_proj.weight.T, self.in_proj.bias)

    def search(self, rows: Tensor) -> Tensor:
        """Codes (N,) of the vectors whose directions are the most like those of rows (N, codebook_dim)."""
        return most_similar(rows, self.codebook.weight.detach())

    def widen(self, vectors: Tensor) -> Tensor:
        """(N, codebook_dim) to (N, dim)."""
        return products(vectors, self.out_proj.weight.T, self.out_proj.bias)

    def outward(self) -> tuple[Tensor, ...]:
        """What `widen` and codes depend on."""
        return self.codebook.weight, self.out_proj.weight, self.out_proj.bias

    @torch.no_grad()
    def table(self) -> beam_search.Table:
        """The codebook's vectors as wide as the latents, which are keys (codebook, 1) times (out_proj, its bias)."""
        vectors = self.widen(self.codebook.weight.float())
        inward = torch.cat([self.out_proj.weight, self.out_proj.bias[:, None]], 1).float()
        keys = F.pad(self.codebook.weight.float(), (0, 1), value=1.0)
        return beam_search.Table(vectors, 0.5 * vectors.square().sum(1), inward, keys)

    def start(self, mean: Tensor, axes: Tensor, codebook: Tensor) -> None:
        """Map onto axes (codebook_dim, dim) around mean (dim,), and back."""
        self.in_proj.weight.copy_(axes)
        self.in_proj.bias.copy_(-axes @ mean)
        self.codebook.weight.copy_(codebook)
        self.out_proj.weight.copy_(axes.T)
        self.out_proj.bias.copy_(mean)


class UseCounter(nn.Module):
    """How often each code of a codebook is used, of late, a step; restarts those that are not."""

    COUNTS = "use"

    def __init__(self, size: int, frames_per_step: float, processes: Processes) -> None:
        super().__init__()
        self.frames_per_step, self.processes = frames_per_step, processes
        self.register_buffer("use", torch.zeros(size))
        self.register_buffer("has_started", torch.tensor(False))

    @property
    def started(self) -> bool:
        return bool(self.has_started)

    def forget(self) -> None:
        self.has_started.fill_(False)

    def start_from(self, codebook: Tensor) -> None:
        self.use.fill_(self.frames_per_step / codebook.shape[0])
        self.has_started.fill_(True)

    def expect(self, frames_per_step: float) -> None:
        """Measure use by another number of frames a step."""
        self.use *= frames_per_step / self.frames_per_step
        self.frames_per_step = frames_per_step

    @torch.no_grad()
    def follow(self, codebook: Tensor, rows: Tensor, codes: Tensor) -> None:
        """Count codes (N,), and move vectors of codebook (size, d) that are out of use to some of rows (N, d)."""
        size = codebook.shape[0]
        counts = self.processes.sum(torch.bincount(codes, minlength=size).to(self.use.dtype))
        self.use.lerp_(counts, 1 - USE_DECAY)
        least = DEAD * self.frames_per_step / size
        dead = (self.use < least).nonzero()[:, 0]
        if dead.numel():
            fresh = self.processes.draw(rows, dead.numel())
            codebook[dead[: fresh.shape[0]]] = fresh
            self.use[dead[: fresh.shape[0]]] = least
