"""Quantizers that keep one bit of an axis: lookup-free (MAGVIT-2, Yu et al. 2023, https://arxiv.org/abs/2310.05737) and
binary spherical (Zhao et al. 2024, https://arxiv.org/abs/2406.07548; in FocalCodec)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from quantizers.fsq import check_reconstruction
from quantizers.projection import ProjectedQuantizer

GROUP = 8  # bits whose joint distribution the entropy loss takes


class LFQ(ProjectedQuantizer):
    """A code is the signs of log2(codebook_size) axes, the first the most significant bit, as in
    vector_quantize_pytorch.

    A bit decodes to plus or minus sqrt(2 / pi), the mean of the positive half of a unit Gaussian, where squared errors
    are least ("centroid"), or to plus or minus 1 as in the paper ("grid"). Either codes to the same bits again.
    Gradients pass straight through to the latents.

    losses["entropy"] makes each frame certain of its code and all frames together use every code: the mean entropy of
    the softmax over codes of one frame, less `diversity` times the entropy of that softmax's mean over the frames, each
    as a share of the code's bits. The first splits exactly into bits. The second is taken over groups of up to 8 bits
    and added up: exact up to 256 codes, beyond them the dependence between groups is not seen.

    Args:
        dim: width of the latents. Where it is more than num_codebooks * log2(codebook_size), see `ProjectedQuantizer`.
        num_codebooks: parallel groups of axes, which only decode together.
        codebook_size: a power of 2.
        reconstruction: "centroid" or "grid".
        entropy_weight: by which losses["entropy"] is multiplied; 0 leaves it out.
        diversity: see above.
        inv_temperature: of the softmax over -|z - code|^2, for latents of about unit variance and codes of plus and
            minus 1.
            The usual 100 leaves only latents within some hundredths of 0 with a gradient; with 1, latents that had all
            fallen on one side of an axis spread again.
    """

    spherical = False
    group = GROUP

    def __init__(
        self, dim: int, num_codebooks: int = 1, codebook_size: int = 1024, reconstruction: str = "centroid",
        entropy_weight: float = 0.1, diversity: float = 1.0, inv_temperature: float = 1.0,
    ) -> None:
        bits = max(1, int(codebook_size).bit_length() - 1)
        if 2**bits != codebook_size:
            raise ValueError(f"codebook_size={codebook_size} is no power of 2: take {2**bits} or {2 ** (bits + 1)}")
        check_reconstruction(reconstruction)
        for name, value in (("entropy_weight", entropy_weight), ("diversity", diversity)):
            if value < 0:
                raise ValueError(f"{name}={value} is negative: 0 switches it off")
        if inv_temperature <= 0:
            raise ValueError(f"inv_temperature={inv_temperature} must be above 0: 1 is the default")
        super().__init__(dim, (codebook_size,) * num_codebooks, num_codebooks * bits)
        self.bits, self.reconstruction = bits, reconstruction
        self.values_are_means = reconstruction == "centroid"
        self.entropy_weight, self.diversity, self.inv_temperature = entropy_weight, diversity, inv_temperature
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.num_codebooks,)

    @property
    def amplitude(self) -> float:
        """Of a decoded bit, before the axes' scale."""
        if self.reconstruction == "centroid":
            return math.sqrt(2 / math.pi)
        return 1 / math.sqrt(self.bits) if self.spherical else 1.0

    def _indices(self, z: Tensor, k: int) -> Tensor:
        return ((z > 0).reshape(-1, k, self.bits) * self.basis).sum(-1)

    def _values(self, codes: Tensor) -> Tensor:
        bits = (codes[..., None] & self.basis) != 0
        return torch.where(bits, self.amplitude, -self.amplitude).flatten(1)

    # Training

    def _on_sphere(self, z: Tensor) -> Tensor:
        """z (N, width) with every code's part of length 1."""
        return F.normalize(z.reshape(-1, self.num_codebooks, self.bits), dim=2).flatten(1)

    def _other_losses(self, z: Tensor) -> dict[str, Tensor]:
        if self.entropy_weight == 0:
            return {}
        z = self._on_sphere(z) * math.sqrt(self.bits) if self.spherical else z
        certainty, spread = self.entropies(z.reshape(-1, self.num_codebooks, self.bits))
        return {"entropy": self.entropy_weight * (certainty - self.diversity * spread) / (self.bits * math.log(2))}

    def entropies(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of one frame's code on average, and of the frames' mean, in nats, of z (N, K, bits).

        In training under torch.distributed over the frames of all processes, with gradients that are right once they
        are averaged over processes. 0 without frames.
        """
        # Softmax of 2 * inv_temperature * z.c over all sign vectors c is a product of sigmoids, one of each bit.
        logits = 4 * self.inv_temperature * z
        chance = torch.sigmoid(logits)
        one = (F.softplus(logits) - chance * logits).sum(2).mean(1)
        batch = z.new_zeros(())
        for part in chance.split(self.group, 2):
            joint = torch.ones_like(part[..., :1])
            for bit in part.unbind(2):
                joint = torch.cat([joint * (1 - bit[..., None]), joint * bit[..., None]], 2)
            mean = self._mean(joint)  # (K, codes of the group)
            batch = batch - (mean * mean.clamp_min(1e-12).log()).sum(1).mean()
        return self._mean(one), batch

    def _mean(self, values: Tensor) -> Tensor:
        """Mean of all processes' values (N, ...) over N."""
        total, count = values.sum(0), values.shape[0]
        if not (self.training and self._together().synchronized):
            return total / max(1, count)
        everyone = total.detach().clone()
        distributed.all_reduce(everyone)
        count = torch.tensor(float(count), device=values.device)
        distributed.all_reduce(count)
        count = count.clamp_min(1)
        mine = total * (distributed.get_world_size() / count)
        return mine + (everyone / count - mine).detach()


class BSQ(LFQ):
    """`LFQ` of what is first projected to the unit sphere: gradients and entropies are those of the projected latents.

    The projection keeps all signs, so the codes are LFQ's. The paper's values of plus and minus 1 / sqrt(bits) ("grid")
    are the sphere's; "centroid" stretches them to sqrt(2 / pi), where squared errors of unit Gaussian latents are
    least. As in the paper the second entropy is that of each bit on its own.
    """

    spherical = True
    group = 1

    def _soft(self, z: Tensor) -> Tensor:
        return self._on_sphere(z) * (math.sqrt(self.bits) * self.amplitude)
