"""What codes cost in bits under a prior, in floats: for encoders that choose codes by it. Files are written in whole numbers
(`codec.entropy.payload`), from which this differs by hundredths of a bit on average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from codec.entropy.ans import SCALE
from codec.entropy.prior import HIDDEN_SHIFT, OUTPUT_SHIFT, Prior

SCORE = 1 / (64 << OUTPUT_SHIFT)  # of an output in nats: the prior's table has steps of 1/64


class Rates:
    """Bits of the codes of a prior's codebooks, on one device."""

    def __init__(self, prior: Prior, device: torch.device | str = "cpu"):
        def here(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).float().to(device)

        self.sizes, self.context = prior.sizes, prior.context
        self._embeddings, self._starts = here(prior.embeddings), torch.from_numpy(prior.starts).to(device)
        self._layers = [[here(part) for part in layers] for layers in prior.layers]

    def past(self, before: Sequence[Tensor]) -> list[Tensor]:
        """What the frames before say of each codebook, for `bits`: (N, H).

        before: `context.order` tensors (K, N), the last frame first; a code equal to the codebook's size stands for a frame that there
            is not.
        """
        frames = [self._embeddings[frame + self._starts] for frame in before]
        said = []
        for k, (weight, bias, _, _) in enumerate(self._layers):
            inputs = torch.cat(self.context.before(k, frames), 1)
            said.append(torch.addmm(bias, inputs, weight[: inputs.shape[1]]))
        return said

    def bits(self, k: int, past: Tensor, below: Tensor) -> Tensor:
        """Of each code of codebook k: (N, size). past (N, H): what `past` says of it. below: (>= k, N) the codes of the same frame."""
        weight, _, out_weight, out_bias = self._layers[k]
        if k:
            inputs = torch.cat(self.context.below(k, self._embeddings[below[:k] + self._starts[:k]]), 1)
            past = torch.addmm(past, inputs, weight[-inputs.shape[1] :])
        hidden = past.div(1 << HIDDEN_SHIFT).floor_().clamp_(0, 127)
        shares = torch.addmm(out_bias, hidden, out_weight).mul_(SCORE).softmax(1)
        least = 2.0**-SCALE  # of every code
        return shares.mul_(1 - self.sizes[k] * least).add_(least).log2_().neg_()

    def of(self, codes: Tensor, past: Tensor) -> Tensor:
        """Bits of codes (K, T) after the codes `past` (K, order), in all: a scalar."""
        said = self.past(contexts(codes, past))
        return sum(self.bits(k, said[k], codes).gather(1, row[:, None]).sum() for k, row in enumerate(codes))

    def none(self) -> Tensor:
        """The codes (K, order) that stand for what is before the first frame."""
        return torch.tensor(self.sizes, device=self._embeddings.device)[:, None].repeat(1, self.context.order)


def contexts(codes: Tensor, past: Tensor) -> list[Tensor]:
    """As many tensors (K, T) as past (K, order) has frames: what comes before each of codes (K, T), one frame, two frames, ..."""
    joined, frames, order = torch.cat([past, codes], 1), codes.shape[1], past.shape[1]
    return [joined[:, order - o : order - o + frames] for o in range(1, order + 1)]
