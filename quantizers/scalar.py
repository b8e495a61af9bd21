"""What FSQ and its residual form share: axes that are divided into cells, those of one axis placed by the levels of the axes
before it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from quantizers.projection import FIT_COUNTS, ProjectedQuantizer

FIT_ROWS, SEARCH_ROWS = 20_000, 4096
SHIFTS = [0.1 * step for step in range(-6, 7)]  # of the cells of an axis, in deviations
WIDTHS = [0.05 * step for step in range(8, 31)]  # of the cells, over those for a Gaussian
PRIOR = 16  # frames as in the larger context that every context is taken to have
EVENNESS = 1.0  # nepers of error (of 4.3 dB) that a nat of entropy of an axis's first levels is worth
LEAST_WIDTH = 0.02  # of a context's cells, so that rounding leads to no other cell


class ScalarQuantizer(ProjectedQuantizer):
    """A code is the levels of a few axes, the first axis the least significant digit.

    Axes are hardly ever independent: in a quiet frame all are near their middle, so that cells of one size in the same
    places leave many codes without latents. Where levels decode to means, an axis therefore has cells of its own for
    every context, the levels that the axes before it have in the first stage: its value x is divided as
    (x - shift) / width of the context. A decoder knows the context from the code itself. `cells` (2, groups, contexts)
    holds shifts and widths, for axis a those of its prod(levels[:a]) contexts after those of the axes before; without a
    start from latents they are 0 and 1.

    A family implements `_axis_digits` and `_axis_values`.

    Args:
        dim: width of the latents.
        codebook_sizes: of the codebooks, each the product of `levels`.
        levels: of each axis.
        nested: whether the codebooks are stages on the same axes, or groups with axes of their own.
        values_are_means: whether levels decode to the means of their cells; else there are no contexts.
    """

    def __init__(
        self, dim: int, codebook_sizes: tuple[int, ...], levels: tuple[int, ...], nested: bool, values_are_means: bool
    ) -> None:
        groups = 1 if nested else len(codebook_sizes)
        super().__init__(dim, codebook_sizes, groups * len(levels))
        self.levels, self.nested, self.values_are_means = levels, nested, values_are_means
        self.bases = [math.prod(levels[:axis]) for axis in range(len(levels))]  # of the digits; the numbers of contexts
        cells = torch.zeros(2, groups, sum(self.bases))
        cells[1] = 1
        self.register_buffer("cells", cells if values_are_means else None)

    def _axis_digits(self, x: Tensor, axis: int, stages: int) -> Tensor:
        """x (...) of an axis to its levels (..., stages)."""
        raise NotImplementedError

    def _axis_values(self, digits: Tensor, axis: int) -> Tensor:
        """Levels (..., stages) to x (...) of an axis."""
        raise NotImplementedError

    # Coding

    def _indices(self, z: Tensor, k: int) -> Tensor:
        groups, stages = (1, k) if self.nested else (k, 1)
        z = z.reshape(z.shape[0], groups, len(self.levels))
        codes = torch.zeros(z.shape[0], groups, stages, dtype=torch.int64, device=z.device)
        for axis, base in enumerate(self.bases):
            x = z[..., axis]
            if self.cells is not None:
                shift, width = self._place(codes[..., 0], axis)
                x = (x - shift) / width
            codes = codes + self._axis_digits(x, axis, stages) * base
        return codes[:, 0] if self.nested else codes[..., 0]

    def _values(self, codes: Tensor) -> Tensor:
        codes = codes[:, None] if self.nested else codes[..., None]  # (N, groups, stages)
        values = []
        for axis, (base, level) in enumerate(zip(self.bases, self.levels)):
            x = self._axis_values(codes // base % level, axis)
            if self.cells is not None:
                shift, width = self._place(codes[..., 0] % base, axis)
                x = x * width + shift
            values.append(x)
        return torch.stack(values, 2).flatten(1)

    def _place(self, contexts: Tensor, axis: int) -> Tensor:
        """Shifts and widths (2, N, groups) of an axis in contexts (N, groups)."""
        groups = torch.arange(contexts.shape[1], device=contexts.device)
        return self.cells.float()[:, groups, contexts + sum(self.bases[:axis])]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.cells is not None:  # states of before there were contexts
            plain = torch.zeros_like(self.cells)
            plain[1] = 1
            state.setdefault(f"{prefix}cells", plain)
        super()._load_from_state_dict(state, prefix, *args)

    # Start

    def _fit_cells(self, rows: Tensor) -> None:
        """Place the cells of every axis and context by some of all processes' rows (N, dim)."""
        together = self._together()
        z = self._down(together.draw(rows, FIT_ROWS), self.axes())
        groups = z.unflatten(1, (-1, len(self.levels))).unbind(1)
        self.cells.copy_(together.share(torch.stack([self._placed(group) for group in groups], 1)))

    def _placed(self, z: Tensor) -> Tensor:
        """Shifts and widths (2, contexts) for z (N, axes) of a group: of each context, the mean and the deviation; then,
        alike in all contexts of an axis, what is best for its cells."""
        codes, placed = torch.zeros_like(z[:, 0], dtype=torch.int64), []
        for axis, base in enumerate(self.bases):
            shift, width = z.new_zeros(1), z.new_ones(1)
            for depth in range(1, axis + 1):  # of the context: a longer one starts from what it is a part of
                known = codes % self.bases[depth]
                shift, width = (of.repeat(self.levels[depth - 1]) for of in (shift, width))
                mean, deviation = _moments((z[:, axis] - shift[known]) / width[known], known, self.bases[depth])
                shift, width = shift + width * mean, (width * deviation).clamp_min(LEAST_WIDTH)
            x = (z[:, axis] - shift[codes]) / width[codes]
            more, wider = self._best(x[:SEARCH_ROWS], width[codes[:SEARCH_ROWS]], axis)
            placed.append(torch.stack([shift + width * more, width * wider]))
            codes = codes + self._axis_digits((x - more) / wider, axis, 1)[..., 0] * base
        return torch.cat(placed, 1)

    def _best(self, x: Tensor, widths: Tensor, axis: int) -> tuple[float, float]:
        """The shift and width of the cells of an axis in which x (N,), measured in widths (N,), loses least and levels
        are used evenly. Of the error, the logarithm counts, its
        mean over the first stages."""
        stages = min(FIT_COUNTS, self.num_codebooks) if self.nested else 1
        choices, costs = list(itertools.product(SHIFTS, WIDTHS)), []
        for shift, width in choices:
            digits = self._axis_digits((x - shift) / width, axis, stages)
            cost = 0.0
            for k in range(1, stages + 1):
                error = (self._axis_values(digits[:, :k], axis) * width + shift - x) * widths
                cost = cost + (error.square().mean() + 1e-6).log() / stages
            share = torch.bincount(digits[:, 0], minlength=self.levels[axis]) / len(x)
            costs.append(cost - EVENNESS * torch.special.entr(share).sum())
        return choices[int(torch.stack(costs).argmin())]


def _moments(x: Tensor, contexts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means and deviations (count,) of x (N,) in each of its contexts (N,), with PRIOR more of mean 0 and deviation 1."""
    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(count).index_add_(0, contexts, values)

    number = summed(torch.ones_like(x)) + PRIOR
    mean = summed(x) / number
    deviation = ((summed((x - mean[contexts]).square()) + PRIOR * (1 + mean.square())) / number).sqrt()
    return mean, deviation
