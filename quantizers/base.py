"""What every quantizer takes and gives. Latents are (B, dim, T), codes (B, K, T) int64."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quantizers.beam_search import check_beam

MAX_CODEBOOK_SIZE = 65536


@dataclass
class QuantizerOutput:
    """Of a training step.

    quantized (B, dim, T); codes (B, K, T) int64; losses: named scalars to be minimised, "commitment" among them where
    the family has one; stats: named detached (K,) tensors, from `usage_stats`. Where a mask was given, padding is 0 in
    quantized and codes, and no loss or statistic sees it.
    """

    quantized: Tensor
    codes: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module):
    """Base of the families. A family calls `super().__init__(dim, codebook_sizes)` and implements `_encode`, `_decode`
    and `_train_step`; everything public checks its arguments here, once.

    What only training needs (averages, counts) lives in a submodule or buffer whose name starts with ``trainer``: it is
    in checkpoints of training and in no saved model.
    """

    decodes = True  # False for what only makes labels
    beam: int | None = None  # width of the search for codes, where a family has the option; may be set at any time
    settle = True  # a beam goes on to codes that survive decoding and encoding again

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim}: latents are at least 1 wide")
        if not codebook_sizes:
            raise ValueError("num_codebooks=0: at least 1 is needed")
        for size in codebook_sizes:
            check_size(size)
        self.dim = dim
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)

    # What a pipeline reads

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def counts(self) -> tuple[int, ...]:
        """The k for which the first k codebooks decode on their own: all of them, unless a family says otherwise."""
        return tuple(range(1, self.num_codebooks + 1))

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames for which each codebook holds one code; above 1 only where codebooks have rates of their own."""
        return (1,) * self.num_codebooks

    @property
    def frame_multiple(self) -> int:
        """Frames that are coded together: latents must come in multiples of it, but for the last ones of a signal."""
        return max(self.strides)  # the others divide it

    @property
    def searched_by(self) -> str:
        """What tells its codes from those that another search finds with the same codebooks: empty for the greedy one."""
        if self.beam in (None, 1):
            return ""
        return f"beam{self.beam}" if self.settle else f"beam{self.beam}-unsettled"

    def bits_per_frame(self, num_codebooks: int | None = None) -> float:
        """Nominal bits of a frame (on average, where a code is held for several) of the first codebooks."""
        k = self.check_count(num_codebooks)
        return sum(math.log2(size) / stride for size, stride in zip(self.codebook_sizes[:k], self.strides))

    def inference_state(self) -> dict[str, Tensor]:
        """What encoding and decoding need of `state_dict()`."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("trainer")}

    # Coding

    def encode(self, latents: Tensor, num_codebooks: int | None = None, beam: int | None = None) -> Tensor:
        """latents (B, dim, T) to codes (B, k, T) int64, all codebooks by default.

        beam: width of the search instead of the quantizer's own, for families that have the option.
        Always in float32, autocast or not; a frame has the same codes alone and among many. Raises ValueError for
        another shape, for a k that is not in `counts`, and for a beam that the family has not.
        """
        k = self.check_count(num_codebooks)
        beam = self.check_beam(beam)
        self.check_latents(latents)
        with torch.no_grad(), unmixed(latents.device):
            if beam == 1 or latents.numel() == 0:
                return self._encode(latents.float(), k)
            return self._encode_by_beam(latents.float(), k, beam)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, k, T), of any integer type, of the first k codebooks to latents (B, dim, T).

        Raises ValueError where k is not in `counts`, and for codes that no codebook has.
        """
        self.check_codes(codes)
        with unmixed(codes.device):
            return self._decode(codes.long())

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        raise NotImplementedError

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        """Where the family has a beam, which is above 1."""
        raise NotImplementedError

    def _decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    # Training

    @property
    def initialized(self) -> bool:
        """Whether there is something to train on from: False only before codebooks that start from data have done so."""
        return True

    def prepare_training(self, frames_per_step: int, synchronized: bool = False) -> None:
        """Build what only training needs. `forward` calls it where nobody has, with the frames of its first batch.

        frames_per_step: of all processes together, from which a codebook knows when a code counts as unused.
        synchronized: statistics are summed over the processes of torch.distributed.
        """

    def initialize(self, latents: Tensor) -> None:
        """Start codebooks from latents (B, dim, T): more frames than one step holds give better ones."""

    def start_from_codebooks(self) -> None:
        """Go on training the codebooks that are there (fine-tuning) instead of starting them from data."""

    def forward(self, latents: Tensor, active: Tensor | None = None, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize in training, with gradients to `latents` (B, dim, T) float.

        active (B,) int: how many codebooks each item uses (quantizer dropout), each in `counts`; all of them by default.
        mask (B, T) bool: False is padding, which trains nothing and counts nowhere.
        Raises ValueError for latents that are not finite, before they reach any running average.
        """
        self.check_latents(latents)
        batch, _, frames = latents.shape
        if mask is None:
            mask = torch.ones(batch, frames, dtype=torch.bool, device=latents.device)
        if mask.shape != (batch, frames) or mask.dtype != torch.bool:
            raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}: it must be bool and of shape {(batch, frames)}")
        if active is None:
            active = torch.full((batch,), self.num_codebooks, device=latents.device)
        if active.shape != (batch,) or not set(active.tolist()) <= set(self.counts):
            raise ValueError(f"active must hold {batch} of the counts {self.counts}, got {active.tolist()[:8]}")
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float().masked_fill(~mask[:, None], 0.0)
            if not torch.isfinite(latents).all():
                raise ValueError("latents are NaN or infinite: lower the learning rate, or look for such samples in the data")
            return self._train_step(latents, active, mask)

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        """latents (B, dim, T) float32, finite, 0 where mask (B, T) is False; active (B,) within `counts`."""
        raise NotImplementedError

    # Checks

    def check_latents(self, latents: Tensor) -> None:
        if latents.dim() != 3 or latents.shape[1] != self.dim:
            raise ValueError(f"latents have shape {tuple(latents.shape)}: they must be (B, {self.dim}, T)")

    def check_codes(self, codes: Tensor) -> None:
        if codes.dim() != 3:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: they must be (B, codebooks, T)")
        k = self.check_count(codes.shape[1])
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"codes are {codes.dtype}: they must be integers")
        if codes.numel() == 0 or torch.compiler.is_compiling() or not self.decodes:
            return
        sizes, (low, high) = self.codebook_sizes[:k], map(int, codes.aminmax())
        if low < 0 or high >= min(sizes) and (codes >= torch.tensor(sizes, device=codes.device)[:, None]).any():
            raise ValueError(f"codes are in {low}..{high}: those of a codebook are 0 to its size less 1, "
                             f"of {max(self.codebook_sizes)} here; are they another quantizer's?")

    def check_count(self, k: int | None) -> int:
        """k, or all codebooks for None. Raises ValueError where the first k do not decode on their own."""
        if k is None:
            return self.num_codebooks
        if k not in self.counts:
            if self.counts == (self.num_codebooks,):
                raise ValueError(f"{k} codebooks are asked for: the {self.num_codebooks} there are only decode together")
            dense = self.counts == tuple(range(1, self.num_codebooks + 1))
            has = f"1 to {self.num_codebooks}" if dense else ", ".join(map(str, self.counts))
            raise ValueError(f"{k} codebooks are asked for: there are {has}")
        return int(k)

    def check_beam(self, beam: int | None) -> int:
        """beam, or the quantizer's own for None. Raises ValueError where there is no choice."""
        if self.beam is not None:
            return check_beam(self.beam if beam is None else beam)
        if beam not in (None, 1):
            raise ValueError(f"beam={beam}: {type(self).__name__} finds its codes without a beam; leave it out")
        return 1


def unmixed(device: torch.device) -> AbstractContextManager:
    """Without autocast; what switches that off costs as much as an operation, and is left out where it is not on."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_size(size: int) -> None:
    """Raises ValueError for a codebook_size that no family has."""
    if not 2 <= size <= MAX_CODEBOOK_SIZE:
        remedy = "take more, smaller codebooks" if size > 2 else "a codebook has at least 2 codes"
        raise ValueError(f"codebook_size={size} is outside 2..{MAX_CODEBOOK_SIZE}: {remedy}")


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` with its gradient passed on to `latents` unchanged (van den Oord et al. 2017)."""
    return latents + (quantized - latents).detach()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, T, ...) over the frames where mask (B, T) is True; 0 where there is none."""
    per_frame = values.flatten(2).mean(2) if values.dim() > 2 else values
    return (per_frame * mask).sum() / mask.sum().clamp_min(1)


def power(frames: Tensor, mask: Tensor) -> Tensor:
    """Variance of frames (B, T, dim) around their mean, per dimension: what relative errors and commitments are
    measured by, so that shrinking the latents gains nothing. Detached."""
    frames = frames.detach()
    mean = (frames * mask[..., None]).sum((0, 1)) / mask.sum().clamp_min(1)
    return masked_mean((frames - mean).square(), mask) + 1e-8


@torch.no_grad()
def usage_stats(codes: Tensor, mask: Tensor, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """entropy (bits) and usage (share of the codes that occur), each (K,), of codes (B, K, T) where mask (B, T)."""
    entropy, usage = [], []
    for index, size in enumerate(sizes):
        share = torch.bincount(codes[:, index][mask], minlength=size).float()
        share = share / share.sum().clamp_min(1)
        entropy.append(-(share * share.clamp_min(1e-12).log2()).sum())
        usage.append((share > 0).float().mean())
    return {"entropy": torch.stack(entropy), "usage": torch.stack(usage)}
