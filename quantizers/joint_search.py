"""Joint search of additive codes: given x, indices i_1..i_C with a small |x - sum_n centers[n, i_n]|^2.

The method is that of multi-codebook quantization (D. Povey, https://github.com/danpovey/quantization; used by SPEAR,
https://arxiv.org/abs/2510.25955); the arithmetic here is of Gram matrices. Half the squared error is, less |x|^2 / 2,

    E(i) = sum_n unary[n, i_n] + sum_{n<m} pairs[(n, i_n), (m, i_m)],   unary = |c|^2 / 2 - x.c,   pairs = c.c'

so that once `pairs` is known (of the centers alone) and `unary` (one matrix product), the width D of x plays no part
any more. To find the best i is NP-hard. A beam search gives indices to start from (`start`), unless they are predicted:
the `beam` best choices for the first n codebooks are each continued with all entries of the next one. A round of
refinement (`refine`) may then change all C indices at once:

1. For every codebook the energy of each of its K entries, were the other indices to stay: unary + a sum of C - 1 rows
   of `pairs`. The present entry and the L - 1 best others are the candidates.
2. Codebooks are merged two by two. Of a pair, every combination of candidates is scored exactly, given that the
   codebooks outside of the pair stay; the present combination and the L - 1 best others are the candidates of the
   merged group. The groups are merged in turn until one is left, of which the best combination is taken.

As the present indices are among the candidates to the end, no round makes the error worse. Rounds pair the codebooks in
different orders, which finds changes that a fixed order cannot; frames that a round leaves as they are rest from then
on. One codebook, and two small ones, are searched in full.

Cost for one frame: of `unary`, C K D multiplications; of the beam, beam C^2 K / 2 additions; of a round, C^2 K additions
for step 1, as rows of contiguous memory, and for step 2 at most L^2 reads of `pairs` for each of the C (C - 1) / 2 pairs
of codebooks. `pairs` and its rearrangement take 6 (C K)^2 bytes: 25 MB for 8 codebooks of 256.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizers.search import MANY_ROWS, products

BLOCK_FRAMES = MANY_ROWS  # so many frames at once that what is worked on stays in a CPU's caches
BEAM = 48
WIDTHS = (32, 16)  # L of one codebook, and of merged ones
FULL_SIZE = 256  # two codebooks of at most so many entries are searched in full
FULL_FRAMES = 16  # of these at once
MAX_ENTRIES = 16_384  # of all codebooks together: 1.6 GB of pairs

Group = tuple[list[Tensor], Tensor]  # entries (N, L) of each of its codebooks; gain (N, L): how each would change E


class JointSearch:
    """A search in codebooks centers (C, K, D) float32, prepared once for many frames."""

    def __init__(self, centers: Tensor) -> None:
        self.centers = centers.detach().clone()
        self.codebooks, self.size, dim = centers.shape
        flat = self.centers.reshape(-1, dim)
        self.matrix = -flat.T.contiguous()  # (D, C K)
        self.half_norms = 0.5 * flat.square().sum(1)
        self.first = torch.arange(self.codebooks, device=centers.device) * self.size  # entry of each in the flat list
        if self.codebooks > 1:
            self.pairs = flat @ flat.T  # (C K, C K)
            for start in self.first.tolist():  # an entry never meets another of its own codebook
                self.pairs[start : start + self.size, start : start + self.size] = 0.0
            # What each codebook but the first has with those before it, as rows of contiguous memory.
            self.earlier = [self.pairs[:n, n : n + self.size].contiguous() for n in self.first.tolist()[1:]]

    def unary(self, x: Tensor) -> Tensor:
        """x (N, D) to (N, C, K)."""
        return products(x, self.matrix, self.half_norms).reshape(x.shape[0], self.codebooks, self.size)

    def start(self, unary: Tensor, beam: int = BEAM) -> Tensor:
        """unary (N, C, K) to indices (N, C): of the `beam` best choices for the codebooks so far, each is continued with
        every entry of the next one, and the `beam` best of these go on. 1 is the greedy search of residual codes."""
        score, entry = unary[:, 0].topk(min(beam, self.size), dim=1, largest=False)
        chosen = entry[:, :, None]  # (N, beam, codebooks so far)
        for index in range(1, self.codebooks):
            before = self.earlier[index - 1]
            frames, kept, _ = chosen.shape
            energy = F.embedding_bag(chosen.flatten(0, 1), before, mode="sum").view(frames, kept, self.size)
            energy = energy.add_(unary[:, None, index]).add_(score[:, :, None]).flatten(1)
            width = min(beam, energy.shape[1]) if index + 1 < self.codebooks else 1
            score, pick = energy.topk(width, dim=1, largest=False)
            parent = (pick // self.size)[:, :, None].expand(-1, -1, index)
            chosen = torch.cat([chosen.gather(1, parent), (pick % self.size + index * self.size)[:, :, None]], 2)
        return chosen[:, 0] - self.first

    def refine(self, unary: Tensor, indices: Tensor, rounds: int) -> Tensor:
        """indices (N, C) to better ones, or as good, after `rounds` rounds; unary (N, C, K)."""
        if rounds == 0:
            return indices
        if self.codebooks == 1:
            return unary[:, 0].argmin(1, keepdim=True)
        if self.codebooks == 2 and self.size <= FULL_SIZE:
            return self._full(unary)
        present = indices + self.first
        moving = torch.arange(unary.shape[0], device=unary.device)  # a frame that a round leaves as it is rests
        for index in range(rounds):
            before = present[moving]
            after = self._round(unary[moving], before, _order(self.codebooks, index))
            present[moving] = after
            moving = moving[(after != before).any(1)]
            if moving.numel() == 0:
                break
        return present - self.first

    def _full(self, unary: Tensor) -> Tensor:
        """The best of all K^2 combinations of two codebooks."""
        pairs = self.pairs[: self.size, self.size :]
        best = unary.new_empty(unary.shape[0], dtype=torch.int64)
        for start in range(0, unary.shape[0], FULL_FRAMES):
            first, second = unary[start : start + FULL_FRAMES].unbind(1)  # (n, K) each
            energy = (pairs + second[:, None, :]).add_(first[:, :, None])
            best[start : start + FULL_FRAMES] = energy.flatten(1).argmin(1)
        return torch.stack([best // self.size, best % self.size], 1)

    def _round(self, unary: Tensor, present: Tensor, order: list[int]) -> Tensor:
        """present (N, C), entries in the flat list, as is what is returned."""
        energy = F.embedding_bag(present, self.pairs, mode="sum").reshape(unary.shape) + unary
        own = (present - self.first)[..., None]
        now = energy.gather(2, own)
        energy.scatter_(2, own, -torch.inf)  # the present entry comes first
        best, entry = energy.topk(min(WIDTHS[0], self.size), dim=2, largest=False)
        gain = best - now  # (N, C, L)
        gain[..., 0] = 0.0
        entry = (entry + self.first[:, None]).int()  # positions in `pairs` fit into 32 bits by MAX_ENTRIES
        groups: list[Group] = [([entry[:, n]], gain[:, n]) for n in order]
        while len(groups) > 1:
            width = WIDTHS[1] if len(groups) > 2 else 1
            odd = groups[len(groups) // 2 * 2 :]
            groups = [self._merge(left, right, width) for left, right in zip(groups[::2], groups[1::2])] + odd
        result = torch.empty_like(present)
        for n, entries in zip(order, groups[0][0]):
            result[:, n] = entries[:, 0]
        return result

    def _merge(self, left: Group, right: Group, width: int) -> Group:
        """Two groups to one of `width` candidates, the present combination first unless it is to be the best one."""
        (left_entries, left_gain), (right_entries, right_gain) = left, right
        frames, columns = right_gain.shape
        cross = left_gain.new_zeros(frames * left_gain.shape[1] * columns)  # products of their vectors
        for row in left_entries:
            row = (row * self.pairs.shape[1])[:, :, None]
            for column in right_entries:
                cross += self.pairs.view(-1).index_select(0, (row + column[:, None, :]).view(-1))
        cross = cross.view(frames, -1, columns)
        # Each gain was counted beside the present entries of the other group: take their products out, put `cross` in.
        left_gain = left_gain - cross[:, :, 0] + cross[:, :1, 0]
        right_gain = right_gain - cross[:, 0, :]
        joint = cross.add_(left_gain[:, :, None]).add_(right_gain[:, None, :]).flatten(1)
        if width == 1:
            joint[:, 0] = 0.0
            pick = joint.argmin(1, keepdim=True)
            gain = joint.gather(1, pick)
        else:
            joint[:, 0] = -torch.inf
            gain, pick = joint.topk(min(width, joint.shape[1]), dim=1, largest=False)
            gain[:, 0] = 0.0
        from_left, from_right = pick // columns, pick % columns
        entries = [e.gather(1, from_left) for e in left_entries] + [e.gather(1, from_right) for e in right_entries]
        return entries, gain


class PreparedSearches:
    """Searches kept until their centers change, which is seen by comparing them. Copies start empty."""

    def __init__(self) -> None:
        self.kept: dict[int, JointSearch] = {}

    def __reduce__(self):
        return PreparedSearches, ()

    def of(self, index: int, centers: Tensor) -> JointSearch:
        """The search in centers (C, K, D), kept under `index`."""
        if torch.compiler.is_compiling():
            return JointSearch(centers)
        kept = self.kept.get(index)
        if kept is None or kept.centers.device != centers.device or not torch.equal(kept.centers, centers):
            kept = self.kept[index] = JointSearch(centers)
        return kept


def _order(codebooks: int, index: int) -> list[int]:
    """The order in which the round of that index pairs the codebooks."""
    order = list(range(codebooks))
    for _ in range(index):
        order = order[::2] + order[1::2]
    return order
