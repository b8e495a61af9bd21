"""Random-projection quantizer (BEST-RQ, Chiu et al. 2022, https://arxiv.org/abs/2202.01855; in BEATs): labels, and no
way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizers.base import Quantizer, QuantizerOutput
from quantizers.processes import Processes
from quantizers.search import MANY_ROWS, products

LEAST_VARIANCE = 1e-6  # of an axis of a projection, of the widest one's


class RandomProjectionQuantizer(Quantizer):
    """K independent frozen random projections to `codebook_dim` axes, each with a frozen random codebook of unit
    vectors; a code is the nearest by angle. Nothing is trained.

    `initialize` normalises what is projected by latents at hand, to mean 0 and no correlations, without which some of
    the codes are never used (BEST-RQ: labels collapse unless the data are normalised). Do it once, before the first
    labels.

    Codes are those of `vector_quantize_pytorch.RandomProjectionQuantizer` for the same projections and codebook (which
    for more than one codebook appends a second random projection; theirs is the product of both).

    It only encodes: `decode` and `forward` raise ValueError.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        codebook_dim: axes of a projection.
        norm: every frame is first normalised to mean 0 and deviation 1 over its dimensions, or a few codes would take
            all.
    """

    decodes = False

    def __init__(
        self, dim: int, num_codebooks: int = 1, codebook_size: int = 8192, codebook_dim: int = 16, norm: bool = True,
    ) -> None:
        super().__init__(dim, (codebook_size,) * num_codebooks)
        if codebook_dim < 1:
            raise ValueError(f"codebook_dim={codebook_dim}: at least 1 is needed, 16 is the usual")
        self.norm, self.codebook_dim = norm, codebook_dim
        projections = torch.empty(num_codebooks, dim, codebook_dim)
        for projection in projections:
            nn.init.xavier_normal_(projection)
        self.register_buffer("projections", projections)
        self.register_buffer("shift", torch.zeros(num_codebooks, codebook_dim))
        self.register_buffer("codebooks", F.normalize(torch.randn(num_codebooks, codebook_size, codebook_dim), dim=2))

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        batch, _, frames = latents.shape
        rows = latents.mT.reshape(batch * frames, self.dim)
        rows = self._normalised(rows)
        codes = rows.new_empty(k, rows.shape[0], dtype=torch.int64)
        for index in range(k):
            codebook = F.normalize(self.codebooks[index].float(), dim=1).T.contiguous()
            for start in range(0, rows.shape[0], MANY_ROWS):  # so that scores stay in a CPU's cache
                block = rows[start : start + MANY_ROWS]
                projected = products(block, self.projections[index].float(), self.shift[index].float())
                codes[index, start : start + MANY_ROWS] = products(projected.contiguous(), codebook).argmax(1)
        return codes.reshape(k, batch, frames).transpose(0, 1)

    def _normalised(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, (self.dim,)) if self.norm else rows

    @torch.no_grad()
    def initialize(self, latents: Tensor) -> None:
        """Make each projection of such latents (B, dim, T), thousands of frames, white around 0. In torch.distributed by
        those of all processes. Raises ValueError for latents of another shape, too few, or not finite."""
        self.check_latents(latents)
        if not torch.isfinite(latents).all():
            raise ValueError("latents are NaN or infinite: projections cannot be normalised by them")
        rows, together = self._normalised(latents.mT.reshape(-1, self.dim).float()), Processes.in_use()
        count = together.sum(torch.tensor(float(rows.shape[0]), device=rows.device))
        if count < 2 * self.codebook_dim:
            raise ValueError(f"{int(count)} frames are too few to normalise {self.codebook_dim} axes: give thousands")
        mean = together.sum(rows.sum(0)) / count
        for projection, shift in zip(self.projections, self.shift):
            projected = (rows - mean) @ projection
            variance, axes = torch.linalg.eigh(together.sum((projected.T @ projected).double()) / count)
            spread = variance.clamp_min(LEAST_VARIANCE * variance.max()).clamp_min(1e-20).sqrt()
            projection.copy_(projection @ ((axes / spread) @ axes.T).float())
            shift.copy_(-mean @ projection)
        together.share(self.projections), together.share(self.shift)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *others) -> None:
        state_dict.setdefault(f"{prefix}shift", torch.zeros_like(self.shift))  # of models from before there was one
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _decode(self, codes: Tensor) -> Tensor:
        raise _no_decode()

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        raise _no_decode()


def _no_decode() -> ValueError:
    return ValueError(
        "random_projection has no decode: a random projection loses what it does not keep; encode() gives labels for "
        "training, and kmeans or rvq give codes that decode"
    )
