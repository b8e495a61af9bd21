"""Finite scalar quantization (Mentzer et al. 2023, https://arxiv.org/abs/2309.15505) and its residual form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantizers.base import MAX_CODEBOOK_SIZE, check_size
from quantizers.scalar import ScalarQuantizer

RECONSTRUCTIONS = ("centroid", "grid")
EPSILON = 1e-3  # of the bound: its ends lie a little outside of the outermost levels
BOUND_VARIANCE = 2.4  # of the Gaussian whose distribution function bounds the axes of ResidualFSQ
TAIL = 3.0  # times the outermost edge of the finest cells that have a table: as far as finer ones reach
TABLE = 4096  # cells of an axis that have a table; finer ones divide these evenly


class FSQ(ScalarQuantizer):
    """Each axis is bounded by tanh and rounded to one of a few levels; a code counts the levels of a frame's axes.

    Codes are those of `vector_quantize_pytorch.FSQ` for the same axes: the first axis is the least significant digit. A
    level decodes to the mean of a unit Gaussian inside its cell ("centroid"), which codes to the same level again and
    comes near the Shannon bound, or as in the paper and in public checkpoints to q / (L // 2) ("grid"), which does
    neither. The first latents place the cells of centroids, see `ScalarQuantizer`.

    Gradients pass straight through the levels: with "grid" to the bounded latents and through tanh, as in the paper;
    with "centroid" to the latents themselves, since centroids are values of the latents and not of the bound, and the
    commitment does what the bound's slope would, pulling latents from beyond the outermost levels.

    Args:
        dim: width of the latents. Where it is more than num_codebooks * len(levels), see `ProjectedQuantizer`.
        num_codebooks: parallel groups of axes, which only decode together.
        codebook_size: product of the levels.
        levels: of each axis of a group, at least 3; by default as many of 3 to 8 (16 if need be) as there is room for.
        reconstruction: "centroid" or "grid".
    """

    def __init__(
        self, dim: int, num_codebooks: int = 1, codebook_size: int = 1024, levels: Sequence[int] | None = None,
        reconstruction: str = "centroid",
    ) -> None:
        levels = check_levels(levels, codebook_size, dim // max(1, num_codebooks))
        check_reconstruction(reconstruction)
        means = reconstruction == "centroid"
        super().__init__(dim, (codebook_size,) * num_codebooks, levels, nested=False, values_are_means=means)
        self.reconstruction = reconstruction
        tables = [_tanh_cells(level) for level in levels]
        most = max(levels)
        thresholds = torch.full((len(levels), most - 1), torch.inf)
        values = torch.zeros(len(levels), most)
        for axis, (level, (edges, centroids)) in enumerate(zip(levels, tables)):
            thresholds[axis, : level - 1] = edges
            grid = (torch.arange(level) - level // 2) / (level // 2)
            values[axis, :level] = centroids if reconstruction == "centroid" else grid
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.register_buffer("values", values, persistent=False)

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.num_codebooks,)

    def _axis_digits(self, x: Tensor, axis: int, stages: int) -> Tensor:
        return (x[..., None] > self.thresholds[axis]).sum(-1, keepdim=True)  # where rounding of the bounded x would change

    def _axis_values(self, digits: Tensor, axis: int) -> Tensor:
        return self.values[axis][digits[..., 0]]

    def _soft(self, z: Tensor) -> Tensor:
        if self.reconstruction == "centroid":
            return z
        levels = torch.tensor(self.levels * self.num_codebooks, device=z.device)
        half, offset = (levels - 1) * (1 + EPSILON) / 2, (1 - levels % 2) / 2
        return (torch.tanh(z + torch.atanh(offset / half)) * half - offset) / (levels // 2)

    def _pull(self, z: Tensor, values: Tensor) -> Tensor:
        # Grid values are none of z; as in the paper the bound alone holds it.
        return z - values if self.reconstruction == "centroid" else torch.zeros_like(z)


class ResidualFSQ(ScalarQuantizer):
    """Finite scalar quantization in stages: each divides every cell of the one before it, so that any number of stages
    decodes.

    An axis is bounded by z -> Phi(z / sqrt(2.4)); its range is divided into L equal parts, each of these into L, and so
    on. Phi of a Gaussian of variance 3 loses least of a unit Gaussian that is divided finely (Panter and Dite 1951);
    with 2.4 the first stages lose less and use their codes more evenly. The first k stages decode to the mean of a unit
    Gaussian inside the cell that they tell, so that the error falls with every one. Compared
    with `vector_quantize_pytorch.ResidualFSQ`, which also nests equal parts, the bound is undone in decoding (there,
    decoded latents are bounded ones) and the values are not middles.

    Gradients pass straight through to the latents. The first latents place the cells, see `ScalarQuantizer`.

    Args: as `FSQ`; num_codebooks are the stages, all on the same axes.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 8, codebook_size: int = 1024, levels: Sequence[int] | None = None,
    ) -> None:
        levels = check_levels(levels, codebook_size, dim)
        super().__init__(dim, (codebook_size,) * num_codebooks, levels, nested=True, values_are_means=True)
        self.nests = nn.ModuleDict({str(level): _NestedCells(level, num_codebooks) for level in sorted(set(levels))})

    def _axis_digits(self, x: Tensor, axis: int, stages: int) -> Tensor:
        return self.nests[str(self.levels[axis])].digits(x, stages)

    def _axis_values(self, digits: Tensor, axis: int) -> Tensor:
        return self.nests[str(self.levels[axis])].values(digits)


class _NestedCells(nn.Module):
    """An axis divided into `level` cells, each of them into as many, and so on, `stages` times."""

    def __init__(self, level: int, stages: int) -> None:
        super().__init__()
        self.level, self.depth = level, 1
        while self.depth < stages and level ** (self.depth + 1) <= TABLE:
            self.depth += 1
        count = level**self.depth
        parts = torch.arange(1, count, dtype=torch.float64) / count
        edges = math.sqrt(BOUND_VARIANCE) * torch.special.ndtri(parts)
        self.register_buffer("edges", edges.float(), persistent=False)
        for k in range(1, self.depth + 1):
            centroids = _centroids(edges[level ** (self.depth - k) - 1 :: level ** (self.depth - k)])
            self.register_buffer(f"centroids{k}", centroids.float(), persistent=False)
        # Below the table the outermost cells must end somewhere: far out, for latents with long tails, and they are
        # divided more finely towards the middle.
        bounds = torch.cat([TAIL * edges[:1], edges, TAIL * edges[-1:]])
        self.register_buffer("bounds", bounds.float(), persistent=False)

    def digits(self, z: Tensor, k: int) -> Tensor:
        """z (...) to the digits (..., k) of its cell, the coarsest first."""
        cell = torch.bucketize(z.contiguous(), self.edges)
        digits = [cell // self.level ** (self.depth - stage) % self.level for stage in range(1, min(k, self.depth) + 1)]
        if k > self.depth:
            low, high = self.bounds[cell], self.bounds[cell + 1]
            rest = ((z - low) / (high - low)).clamp(0, 1)
            rest = self._bent(cell, rest, 0.5)
            for _ in range(self.depth, k):
                digit = (rest * self.level).floor().clamp(0, self.level - 1)
                rest = rest * self.level - digit
                digits.append(digit.long())
        return torch.stack(digits, -1)

    def values(self, digits: Tensor) -> Tensor:
        """Digits (..., k) to values (...) within their cells."""
        k = digits.shape[-1]
        cell = torch.zeros_like(digits[..., 0])
        for stage in range(min(k, self.depth)):
            cell = cell * self.level + digits[..., stage]
        if k <= self.depth:
            return getattr(self, f"centroids{k}")[cell]
        place = torch.full_like(self.bounds[cell], 0.5)
        for stage in reversed(range(self.depth, k)):
            place = (place + digits[..., stage]) / self.level
        place = self._bent(cell, place, 2.0)
        return self.bounds[cell] + (self.bounds[cell + 1] - self.bounds[cell]) * place

    def _bent(self, cell: Tensor, place: Tensor, power: float) -> Tensor:
        """Places 0..1 in cells (...); in the outermost ones their distance from the inner edge to a power."""
        first, last = cell == 0, cell == len(self.edges)
        return torch.where(last, place**power, torch.where(first, 1 - (1 - place) ** power, place))


# Levels


def check_levels(levels: Sequence[int] | None, codebook_size: int, room: int) -> tuple[int, ...]:
    """The levels of at most `room` axes, chosen where there are none given. Raises ValueError where they do not fit."""
    check_size(codebook_size)  # before any of so many are tried
    if levels is None:
        for most in (8, 16):
            found = factors(codebook_size, most, room)
            if found:
                return found
        fits = factors(codebook_size, 16, 16)  # more axes than any size up to the largest has
        near = None if fits else _nearest_size(codebook_size, room)
        instead = "widen the latents, or take fewer or smaller codebooks"
        if near:
            instead = f"take codebook_size={near}, or give levels"
        raise ValueError(f"codebook_size={codebook_size} is no product of at most {room} levels of 3 to 16: {instead}")
    levels = tuple(int(level) for level in levels)
    if not levels or min(levels) < 3:
        raise ValueError(f"levels={levels}: each must be at least 3 (lfq and bsq have axes of 2)")
    product = math.prod(levels)
    if product != codebook_size:
        raise ValueError(f"levels={levels} make {product} codes: set codebook_size={product}, not {codebook_size}")
    return levels


def check_reconstruction(reconstruction: str) -> None:
    if reconstruction not in RECONSTRUCTIONS:
        raise ValueError(f"reconstruction={reconstruction!r}: there is {' and '.join(RECONSTRUCTIONS)}")


def factors(size: int, most: int, room: int) -> tuple[int, ...]:
    """As many factors 3..most of `size` as possible, at most `room`, the largest of them as small as possible and
    first; () where there are none."""
    best: tuple[int, ...] = ()

    def extend(rest: int, limit: int, taken: tuple[int, ...]) -> None:
        nonlocal best
        if rest == 1 and len(taken) <= room and (len(taken), -taken[0]) > (len(best), -(best or (0,))[0]):
            best = taken
        for factor in range(min(limit, rest), 2, -1):
            if rest % factor == 0:
                extend(rest // factor, factor, (*taken, factor))

    if size > 1:
        extend(size, most, ())
    return best


def _nearest_size(size: int, room: int) -> int | None:
    sizes = (other for step in range(MAX_CODEBOOK_SIZE) for other in (size - step, size + step))
    return next((other for other in sizes if 3 <= other <= MAX_CODEBOOK_SIZE and factors(other, 8, room)), None)


# Cells


def _tanh_cells(level: int) -> tuple[Tensor, Tensor]:
    """Where the rounding of a bounded number changes (level - 1,), and a unit Gaussian's means (level,) between."""
    half, offset = (level - 1) * (1 + EPSILON) / 2, (1 - level % 2) / 2
    changes = torch.arange(level - 1, dtype=torch.float64) + 0.5 - level // 2
    edges = torch.atanh((changes + offset) / half) - math.atanh(offset / half)
    return edges.float(), _centroids(edges).float()


def _centroids(edges: Tensor) -> Tensor:
    """Means (n + 1,) of a unit Gaussian between edges (n,) float64, the outermost cells without end."""
    ends = torch.cat([edges.new_tensor([-torch.inf]), edges, edges.new_tensor([torch.inf])])
    density = torch.exp(-0.5 * ends.square()) / math.sqrt(2 * math.pi)
    share = torch.special.ndtr(-ends.abs())  # of the nearer tail: exact on both sides
    mass = torch.where((ends[:-1] < 0) & (ends[1:] > 0), 1 - share[:-1] - share[1:], (share[1:] - share[:-1]).abs())
    return (density[:-1] - density[1:]) / mass
