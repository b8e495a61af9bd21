"""Residual vector quantization (SoundStream, Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312).

Encoding and decoding need torch only. Training (`prepare_training`) builds one `vector_quantize_pytorch.VectorQuantize`
per stage for its exponential moving averages, k-means start and dead-code restart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A CPU sums products in another order when the rows that a thread gets leave a remainder, and for few columns: such
# products are padded, so that a frame has the same codes alone and among many.
ROW_MULTIPLE, MANY_ROWS, FEW_COLUMNS = 8, 256, 16


@dataclass
class QuantizerOutput:
    """quantized (B, dim, T); codes (B, K, T) int64; losses: named scalars; stats: named detached (K,) tensors."""

    quantized: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]


class ResidualVQ(nn.Module):
    """K codebooks, each quantizing what the ones before it left over; the first k decode for every k.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        decay: of the moving averages that train the codebooks.
    """

    def __init__(self, dim: int, num_codebooks: int = 8, codebook_size: int = 1024, decay: float = 0.99):
        super().__init__()
        if not 2 <= codebook_size <= 65536:
            raise ValueError(f"codebook_size={codebook_size} is outside 2..65536")
        if num_codebooks < 1:
            raise ValueError(f"num_codebooks={num_codebooks}: at least 1 is needed")
        self.dim, self.num_codebooks, self.codebook_size, self.decay = dim, num_codebooks, codebook_size, decay
        self.register_buffer("codebooks", torch.zeros(num_codebooks, codebook_size, dim))
        nn.init.uniform_(self.codebooks, -1.0, 1.0)
        self.stages: nn.ModuleList | None = None

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,) * self.num_codebooks

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """latents (B, dim, T) to codes (B, k, T) int64, nearest vector by squared distance at every stage.

        Always in float32, autocast or not. Raises ValueError when there are not `num_codebooks` or `dim` differs.
        """
        k = self.num_codebooks if num_codebooks is None else num_codebooks
        self._check_count(k)
        if latents.dim() != 3 or latents.shape[1] != self.dim:
            raise ValueError(f"latents have shape {tuple(latents.shape)}: they must be (B, {self.dim}, T)")
        batch, _, frames = latents.shape
        residual = latents.transpose(1, 2).reshape(batch * frames, self.dim).float()
        rows = residual.shape[0]
        if rows < MANY_ROWS and rows % ROW_MULTIPLE:
            residual = F.pad(residual, (0, 0, 0, -rows % ROW_MULTIPLE))
        codes = []
        with torch.autocast(latents.device.type, enabled=False):
            for codebook in self.codebooks[:k].float():
                # |r - c|^2 = |r|^2 - 2 r.c + |c|^2, of which |r|^2 is the same for every c
                columns = F.pad(codebook, (0, 0, 0, max(0, FEW_COLUMNS - self.codebook_size)))
                scores = torch.addmm(-0.5 * (columns * columns).sum(1), residual, columns.T)
                index = scores[:, : self.codebook_size].argmax(1)
                residual = residual - codebook[index]
                codes.append(index[:rows].reshape(batch, frames))
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, k, T) of the first k codebooks to latents (B, dim, T). Raises ValueError for more codebooks."""
        self._check_count(codes.shape[1])
        total = self.codebooks[0][codes[:, 0]]  # (B, T, dim)
        for stage in range(1, codes.shape[1]):
            total = total + self.codebooks[stage][codes[:, stage]]
        return total.transpose(1, 2)

    def _check_count(self, k: int) -> None:
        if not 1 <= k <= self.num_codebooks:
            raise ValueError(f"{k} codebooks are asked for: this quantizer has 1 to {self.num_codebooks}")

    # Training

    def prepare_training(self, frames_per_step: int, synchronized: bool = False) -> None:
        """Build the trainers of the codebooks. A code used less than a tenth of the average is restarted.

        synchronized: statistics are summed over the processes of torch.distributed, and `frames_per_step` is all of theirs.
        """
        from vector_quantize_pytorch import VectorQuantize

        self.stages = nn.ModuleList(
            VectorQuantize(
                dim=self.dim, codebook_size=self.codebook_size, decay=self.decay, kmeans_init=True, kmeans_iters=10,
                threshold_ema_dead_code=0.1 * frames_per_step / self.codebook_size, sync_codebook=synchronized,
            )
            for _ in range(self.num_codebooks)
        )

    @property
    def initialized(self) -> bool:
        """Whether training has started the codebooks."""
        return self.stages is not None and bool(self.stages[-1]._codebook.initted)

    def start_from_codebooks(self) -> None:
        """Go on training the codebooks that are there (fine-tuning) instead of starting them by k-means."""
        for stage, codebook in zip(self.stages, self.codebooks):
            inner = stage._codebook
            inner.cluster_size.fill_(10 * inner.threshold_ema_dead_code)  # the expected use of every code
            inner.embed.copy_(codebook[None])
            inner.embed_avg.copy_(codebook[None] * inner.cluster_size[..., None])
            inner.initted.fill_(True)

    def forward(self, latents: Tensor, active: Tensor | None = None) -> QuantizerOutput:
        """Quantize in training: gradients pass straight through to `latents` (B, dim, T).

        active (B,) int: how many codebooks each item uses (quantizer dropout); all of them by default. The codebooks
        move by their averages; `commitment` pulls latents to them, relative to their variance, so that shrinking the
        latents gains nothing.
        """
        if self.stages is None:
            raise RuntimeError("this quantizer only encodes and decodes: call prepare_training() first")
        x = latents.transpose(1, 2).float()  # (B, T, dim)
        if not torch.isfinite(x).all():  # before they get into the averages, from which they never leave
            raise ValueError("latents are NaN or infinite: lower the learning rate, or look for such samples in the data")
        active = torch.full((x.shape[0],), self.num_codebooks, device=x.device) if active is None else active
        power = (x - x.mean((0, 1))).square().mean().detach() + 1e-8
        residual, total = x, torch.zeros_like(x)
        codes, commitment, error, entropy, usage = [], [], [], [], []
        for index, stage in enumerate(self.stages):
            with torch.no_grad():
                chosen, code, _ = stage(residual.detach())
            residual = residual - chosen
            used = (index < active).view(-1, 1, 1)
            commitment.append((residual.square() * used).mean() / power)
            total = total + chosen * used
            codes.append(code)
            error.append(residual.detach().square().mean() / power)
            share = torch.bincount(code.flatten(), minlength=self.codebook_size).float() / code.numel()
            entropy.append(-(share * torch.log2(share.clamp_min(1e-12))).sum())
            usage.append((share > 0).float().mean())
        self._collect()
        return QuantizerOutput(
            quantized=(x + (total - x).detach()).transpose(1, 2),
            codes=torch.stack(codes, 1),
            losses={"commitment": torch.stack(commitment).mean()},
            stats={"relative_error": torch.stack(error), "entropy": torch.stack(entropy), "usage": torch.stack(usage)},
        )

    @torch.no_grad()
    def initialize(self, latents: Tensor) -> None:
        """Start every codebook by k-means on latents (B, dim, T): more frames than one step holds give better ones."""
        residual = latents.transpose(1, 2).float()
        for stage in self.stages:
            inner = stage._codebook
            inner.init_embed_(residual.reshape(1, -1, self.dim))
            # As if counted over one step, or the many frames of the start would outweigh hundreds of steps.
            weight = 10 * inner.threshold_ema_dead_code * self.codebook_size / inner.cluster_size.sum()
            inner.cluster_size.mul_(weight)
            inner.embed_avg.mul_(weight)
            was_training = stage.training
            stage.eval()
            residual = residual - stage(residual)[0]
            stage.train(was_training)
        self._collect()

    @torch.no_grad()
    def _collect(self) -> None:
        for index, stage in enumerate(self.stages):
            self.codebooks[index].copy_(stage._codebook.embed[0])
