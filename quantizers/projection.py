"""What the families without a table of vectors share: a few axes of the latents, each quantized as a number of about
unit variance."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from quantizers.base import Quantizer, QuantizerOutput, power, usage_stats
from quantizers.codebook import Processes, mean_square, spread
from quantizers.search import products
from quantizers.unchanged import Unchanged

LEAST_SCALE = 1e-3  # of an axis, of the widest one's
FIT_ROWS, FIT_COUNTS = 4096, 4  # rows and numbers of codebooks by which cells are fitted
SHIFTS = [0.1 * step for step in range(-6, 7)]  # of the cells of an axis, in its deviations
WIDTHS = [0.05 * step for step in range(12, 27)]  # of the cells, over those for a Gaussian


class Kept:
    """What is computed of tensors, kept until one of them changes. Copies of it start empty."""

    def __init__(self) -> None:
        self.kept: tuple[Unchanged, Any] | None = None  # set at once: threads may be here together

    def __reduce__(self):
        return Kept, ()

    def of(self, tensors: list[Tensor], make: Callable[[], Any]) -> Any:
        if any(tensor.is_inference() for tensor in tensors) or torch.compiler.is_compiling():
            return make()  # without a version to tell that they changed
        kept = self.kept
        if kept is None or not kept[0].of(tensors):
            unchanged = Unchanged(tensors)
            with torch.inference_mode(False), torch.no_grad():  # so that it is of use outside of this mode, too
                kept = self.kept = unchanged, make()
        return kept[1]


class ProjectedQuantizer(Quantizer):
    """Quantizes z = P^T (x - center) / scale, `width` numbers a frame, and decodes to P (scale * z^) + center.

    P (dim, width) has orthonormal columns, whatever its parameter `projection` is (QR), so that what is decoded
    projects to itself; where width equals dim there is none. P, center and scale start from the first latents of
    training, or from `initialize`: they are their principal axes, their mean, and the deviation along each axis, and
    are then moved to where the cells of each axis lose least. P goes on learning by gradient. Call
    `start_from_codebooks` before training to keep them: at first P is random, center 0 and scale 1.

    A family implements `_indices`, `_values`, and what it trains by.
    """

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...], width: int) -> None:
        super().__init__(dim, codebook_sizes)
        if dim < width:
            raise ValueError(
                f"dim={dim} is less than the {width} axes of {len(codebook_sizes)} codebooks of {codebook_sizes[0]}: "
                "widen the latents, or take fewer or smaller codebooks"
            )
        self.width = width
        self.projection = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, width))) if width < dim else None
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("trainer_started", torch.tensor(False))
        self.values_are_means = True  # of the latents in a cell
        self.processes: Processes | None = None
        self._kept = Kept()

    # What a family says

    def _indices(self, z: Tensor, k: int) -> Tensor:
        """z (N, width) to the codes (N, k) of the first k codebooks."""
        raise NotImplementedError

    def _values(self, codes: Tensor) -> Tensor:
        """Codes (N, k) to values (N, width) of z."""
        raise NotImplementedError

    def _soft(self, z: Tensor) -> Tensor:
        """What passes gradients to z (N, width) in the place of its value."""
        return z

    def _pull(self, z: Tensor, values: Tensor) -> Tensor:
        """What the commitment makes small (N, width), along the axes."""
        return z - values

    def _other_losses(self, z: Tensor) -> dict[str, Tensor]:
        """Losses besides the commitment, weighed, of z (N, width)."""
        return {}

    # Coding

    def axes(self) -> Tensor | None:
        """P (dim, width); None where latents are quantized as they are."""
        if self.projection is None:
            return None
        if self.training and torch.is_grad_enabled():
            return self._orthonormal()
        return self._kept.of([self.projection], lambda: self._orthonormal().detach())

    def _orthonormal(self) -> Tensor:
        q, r = torch.linalg.qr(self.projection.float())
        return q * torch.where(r.diagonal() < 0, -1.0, 1.0)  # of all factorizations, the one nearest to the parameter

    def _down(self, rows: Tensor, axes: Tensor | None) -> Tensor:
        rows = rows - self.center.float()
        return (rows if axes is None else products(rows, axes)) / self.scale.float()

    def _up(self, z: Tensor, axes: Tensor | None) -> Tensor:
        z = z * self.scale.float()
        return (z if axes is None else products(z, axes.T)) + self.center.float()

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        batch, _, frames = latents.shape
        rows = latents.mT.reshape(batch * frames, self.dim)
        return self._indices(self._down(rows, self.axes()), k).reshape(batch, frames, k).mT.contiguous()

    def _decode(self, codes: Tensor) -> Tensor:
        batch, k, frames = codes.shape
        with torch.no_grad():
            rows = self._up(self._values(codes.mT.reshape(batch * frames, k)), self.axes())
        return rows.reshape(batch, frames, self.dim).mT

    # Training

    def prepare_training(self, frames_per_step: int, synchronized: bool = False) -> None:
        """synchronized: start from, and count codes of, the latents of all processes of torch.distributed."""
        self.processes = Processes(synchronized)

    @property
    def initialized(self) -> bool:
        """Whether the axes have been set from latents, or are to be kept."""
        return bool(self.trainer_started)

    def start_from_codebooks(self) -> None:
        """Keep the axes that are there."""
        self.trainer_started.fill_(True)

    def initialize(self, latents: Tensor) -> None:
        """Set the axes from latents (B, dim, T). Raises ValueError for another shape, or where they are not finite."""
        self.check_latents(latents)
        if not torch.isfinite(latents).all():
            raise ValueError("latents are NaN or infinite: the quantizer cannot start from them")
        self._start(latents.mT.reshape(-1, self.dim).float())

    @torch.no_grad()
    def _start(self, rows: Tensor) -> None:
        """Set the axes from all processes' rows (N, dim), unless these are too few or all the same."""
        processes = self._together()
        count = processes.sum(torch.tensor(float(rows.shape[0]), device=rows.device))
        if count <= 2 * self.width:
            return
        exact = rows.double()  # so that rows which are all the same have no variance, and the squares of large ones are finite
        mean = processes.sum(exact.sum(0)) / count
        centered = exact - mean
        covariance = processes.sum(centered.T @ centered) / count
        if self.projection is None:
            variance = covariance.diagonal()
        else:
            variance, vectors = torch.linalg.eigh(covariance)
            variance = variance.flip(0)[: self.width].clamp_min(0)
            axes = vectors.float().flip(1)[:, : self.width]
            if processes.synchronized:
                distributed.broadcast(axes := axes.contiguous(), 0)
            self.projection.copy_(axes)
        if variance.max() <= 0:
            return
        scale = variance.sqrt().float()
        self.center.copy_(mean)
        self.scale.copy_(scale.clamp_min(LEAST_SCALE * scale.max()))
        if self.values_are_means:
            self._fit_cells(rows[:: -(-rows.shape[0] // FIT_ROWS) or 1])
        if processes.synchronized:
            distributed.broadcast(self.center, 0)
            distributed.broadcast(self.scale, 0)
        self.trainer_started.fill_(True)

    def _fit_cells(self, rows: Tensor) -> None:
        """Shift and widen the cells of each axis to where they lose least of all processes' rows (N, dim): latents are
        no Gaussian, and those of an even number of levels of `FSQ` do not lie evenly around 0. What counts is the mean
        over the first codebooks of the error in dB."""
        axes = self.axes()
        z, choices, errors = self._down(rows, axes), list(itertools.product(SHIFTS, WIDTHS)), []
        for shift, width in choices:
            codes = self._indices((z - shift) / width, self.num_codebooks)
            for k in self.counts[:FIT_COUNTS]:
                errors.append((self._values(codes[:, :k]) * width + shift - z).square().sum(0))
        total = self._together().sum(torch.stack(errors)).reshape(len(choices), -1, self.width)
        best = (total + 1e-6).log().sum(1).argmin(0)  # (width,)
        shift, width = torch.tensor(choices, device=rows.device)[best].unbind(1)
        self.center.copy_(self._up(shift, axes) if axes is None else self._up(shift[None], axes)[0])
        self.scale.mul_(width)

    def _together(self) -> Processes:
        self.processes = self.processes or Processes.in_use()
        return self.processes

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        rows = latents.mT[mask]  # (N, dim): padding is seen by nothing below
        if self.training and not self.initialized:
            self._start(rows)
        axes = self.axes()
        z = self._down(rows, axes)
        codes = self._indices(z.detach(), self.num_codebooks)
        reach = active[:, None].expand(mask.shape)[mask][:, None]  # codebooks (N, 1) of each frame
        level = power(rows[None], torch.ones_like(rows[None, :, 0], dtype=torch.bool))
        values, error = torch.zeros_like(z), []
        for k in self.counts:
            partial = self._values(codes[:, :k])
            values = torch.where(reach == k, partial, values)
            error.append(mean_square((rows - self._up(partial, axes)).detach()) / level)
        if self.counts == (self.num_codebooks,):
            error = error * self.num_codebooks
        soft = self._soft(z)
        pull = self._pull(z, values) * self.scale.float()
        commitment = mean_square(pull) * (self.width / self.dim)
        if axes is not None:  # what the axes do not reach: latents learn to lie in them, and they to lie in the latents
            commitment = commitment + mean_square(rows - self._up(z, axes))
        all_codes = spread(codes, mask).mT
        return QuantizerOutput(
            quantized=spread(self._up(soft + (values - soft).detach(), axes), mask).mT,
            codes=all_codes,
            losses={"commitment": commitment / level} | self._other_losses(z),
            stats={"relative_error": torch.stack(error)} | usage_stats(all_codes, mask, self.codebook_sizes),
        )
