"""What codes cost in bits under a prior, in floats: for encoders that choose codes by it. Files are written in whole numbers
(`codec.entropy.payload`), from which this differs by hundredths of a bit on average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from codec.entropy.ans import SCALE
from codec.entropy.prior import HIDDEN_SHIFT, ORDER, OUTPUT_SHIFT, Prior

SCORE = 1 / (64 << OUTPUT_SHIFT)  # of an output in nats: the prior's table has steps of 1/64


class Rates:
    """Bits of the codes of a prior's codebooks, on one device."""

    def __init__(self, prior: Prior, device: torch.device | str = "cpu"):
        def here(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).float().to(device)

        self.sizes = prior.sizes
        self._embeddings = [here(table) for table in prior.embeddings]
        self._layers = [[here(part) for part in layers] for layers in prior.layers]

    def bits(self, k: int, before: Sequence[Tensor], below: Tensor) -> Tensor:
        """Of each code of codebook k: (N, size).

        before: ORDER tensors (>= k + 1, N) of the frames before, the last one first; a code equal to the codebook's size
            stands for a frame that there is not. below: (>= k, N) the codes of the same frame.
        """
        inputs = [self._embeddings[j][frame[j]] for frame in before for j in range(k + 1)]
        inputs += [self._embeddings[j][below[j]] for j in range(k)]
        weight, bias, out_weight, out_bias = self._layers[k]
        hidden = torch.addmm(bias, torch.cat(inputs, 1), weight).div_(1 << HIDDEN_SHIFT).floor_().clamp_(0, 127)
        shares = torch.addmm(out_bias, hidden, out_weight).mul_(SCORE).softmax(1)
        least = 2.0**-SCALE  # of every code
        return shares.mul_(1 - self.sizes[k] * least).add_(least).log2_().neg_()

    def of(self, codes: Tensor, past: Tensor) -> Tensor:
        """Bits of codes (K, T) after the codes `past` (K, ORDER), in all: a scalar."""
        before = contexts(codes, past)
        return sum(
            self.bits(k, before, codes).gather(1, row[:, None]).sum() for k, row in enumerate(codes)
        )


def contexts(codes: Tensor, past: Tensor) -> list[Tensor]:
    """ORDER tensors (K, T): what comes before each of codes (K, T), one frame, two frames, ...; past (K, ORDER)."""
    joined, frames = torch.cat([past, codes], 1), codes.shape[1]
    return [joined[:, ORDER - o : ORDER - o + frames] for o in range(1, ORDER + 1)]
