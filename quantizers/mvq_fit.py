"""Fit multi-codebook vector quantization to features at hand, such as those of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantizers.codebook import mean_square
from quantizers.joint_search import BLOCK_FRAMES, JointSearch
from quantizers.mvq import MultiCodebookVQ
from quantizers.processes import Processes
from quantizers.search import nearest
from quantizers.start import kmeans

if TYPE_CHECKING:
    import numpy as np

BYTES = (1, 2, 4, 8, 16, 32)
CODEBOOK_SIZE = 256
HELD_OUT = 0.05  # of the features, in HELD_OUT_PIECES: neighbours are alike, and would tell of each other
HELD_OUT_PIECES = 10
SHRINKAGE = 0.3
SWEEPS = 10
FITTING_BEAM, FITTING_ROUNDS = 16, 1

Progress = Callable[[int, int, float], None]  # (iteration, iterations, held-out relative error)


@torch.no_grad()
def fit_mvq(
    features: Tensor | np.ndarray, bytes_per_frame: int = 8, *, iterations: int = 6, seed: int = 0,
    start: str = "beam", progress: Progress | None = None,
) -> MultiCodebookVQ:
    """Fit a quantizer of `bytes_per_frame` codebooks of 256 vectors to features (N, D), float of any precision, finite.

        quantizer = fit_mvq(features, bytes_per_frame=8)
        codes = quantizer.encode_bytes(features)    # (N, 8) uint8
        features = quantizer.decode_bytes(codes)    # (N, D) float32

    Alternating least squares, as additive quantization is fitted (Babenko and Lempitsky 2014; LSQ, Martinez et al.
    2016, https://arxiv.org/abs/1608.05477): residual k-means, then `iterations` of joint search and of the centers that
    are best for the codes found. Ridge regression keeps centers from learning their few frames by heart: along each
    principal axis they are shrunk by the noise left there, against the variance that they explain. The iteration with
    the least error on held-out features is returned. 30,000 frames of 512 at 8 bytes take under a minute of one core.

    iterations: 0 leaves residual k-means. seed: of the k-means; the caller's random state is left alone.
    start: of the search, see `MultiCodebookVQ`. progress: called as (iteration, iterations, held-out relative error).
    Raises ValueError for another shape, another number of bytes, values that are not finite and too few frames.
    """
    rows = _checked(features, bytes_per_frame, iterations)
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)
        quantizer = MultiCodebookVQ(rows.shape[1], bytes_per_frame, CODEBOOK_SIZE, start=start, settle=False)
        quantizer = quantizer.to(rows.device).eval()
        mean = rows.mean(0)
        rows = rows - mean
        scale = rows.square().mean().sqrt().clamp_min(1e-20)
        # Among orthonormal axes distances are what they were, and noise is told from signal.
        axes = torch.linalg.eigh((rows.T @ (rows / scale)).double()).eigenvectors.to(rows.dtype)
        rows = rows @ axes / scale
        known, held_out = _split(rows)
        centers, codes = _residual_kmeans(known, bytes_per_frame)

    best, least = centers, _error(centers, held_out, _encode(centers, held_out))
    for iteration in range(iterations if bytes_per_frame > 1 else 0):
        centers = _least_squares(centers, known, codes)
        error = _error(centers, held_out, _encode(centers, held_out))
        if iteration + 1 < iterations:
            codes = _encode(centers, known)
        if error < least:
            best, least = centers, error
        if progress is not None:
            progress(iteration + 1, iterations, error)

    quantizer.mean.copy_(mean)
    quantizer.scale.copy_(scale)
    quantizer.codebooks.copy_(best @ axes.T * scale)
    if start == "predicted":
        codes = _encode(best, known)
        quantizer.fit_predictor(quantizer.stages[0], known @ axes.T * scale, codes)
    return quantizer


def _checked(features: Tensor | np.ndarray, bytes_per_frame: int, iterations: int) -> Tensor:
    rows = features if isinstance(features, Tensor) else torch.as_tensor(features.copy())  # of any strides
    if rows.dim() != 2 or rows.shape[1] < 1:
        raise ValueError(f"features have shape {tuple(rows.shape)}: they must be (N, D), one row a frame")
    if not rows.is_floating_point():
        raise ValueError(f"features are {rows.dtype}: they must be float")
    if bytes_per_frame not in BYTES:
        raise ValueError(f"bytes_per_frame={bytes_per_frame}: it must be one of {', '.join(map(str, BYTES))}")
    if iterations < 0:
        raise ValueError(f"iterations={iterations}: it must be 0 or more; 6 are enough")
    if rows.shape[0] < 4 * CODEBOOK_SIZE:
        least = 4 * CODEBOOK_SIZE
        raise ValueError(f"{rows.shape[0]} frames cannot fit {CODEBOOK_SIZE} vectors: give at least {least}, better 30,000")
    rows = rows.detach().float()
    if not torch.isfinite(rows).all():
        raise ValueError("features are NaN or infinite: drop such frames, or look for them in what made the features")
    return rows


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to fit and rows held out."""
    piece = max(1, int(rows.shape[0] * HELD_OUT / HELD_OUT_PIECES))
    period = rows.shape[0] // HELD_OUT_PIECES
    held = torch.arange(rows.shape[0], device=rows.device) % period >= period - piece
    return rows[~held], rows[held]


def _residual_kmeans(rows: Tensor, codebooks: int) -> tuple[Tensor, Tensor]:
    """Centers (C, K, D) and codes (N, C) of rows (N, D)."""
    left, centers, codes = rows, [], []
    for _ in range(codebooks):
        found, _ = kmeans(left, CODEBOOK_SIZE, 10, Processes(False))
        centers.append(found)
        codes.append(torch.cat([nearest(block, found) for block in left.split(BLOCK_FRAMES)]))
        left = left - found[codes[-1]]
    return torch.stack(centers), torch.stack(codes, 1)


def _encode(centers: Tensor, rows: Tensor) -> Tensor:
    """Codes (N, C) of rows (N, D). Starting anew each time is better than refining the codes of the last iteration."""
    search, found = JointSearch(centers), []
    for first in range(0, rows.shape[0], BLOCK_FRAMES):
        unary = search.unary(rows[first : first + BLOCK_FRAMES])
        found.append(search.refine(unary, search.start(unary, FITTING_BEAM), FITTING_ROUNDS))
    return torch.cat(found)


def _sum(centers: Tensor, codes: Tensor) -> Tensor:
    return sum(centers[index][codes[:, index]] for index in range(codes.shape[1]))


def _error(centers: Tensor, rows: Tensor, codes: Tensor) -> float:
    return float(mean_square(rows - _sum(centers, codes)) / mean_square(rows).clamp_min(1e-20))


def _least_squares(centers: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    """Centers (C, K, D) that are better for codes (N, C) of rows (N, D), by the normal equations of ridge regression.

    These say that each center is the average of what the others leave of its frames, and are solved by making it so
    for one codebook after the other, SWEEPS times (block Gauss-Seidel). How often two entries meet is all that this
    needs to know of the codes; the frames are not looked at again.
    """
    codebooks, size, dim = centers.shape
    together = rows.new_zeros(codebooks, size, codebooks, size)  # frames with entry k of codebook n and l of m
    sums = rows.new_zeros(codebooks, size, dim)
    for n in range(codebooks):
        sums[n].index_add_(0, codes[:, n], rows)
        for m in range(codebooks):
            if m != n:
                pair = torch.bincount(codes[:, n] * size + codes[:, m], minlength=size * size)
                together[n, :, m] = pair.view(size, size).to(rows.dtype)
    counts = torch.stack([torch.bincount(column, minlength=size) for column in codes.unbind(1)]).to(rows.dtype)
    noise = (rows - _sum(centers, codes)).square().mean(0)
    variance = rows.square().mean(0)
    ridge = SHRINKAGE * codebooks * noise / torch.maximum(variance - noise, 0.02 * variance).clamp_min(1e-20)  # (D,)
    ridge = ridge.clamp(SHRINKAGE, 1000.0)
    centers = centers.clone()
    for _ in range(SWEEPS):
        for n in range(codebooks):
            others = together[n].reshape(size, -1) @ centers.view(-1, dim)
            centers[n] = (sums[n] - others) / (counts[n, :, None] + ridge)
    return centers
