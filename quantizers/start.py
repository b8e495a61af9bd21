"""Quantizers that start from data: k-means, principal axes, and when to use them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers.base import Quantizer
from quantizers.processes import Processes
from quantizers.search import MANY_ROWS, nearest, products


class DataStartedQuantizer(Quantizer):
    """A quantizer that starts from the latents of `initialize`, or else from those of the first step.

    A family implements `_build_trainers` and `_start`; `trainer` has a module for each codebook with `started`,
    `forget()`, `start_from(codebook)`, `expect(frames_per_step)`, and COUNTS, which names its averages of use.
    """

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__(dim, codebook_sizes)
        self.trainer: nn.ModuleList | None = None
        self._frames_known = False  # whether the trainers have been told how many frames a step has

    def _build_trainers(self, frames_per_step: int, processes: Processes) -> nn.ModuleList:
        raise NotImplementedError

    def _start(self, rows: Tensor, mask: Tensor) -> None:
        """Start everything that starts from data, in order, from rows (N, dim): the frames where mask (B, T)."""
        raise NotImplementedError

    def _codebook(self, index: int) -> Tensor:
        """Codebook `index` (size, width)."""
        raise NotImplementedError

    def prepare_training(self, frames_per_step: int, synchronized: bool = False) -> None:
        """Build the trainers of the codebooks. A code used less than a tenth of the average is restarted.

        frames_per_step: of all processes together. synchronized: starts, averages and restarts are those of all
        processes of torch.distributed.
        """
        if frames_per_step < 1:
            raise ValueError(f"frames_per_step={frames_per_step}: a step has at least 1 frame")
        self.trainer = self._build_trainers(frames_per_step, Processes(synchronized)).to(self._codebook(0).device)
        self._frames_known = True

    def _prepare(self, frames: int, is_step: bool) -> None:
        """Build the trainers where `prepare_training` has not: `frames` of this process's batch tell how many a step
        has, unless the batch is none of a step's; then they are only assumed until the first step."""
        if self._frames_known or (self.trainer is not None and not is_step):
            return
        together = Processes.in_use()
        frames = max(1, int(together.sum(torch.tensor(frames, device=self._codebook(0).device))))
        if self.trainer is None:
            self.prepare_training(frames, together.synchronized)
        for trainer, stride in zip(self.trainer, self.strides):
            trainer.expect(frames / stride)
        self._frames_known = is_step

    def _load_from_state_dict(self, state_dict: dict, prefix: str, metadata: dict, strict: bool, *others) -> None:
        """A state of training brings the trainers that it is of, where nobody has built any."""
        if strict and self.trainer is None and any(name.startswith(f"{prefix}trainer.") for name in state_dict):
            self.prepare_training(1, Processes.in_use().synchronized)
            self._frames_known = False
            for index, trainer in enumerate(self.trainer):  # which count about the frames of a step
                counts = state_dict.get(f"{prefix}trainer.{index}.{trainer.COUNTS}", torch.ones(()))
                trainer.frames_per_step = max(1.0, float(counts.sum()))
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *others)

    @property
    def initialized(self) -> bool:
        """Whether training has started the codebooks."""
        return self.trainer is not None and all(trainer.started for trainer in self.trainer)

    @torch.no_grad()
    def initialize(self, latents: Tensor) -> None:
        """Start every codebook from latents (B, dim, T): more frames than one step holds give better ones.

        Raises ValueError for latents of another shape, or that are not finite.
        """
        self.check_latents(latents)
        if not torch.isfinite(latents).all():
            raise ValueError("latents are NaN or infinite: codebooks cannot start from them")
        batch, _, frames = latents.shape
        mask = torch.ones(batch, frames, dtype=torch.bool, device=latents.device)
        self._prepare(batch * frames, is_step=False)
        for trainer in self.trainer:
            trainer.forget()
        with torch.autocast(latents.device.type, enabled=False):
            self._start(latents.mT.float()[mask], mask)

    def start_from_codebooks(self) -> None:
        """Go on training the codebooks that are there (fine-tuning) instead of starting them from data."""
        self._prepare(1, is_step=False)
        for index, trainer in enumerate(self.trainer):
            trainer.start_from(self._codebook(index).detach())

    def _prepare_step(self, rows: Tensor, mask: Tensor) -> None:
        """Before a step of training on rows (N, dim)."""
        self._prepare(rows.shape[0], is_step=True)
        if not self.initialized:
            with torch.no_grad():
                self._start(rows.detach(), mask)


def kmeans(
    rows: Tensor, size: int, iterations: int, processes: Processes, cosine: bool = False, least: float = 0.0
) -> tuple[Tensor, Tensor] | None:
    """Lloyd's algorithm on all processes' rows (N, width) from random ones: centers (size, width) and how many rows
    (size,) each has.

    cosine: a row belongs to the center of the most similar direction; centers are still averages. A center that loses
    all its rows, or keeps less than the share `least` of the average, moves to a random one, until the last iteration. None where
    no process has rows.
    """
    total = processes.sum(torch.tensor([rows.shape[0]], device=rows.device, dtype=rows.dtype))
    if total == 0:
        return None
    mean = 0 if cosine else processes.sum(rows.sum(0)) / total
    rows = rows - mean  # where the mean is far from zero, distances would drown in rounding
    counted = torch.cat([torch.ones_like(rows[:, :1]), rows], 1)  # to add rows and their number at once
    drawn = processes.draw(rows, size)
    centers = drawn[torch.arange(size, device=rows.device) % drawn.shape[0]]
    for iteration in range(iterations):
        find = most_similar if cosine else nearest
        codes = torch.cat([find(block, centers) for block in rows.split(MANY_ROWS)])
        both = torch.zeros(size, rows.shape[1] + 1, device=rows.device).index_add_(0, codes, counted)
        counts, sums = processes.sum(both).split((1, rows.shape[1]), 1)
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
        empty = ((counts[:, 0] == 0) | (counts[:, 0] < least * counts.mean())).nonzero()[:, 0]
        if empty.numel() and iteration + 1 < iterations:
            drawn = processes.draw(rows, empty.numel())
            centers[empty[: drawn.shape[0]]] = drawn
    return centers + mean, counts[:, 0]


def most_similar(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index (N,) of the vector of codebook (M, d) whose direction is the most like that of each of rows (N, d)."""
    return products(rows, F.normalize(codebook, dim=1).T).argmax(1)


def principal_axes(rows: Tensor, width: int, processes: Processes, centered: bool) -> tuple[Tensor, Tensor]:
    """Mean (dim,) and the `width` orthonormal axes (width, dim) along which all processes' rows (N, dim) vary most.

    Not centered: the mean is 0, and they vary around 0.
    """
    total = processes.sum(torch.tensor(float(rows.shape[0]), device=rows.device)).clamp_min(1)
    mean = processes.sum(rows.sum(0)) / total if centered else torch.zeros_like(rows[:0].sum(0))
    rows = rows - mean
    covariance = processes.sum((rows.T @ rows).double()) / total
    axes = torch.linalg.eigh(covariance).eigenvectors.mT.flip(0)[:width]
    return mean, processes.share(axes.to(rows.dtype).contiguous())
