"""K-means of features that are there already: HuBERT's units, and the semantic half of SemantiCodec (Liu et al. 2024,
https://arxiv.org/abs/2405.00233)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from quantizers.rvq import ResidualVQ
from quantizers.search import MANY_ROWS, nearest

START_ROWS = 4  # for each code, from which codebooks start
START_ITERATIONS = 10
START_DRAWS = 64  # in which the first centers are drawn
RARE = 0.03  # a code with less than this share of the average of rows moves to another place
ENOUGH = 1e-4  # relative gain of an iteration at which `fit` stops


class KMeansQuantizer(ResidualVQ):
    """K codebooks by k-means, of the features and then of what is left of them; the first k decode for every k.

    `fit` sees all features several times, `partial_fit` each once, as they come; both need torch only and see what this
    process is given. In training inside a codec it is a `ResidualVQ`, whose codebooks are those fitted, where there are
    some, and move on with the batches by averages that forget (`decay`), since the latents move too.

    Args:
        dim: width of the features.
        num_codebooks, codebook_size: K and the number of vectors in each.
        decay, beam: see `ResidualVQ`.
    """

    centered = True

    def __init__(
        self, dim: int, num_codebooks: int = 1, codebook_size: int = 1024, decay: float = 0.99, beam: int = 1
    ) -> None:
        super().__init__(dim, num_codebooks, codebook_size, decay=decay, beam=beam)
        self.register_buffer("trainer_counts", torch.zeros(num_codebooks, codebook_size))  # rows behind each code
        self._pending: list[Tensor] = []  # the first rows of a stream

    @torch.no_grad()
    def fit(self, features: Tensor | Iterable[Tensor], iterations: int = 25) -> KMeansQuantizer:
        """Fit every codebook to features (N, dim), or to a list, data set or other iterable of such batches.

        Lloyd's algorithm from k-means++ centers, one codebook after the other, at most `iterations` passes over the
        features each; a code without rows moves to a row drawn at random. Raises ValueError for features of another
        shape, that are not finite, or that can be gone over only once.
        """
        if iterations < 1:
            raise ValueError(f"iterations={iterations}: at least 1 is needed")
        if isinstance(features, Iterator):
            raise ValueError("features can be gone over only once: give a list or a data set, or use partial_fit")
        sample = self._sample(features)
        for index in range(self.num_codebooks):
            left = self._left(sample, index)
            centers, best = spread_centers(left, self.codebook_size), float("inf")
            for iteration in range(iterations):
                counts, sums, error = torch.zeros_like(centers[:, 0]), torch.zeros_like(centers), 0.0
                for rows in self._batches(features):
                    rows = self._left(rows, index)
                    codes, distance = assign(rows, centers)
                    counts += torch.bincount(codes, minlength=self.codebook_size)
                    sums.index_add_(0, codes, rows)
                    error += distance
                centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
                if iteration + 1 == iterations or best - error < ENOUGH * error:
                    break
                best = error
                empty = (counts == 0).nonzero()[:, 0]
                if empty.numel():
                    drawn = left[torch.randperm(left.shape[0], device=left.device)[: empty.numel()]]
                    centers[empty[: drawn.shape[0]]] = drawn
                    best = float("inf")
            self._set(index, centers, counts)
        self._pending = []
        self._tell_trainers()
        return self

    @torch.no_grad()
    def partial_fit(self, features: Tensor) -> KMeansQuantizer:
        """Go on fitting to features (N, dim) that have not been seen before (mini-batch k-means, Sculley 2010).

        Every code stays the mean of all rows that it was given; one that gets few moves to a row drawn at random. The
        first rows, up to 4 for each code, are kept, and start the codebooks from k-means++ centers: until then these
        are only as good as the first call's. Raises ValueError for features of another shape, or that are not finite.
        """
        rows = self._checked(features)
        if rows.shape[0] == 0:
            return self
        if self.trainer is not None and self.initialized and self.trainer_counts.sum() == 0:  # trained, not fitted
            self.trainer_counts.copy_(torch.stack([trainer.vq._codebook.cluster_size[0] for trainer in self.trainer]))
        started = bool(self.trainer_counts.sum() > 0)
        if not started or self._pending:
            self._pending.append(rows.clone())
            enough = sum(map(len, self._pending)) >= START_ROWS * self.codebook_size
            if not started or enough:
                self._begin_from(torch.cat(self._pending))
            if enough:
                self._pending = []
            if not started or enough:
                self._tell_trainers()
                return self
        for index in range(self.num_codebooks):
            codebook, counts = self.codebooks[index], self.trainer_counts[index]
            codes, vectors = self._look_up(index, rows)
            added = torch.bincount(codes, minlength=self.codebook_size).to(counts.dtype)
            sums = torch.zeros_like(codebook).index_add_(0, codes, rows)
            counts = counts + added
            step = (sums - added[:, None] * codebook) / counts.clamp_min(1)[:, None]
            codebook = codebook + step
            least = RARE * counts.mean()
            rare = (counts < least).nonzero()[:, 0]
            drawn = rows[torch.randperm(rows.shape[0], device=rows.device)[: rare.numel()]]
            codebook[rare[: drawn.shape[0]]] = drawn
            counts[rare[: drawn.shape[0]]] = 2 * least  # or it would be moved again before it could gather rows
            self._set(index, codebook, counts)
            rows = rows - vectors
        self._tell_trainers()
        return self

    def prepare_training(self, frames_per_step: int, synchronized: bool = False) -> None:
        super().prepare_training(frames_per_step, synchronized)
        self._tell_trainers()

    def _tell_trainers(self) -> None:
        if self.trainer is not None and self.trainer_counts.sum() > 0:
            self.start_from_codebooks()

    def _begin_from(self, rows: Tensor) -> None:
        for index in range(self.num_codebooks):
            centers = spread_centers(rows, self.codebook_size)
            for _ in range(START_ITERATIONS):
                codes, _ = assign(rows, centers)
                counts = torch.bincount(codes, minlength=self.codebook_size).to(rows.dtype)
                sums = torch.zeros_like(centers).index_add_(0, codes, rows)
                centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
            self._set(index, centers, counts)
            rows = rows - self._look_up(index, rows)[1]

    def _set(self, index: int, codebook: Tensor, counts: Tensor) -> None:
        self.codebooks[index].copy_(codebook)
        self.trainer_counts[index].copy_(counts)

    def _left(self, rows: Tensor, index: int) -> Tensor:
        """What the codebooks before `index` leave of rows (N, dim)."""
        for earlier in range(index):
            rows = rows - self._look_up(earlier, rows)[1]
        return rows

    def _batches(self, features: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
        batches = [features] if isinstance(features, Tensor) else features
        return (self._checked(batch) for batch in batches)

    def _sample(self, features: Tensor | Iterable[Tensor]) -> Tensor:
        """Rows from which centers start, at random: of every batch as many."""
        wanted = START_ROWS * self.codebook_size
        held = [rows[torch.randperm(rows.shape[0], device=rows.device)[:wanted]] for rows in self._batches(features)]
        if not held or sum(map(len, held)) == 0:
            raise ValueError("there are no features to fit to")
        rows = torch.cat(held)
        return rows[torch.randperm(rows.shape[0], device=rows.device)[:wanted]]

    def _checked(self, features: Tensor) -> Tensor:
        if features.dim() != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have shape {tuple(features.shape)}: they must be (N, {self.dim})")
        if not torch.isfinite(features).all():
            raise ValueError("features are NaN or infinite: leave out such rows")
        return features.detach().to(self.codebooks.device, torch.float32)


def assign(rows: Tensor, centers: Tensor) -> tuple[Tensor, float]:
    """Code (N,) of the center (M, dim) nearest to each of rows (N, dim), and the sum of their squared distances."""
    middle = centers.mean(0)  # where it is far from zero, distances would drown in rounding
    vectors = centers - middle
    half_norms = 0.5 * vectors.square().sum(1)
    codes, error = torch.empty(rows.shape[0], dtype=torch.int64, device=rows.device), 0.0
    for start in range(0, rows.shape[0], MANY_ROWS):  # so many rows at once that their scores stay in a CPU's cache
        block = rows[start : start + MANY_ROWS] - middle
        found = nearest(block, vectors, half_norms)
        codes[start : start + MANY_ROWS] = found
        error += float((block - vectors[found]).square().sum())
    return codes, error


def spread_centers(rows: Tensor, size: int) -> Tensor:
    """Start centers (size, dim) among rows (N, dim): each is drawn by its squared distance to those drawn before
    (k-means++, Arthur and Vassilvitskii 2007), in at most 64 draws, the rows of one of which do not see each other.
    Where there are fewer different rows than centers, some are drawn twice."""
    middle = rows.mean(0)
    rows = rows - middle
    norms = rows.square().sum(1)
    chosen = torch.randint(rows.shape[0], (1,), device=rows.device)
    distance = torch.full_like(norms, torch.inf)
    newest = chosen
    while chosen.numel() < size:
        centers = rows[newest]
        near = torch.cat([(block @ centers.T * 2 - norms[newest]).amax(1) for block in rows.split(MANY_ROWS)])
        distance = torch.minimum(distance, (norms - near).clamp_min(0))
        distance[newest] = 0.0
        wanted = min(-(-size // START_DRAWS), size - chosen.numel())
        apart = int((distance > 1e-6 * norms.mean()).sum())
        if apart == 0:
            break
        newest = torch.multinomial(distance.double(), min(wanted, apart))
        chosen = torch.cat([chosen, newest])
    again = torch.randint(rows.shape[0], (size - chosen.numel(),), device=rows.device)
    return rows[torch.cat([chosen, again])] + middle
