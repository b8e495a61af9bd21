"""SimVQ (Zhu et al. 2024, https://arxiv.org/abs/2411.02038): codebooks that are trained as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from quantizers import beam_search
from quantizers.base import Quantizer, QuantizerOutput, power, straight_through, usage_stats
from quantizers.beam_search import check_beam
from quantizers.codebook import DEAD, Processes, mean_square, spread
from quantizers.projection import Kept
from quantizers.search import MANY_ROWS, nearest
from quantizers.start import kmeans

KMEANS_ITERS = 10
LEAST_VARIANCE = 1e-6  # of an axis of a codebook, of the widest one's


class SimVQ(Quantizer):
    """K codebooks, each quantizing what the ones before it left over; the first k decode for every k.

    A codebook is a frozen Gaussian one times a learnt linear map, plus a learnt bias: what moves one code moves all of
    them, so that none is left behind. Codes are those of `vector_quantize_pytorch.SimVQ` for the same codebook and map
    (its bias is 0). Codebooks start from the first latents of training, or from `initialize`: where these are at least
    twice as many as the codes, vectors are their k-means, kept as white numbers in the frozen codebook and a map that
    colours them. Of fewer latents the frozen codebook stays Gaussian, as in the paper, and codes are drawn from the
    Gaussian that random coding would draw them from at this rate (reverse water-filling), for the latents' mean and
    covariance: of real latents many such codes lie where there are none, and are not used.

    losses: "codebook" moves the map to the latents and "commitment" the latents to the codes; `quantized` passes
    gradients straight through to the latents.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        beam: width of the search in encoding (`beam_search`): 1 is greedy, wider is better and slower. Training is
            greedy.
    """

    def __init__(self, dim: int, num_codebooks: int = 1, codebook_size: int = 1024, beam: int = 1) -> None:
        super().__init__(dim, (codebook_size,) * num_codebooks)
        self.codebook_size, self.beam = codebook_size, check_beam(beam)
        self.register_buffer("frozen", torch.randn(num_codebooks, codebook_size, dim) * dim**-0.5)
        self.maps = nn.Parameter(torch.empty(num_codebooks, dim, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.bias = nn.Parameter(torch.zeros(num_codebooks, dim))
        self.register_buffer("trainer_started", torch.tensor(False))
        self.processes: Processes | None = None
        self._kept = Kept()

    @property
    def codebooks(self) -> Tensor:
        """(K, size, dim), with gradients to the maps."""
        return torch.stack([self._fold(index) for index in range(self.num_codebooks)]) + self.bias.float()[:, None]

    def _fold(self, index: int) -> Tensor:
        """Codebook (size, dim) without its bias."""
        return self.frozen[index].float() @ self.maps[index].float().T

    # Coding

    def _tables(self) -> list[tuple[Tensor, Tensor]]:
        """Of each codebook the vectors without bias (size, dim) and half of their squared norms (size,)."""
        def make() -> list[tuple[Tensor, Tensor]]:
            folded = [self._fold(index).detach() for index in range(self.num_codebooks)]
            return [(vectors, 0.5 * vectors.square().sum(1)) for vectors in folded]

        return self._kept.of([self.frozen, self.maps], make)

    def _search(self, index: int, rows: Tensor, vectors: Tensor, half_norms: Tensor) -> Tensor:
        rows = rows - self.bias[index].detach().float()
        codes = rows.new_empty(rows.shape[0], dtype=torch.int64)
        for start in range(0, rows.shape[0], MANY_ROWS):  # so many rows at once that their scores stay in a CPU's cache
            codes[start : start + MANY_ROWS] = nearest(rows[start : start + MANY_ROWS], vectors, half_norms)
        return codes

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        batch, _, frames = latents.shape
        residual = latents.mT.reshape(batch * frames, self.dim)
        codes = []
        for index, (vectors, half_norms) in enumerate(self._tables()[:k]):
            codes.append(self._search(index, residual, vectors, half_norms))
            residual = residual - (vectors[codes[-1]] + self.bias[index].detach().float())
        return torch.stack(codes).reshape(k, batch, frames).transpose(0, 1)

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        tables = [beam_search.Table(*table) for table in self._tables()[:k]]
        middle = self.bias[:k].detach().float().sum(0)
        return beam_search.encode(latents, tables, beam, self._decode, middle)

    def _decode(self, codes: Tensor) -> Tensor:
        tables, bias = self._tables(), self.bias.detach().float()
        return sum(tables[index][0][codes[:, index]] + bias[index] for index in range(codes.shape[1])).mT

    # Training

    def prepare_training(self, frames_per_step: int, synchronized: bool = False) -> None:
        """synchronized: the maps start from the latents of all processes of torch.distributed."""
        self.processes = Processes(synchronized)

    @property
    def initialized(self) -> bool:
        """Whether the maps have started from latents, or are to be kept."""
        return bool(self.trainer_started)

    def start_from_codebooks(self) -> None:
        """Keep the maps that are there."""
        self.trainer_started.fill_(True)

    def initialize(self, latents: Tensor) -> None:
        """Start the maps from latents (B, dim, T). Raises ValueError for another shape, or where they are not
        finite."""
        self.check_latents(latents)
        if not torch.isfinite(latents).all():
            raise ValueError("latents are NaN or infinite: the quantizer cannot start from them")
        self._start(latents.mT.reshape(-1, self.dim).float())

    @torch.no_grad()
    def _start(self, rows: Tensor) -> None:
        """Start codebooks and maps, one after the other, from all processes' rows (N, dim), unless these are all the
        same: then from the next."""
        self.processes = processes = self.processes or Processes.in_use()
        count = processes.sum(torch.tensor(float(rows.shape[0]), device=rows.device)).clamp_min(1)
        for index in range(self.num_codebooks):
            mean = processes.sum(rows.sum(0)) / count
            covariance = processes.sum((rows - mean).T @ (rows - mean)) / count
            if index == 0 and covariance.diagonal().sum() <= 0:
                return
            if count >= 2 * self.codebook_size:
                centers, _ = kmeans(rows, self.codebook_size, KMEANS_ITERS, processes, least=DEAD)
                self.frozen[index], matrix, mean = _whitened(processes.share(centers))
            else:
                matrix = _spread_of_codes(covariance, math.log2(self.codebook_size)) * math.sqrt(self.dim)
            self.maps[index], self.bias[index] = processes.share(matrix), processes.share(mean)
            processes.share(self.frozen[index])
            vectors = self._fold(index)
            codes = self._search(index, rows, vectors, 0.5 * vectors.square().sum(1))
            rows = rows - vectors[codes] - mean
        self.trainer_started.fill_(True)

    def _visits(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tables, with gradients to the maps in training."""
        if not (self.training and torch.is_grad_enabled()):
            yield from self._tables()
            return
        for index in range(self.num_codebooks):
            vectors = self._fold(index)
            yield vectors, 0.5 * vectors.detach().square().sum(1)

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        rows = latents.mT[mask]  # (N, dim): padding is seen by nothing below
        if self.training and not self.initialized:
            self._start(rows)
        reach = active[:, None].expand(mask.shape)[mask]  # codebooks (N,) of each frame
        level = power(rows[None], torch.ones_like(reach, dtype=torch.bool)[None])
        residual, output = rows, torch.zeros_like(rows)
        codes, learnt, commitment, error = [], [], [], []
        for index, (vectors, half_norms) in enumerate(self._visits()):
            codes.append(self._search(index, residual.detach(), vectors.detach(), half_norms))
            chosen = vectors[codes[-1]] + self.bias[index].float()
            used = (index < reach)[:, None]
            learnt.append(mean_square((residual.detach() - chosen) * used) / level)
            residual = residual - chosen.detach()
            commitment.append(mean_square(residual * used) / level)
            output = output + chosen.detach() * used
            error.append(mean_square(residual.detach()) / level)
        all_codes = spread(torch.stack(codes, 1), mask).mT
        return QuantizerOutput(
            quantized=spread(straight_through(rows, output), mask).mT,
            codes=all_codes,
            losses={"codebook": torch.stack(learnt).mean(), "commitment": torch.stack(commitment).mean()},
            stats={"relative_error": torch.stack(error)} | usage_stats(all_codes, mask, self.codebook_sizes),
        )


def _whitened(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (size, dim) as white numbers (size, dim) of variance 1 / dim, the map (dim, dim) of these to them, and
    their mean (dim,)."""
    mean = vectors.mean(0)
    centered = (vectors - mean).double()
    variance, axes = torch.linalg.eigh(centered.T @ centered / vectors.shape[0])
    spread = (variance.clamp_min(LEAST_VARIANCE * variance.max()).clamp_min(1e-20) * vectors.shape[1]).sqrt()
    return (centered @ (axes / spread) @ axes.T).float(), ((axes * spread) @ axes.T).float(), mean


def _spread_of_codes(covariance: Tensor, bits: float) -> Tensor:
    """Matrix (dim, dim) that takes white noise to the codes of least mean squared error for Gaussian rows of
    `covariance` at `bits` a row: along each principal axis the variance less the error (Cover and Thomas, Elements of
    Information Theory, 10.3.3)."""
    variance, axes = torch.linalg.eigh(covariance.double())
    logs = variance.flip(0).clamp_min(1e-30).log2()  # the widest axis first
    water = (logs.cumsum(0) - 2 * bits) / torch.arange(1, len(logs) + 1, device=logs.device)  # of the first m axes
    used = int((logs > water).sum())  # those with more variance than error come first
    kept = (variance - 2 ** water[used - 1]).clamp_min(0)
    return ((axes * kept.sqrt()) @ axes.T).float()
