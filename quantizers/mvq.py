"""Multi-codebook vector quantization: unordered additive codebooks, searched jointly.

The method is that of D. Povey (https://github.com/danpovey/quantization), known for the teacher's targets of SPEAR
(https://arxiv.org/abs/2510.25955). `joint_search` explains the search, `mvq_fit` fits codebooks to given features.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from quantizers import beam_search
from quantizers.base import QuantizerOutput, straight_through, usage_stats
from quantizers.beam_search import check_beam
from quantizers.codebook import CodebookTrainer, mean_square, power_of, spread
from quantizers.joint_search import BEAM, BLOCK_FRAMES, FULL_SIZE, MAX_ENTRIES, JointSearch, PreparedSearches
from quantizers.processes import Processes
from quantizers.search import nearest, products
from quantizers.start import DataStartedQuantizer

if TYPE_CHECKING:
    import numpy as np

STARTS = ("beam", "predicted")
TRAINING_BEAM = 8
PREDICTION_WEIGHT, ENTROPY_WEIGHT = 0.1, 0.001


class Stage(NamedTuple):
    """Codebooks that are searched together: numbers first to last - 1."""

    index: int
    first: int
    last: int


class MultiCodebookVQ(DataStartedQuantizer):
    """K codebooks whose vectors add up to the latents. No order is among them, so all K are needed to decode, unless
    `stages` nests them: each stage is searched jointly on what the stages before it left over, and decodes with them.

    In training codebooks start by residual k-means and follow moving averages of what the others leave them.

    Args:
        dim: width of the latents.
        num_codebooks, codebook_size: K and the number of vectors in each.
        stages: codebooks of each stage, say (3, 3, 2), which adds up to K; one stage by default.
        rounds: of refinement in encoding; training takes 1 or 2. 0 is no joint search at all: the classifier's indices,
            or each codebook's nearest vector in turn.
        start: where refinement starts: "beam" from a beam search through the codebooks in turn, "predicted" from a
            linear classifier of the latents, as in the source of the method, which `forward` trains and `fit_mvq` fits.
            The beam's codes are better for the same time.
        beam: with one stage the width of that search, 48 by default: wider is slower and better; training takes 8 at
            most. With several it is 1 by default: each is searched in turn, from a beam of 48. Above 1, that many
            choices are followed through the codebooks of all (`beam_search`): codes survive decoding and encoding
            again, and from 8 on the error is smaller, but the first stages alone decode worse.
        decay: of the moving averages that train the codebooks.
        kmeans_iters: iterations of k-means from which they start.
        settle: encoding goes on to codes that survive decoding and encoding again, in about twice the time and with an
            error a few percent larger. For one stage that starts from a beam, where it is the default unless the search is
            exhaustive or has no rounds; several stages have a beam for that.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 8, codebook_size: int = 256, stages: tuple[int, ...] | None = None,
        rounds: int = 5, start: str = "beam", beam: int | None = None, decay: float = 0.99, kmeans_iters: int = 10,
        settle: bool | None = None,
    ) -> None:
        super().__init__(dim, (codebook_size,) * num_codebooks)
        sizes = (num_codebooks,) if stages is None else tuple(stages)
        if min(sizes, default=0) < 1 or sum(sizes) != num_codebooks:
            raise ValueError(f"stages={sizes}: each must be at least 1 and all add up to num_codebooks={num_codebooks}")
        if max(sizes) > 1 and max(sizes) * codebook_size > MAX_ENTRIES:
            raise ValueError(
                f"{max(sizes)} codebooks of {codebook_size} are too many to be searched jointly: have at most {MAX_ENTRIES} "
                "vectors in a stage by fewer or smaller codebooks, or more stages"
            )
        if rounds < 0:
            raise ValueError(f"rounds={rounds}: it must be 0 or more; 5 is enough")
        if start not in STARTS:
            raise ValueError(f"start={start!r}: there is {' and '.join(STARTS)}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} is outside [0, 1): 0.99 averages over about 100 steps")
        if kmeans_iters < 1:
            raise ValueError(f"kmeans_iters={kmeans_iters}: at least 1 is needed")
        if settle and start != "beam":
            raise ValueError('settle=True: what a classifier predicts of decoded latents is too far off; set start="beam"')
        if settle and len(sizes) > 1:
            raise ValueError(f"settle=True is for one stage, and stages={sizes} are several: give them beam=16")
        if settle is None:
            exhaustive = num_codebooks == 1 or num_codebooks == 2 and codebook_size <= FULL_SIZE
            settle = start == "beam" and len(sizes) == 1 and rounds > 0 and not exhaustive
        if beam is None:
            beam = BEAM if len(sizes) == 1 else 1
        self.codebook_size, self.rounds, self.start, self.beam = codebook_size, rounds, start, check_beam(beam)
        self.decay, self.kmeans_iters, self.settle = decay, kmeans_iters, settle
        ends = list(itertools.accumulate(sizes))
        self.stages = tuple(Stage(n, end - size, end) for n, (size, end) in enumerate(zip(sizes, ends)))
        codebooks = torch.empty(num_codebooks, codebook_size, dim).uniform_(-1.0, 1.0) / num_codebooks
        self.register_buffer("codebooks", codebooks)
        # The latents' mean and scale at the start, for accuracy and for a classifier at ease; fixed from there on.
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        predicted = sizes if start == "predicted" else ()
        self.to_logits = nn.ModuleList(nn.Linear(dim, size * codebook_size) for size in predicted)
        self._searches = PreparedSearches()
        self._processes = Processes(False)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(stage.last for stage in self.stages)

    @property
    def id(self) -> str:
        """8 hex digits of all that codes depend on: codes kept with it cannot be mixed up with those of another."""
        search = (self.codebook_sizes, self.counts, self.rounds, self.start, self.beam) + ("settle",) * self.settle
        digest = hashlib.sha256(repr(search).encode())
        for name, tensor in sorted(self.inference_state().items()):
            digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    # Coding

    def encode_bytes(self, features: Tensor | np.ndarray) -> Tensor:
        """features (N, dim) to codes (N, K) uint8. Raises ValueError where codes do not fit into bytes."""
        self._check_bytes()
        features = torch.as_tensor(features).to(self.codebooks.device)
        if features.dim() != 2:
            raise ValueError(f"features have shape {tuple(features.shape)}: they must be (N, {self.dim})")
        return self.encode(features.T[None])[0].T.to(torch.uint8)

    def decode_bytes(self, codes: Tensor | np.ndarray) -> Tensor:
        """codes (N, K) uint8 to features (N, dim) float32."""
        self._check_bytes()
        codes = torch.as_tensor(codes).to(self.codebooks.device)
        if codes.dim() != 2:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: they must be (N, {self.num_codebooks})")
        return self.decode(codes.T[None].long())[0].T

    def _check_bytes(self) -> None:
        if self.codebook_size > 256:
            raise ValueError(f"codes of {self.codebook_size} vectors do not fit into bytes: use encode and decode")

    def _encode(self, latents: Tensor, k: int) -> Tensor:
        return self._encode_by_beam(latents, k, 1)

    def _encode_by_beam(self, latents: Tensor, k: int, beam: int) -> Tensor:
        batch, dim, frames = latents.shape
        stages = self.stages[: self.counts.index(k) + 1]
        if len(stages) > 1 and beam > 1:
            books = self.codebooks[:k].float()
            tables = [beam_search.Table(*table) for table in zip(books, 0.5 * books.square().sum(2))]
            return beam_search.encode(latents, tables, beam, self._decode, self.mean)
        rows = latents.mT.reshape(batch * frames, dim)
        if self.settle:
            codes, _ = beam_search.settled(
                rows,
                propose=lambda rows: self._in_turn(stages, rows, beam)[:, None],
                restore=lambda codes: self._decode(codes[:, :, None])[:, :, 0],
            )
        else:
            codes = self._in_turn(stages, rows, beam)
        return codes.reshape(batch, frames, k).mT.contiguous()

    def _in_turn(self, stages: tuple[Stage, ...], rows: Tensor, beam: int) -> Tensor:
        """rows (N, dim) to codes (N, k): each stage is searched on what those before it leave over."""
        left, codes = rows - self.mean, []
        for stage in stages:
            found = self._find(stage, left, beam)
            left = left - self._vectors(stage, found)
            codes.append(found)
        return torch.cat(codes, 1)

    def _decode(self, codes: Tensor) -> Tensor:
        total = self.mean.expand(codes.shape[0], codes.shape[2], self.dim)
        for index in range(codes.shape[1]):
            total = total + self.codebooks[index][codes[:, index]]
        return total.mT

    def _search(self, stage: Stage) -> JointSearch:
        return self._searches.of(stage.index, self.codebooks[stage.first : stage.last].float())

    def _width(self, beam: int) -> int:
        """Of the beam that the joint search of a stage starts from."""
        return beam if len(self.stages) == 1 else BEAM

    def _find(self, stage: Stage, left: Tensor, beam: int) -> Tensor:
        return self._look_up(stage, left, self.rounds, self._width(beam) if self.rounds else 1, self.start)

    def _find_roughly(self, stage: Stage, left: Tensor) -> Tensor:
        """What training makes do with."""
        width = min(self._width(self.beam), TRAINING_BEAM)
        return self._look_up(stage, left, int(torch.randint(1, 3, ())), width, self.start)

    @torch.no_grad()
    def _look_up(self, stage: Stage, left: Tensor, rounds: int, beam: int, start: str) -> Tensor:
        """left (N, dim), what the stages before left over, to codes (N, C) of a stage."""
        search = self._search(stage)
        codes = left.new_empty(left.shape[0], stage.last - stage.first, dtype=torch.int64)
        for first in range(0, left.shape[0], BLOCK_FRAMES):
            block = left[first : first + BLOCK_FRAMES].contiguous()
            unary = search.unary(block)
            found = self._predict(stage, block) if start == "predicted" else search.start(unary, beam)
            codes[first : first + BLOCK_FRAMES] = search.refine(unary, found, rounds)
        return codes

    def _predict(self, stage: Stage, left: Tensor) -> Tensor:
        """left (N, dim) to the classifier's most likely codes (N, C)."""
        layer = self.to_logits[stage.index]
        logits = products(left / self.scale, layer.weight.T, layer.bias)
        return logits.reshape(left.shape[0], -1, self.codebook_size).argmax(2)

    def _vectors(self, stage: Stage, codes: Tensor) -> Tensor:
        """codes (N, C) of a stage to the sum (N, dim) of their vectors."""
        total = self.codebooks[stage.first][codes[:, 0]]
        for index in range(1, codes.shape[1]):
            total = total + self.codebooks[stage.first + index][codes[:, index]]
        return total

    # Training

    def _codebook(self, index: int) -> Tensor:
        return self.codebooks[index]

    def _build_trainers(self, frames_per_step: int, processes: Processes) -> nn.ModuleList:
        self._processes = processes
        return nn.ModuleList(
            CodebookTrainer(self.dim, self.codebook_size, frames_per_step, self.decay, self.kmeans_iters, processes)
            for _ in range(self.num_codebooks)
        )

    @torch.no_grad()
    def _start(self, rows: Tensor, mask: Tensor) -> None:
        processes = self._processes
        total = processes.sum(torch.tensor(float(rows.shape[0]), device=rows.device))
        if total == 0:
            return
        self.mean.copy_(processes.sum(rows.sum(0)) / total)
        left = rows - self.mean
        self.scale.copy_((processes.sum(left.square().sum()) / total / self.dim).sqrt().clamp_min(1e-6))
        for stage in self.stages:
            self._start_stage(stage, left)
            left = left - self._vectors(stage, self._find(stage, left, self.beam))

    def _start_stage(self, stage: Stage, rows: Tensor) -> None:
        """Residual k-means on rows (N, dim)."""
        left = rows
        for index in range(stage.first, stage.last):
            self.trainer[index].start(left)
            self.codebooks[index] = self.trainer[index].codebook
            codes = [nearest(block, self.codebooks[index]) for block in left.split(BLOCK_FRAMES)]
            left = left - self.codebooks[index][torch.cat(codes)]
        if self.start == "predicted":
            self.fit_predictor(stage, rows, self._look_up(stage, rows, self.rounds, self._width(self.beam), "beam"))

    @torch.no_grad()
    def fit_predictor(self, stage: Stage, rows: Tensor, codes: Tensor) -> None:
        """Fit the classifier of a stage to tell codes (N, C) from rows (N, dim): linear discriminants, which take each
        class for a Gaussian around its own mean with a covariance that all classes of a codebook share."""
        processes = self._processes
        rows = rows / self.scale
        total = processes.sum(torch.tensor(float(rows.shape[0]), device=rows.device)).clamp_min(1)
        second = processes.sum(rows.T @ rows) / total
        weights, biases = [], []
        for column in codes.unbind(1):
            counts = processes.sum(torch.bincount(column, minlength=self.codebook_size).to(rows.dtype))
            sums = processes.sum(torch.zeros_like(self.codebooks[0]).index_add_(0, column, rows))
            means = sums / (counts[:, None] + 1)
            within = second - means.T @ (means * counts[:, None]) / total
            within.diagonal().add_(0.01 * second.diagonal().mean() + 1e-6)
            weight = torch.linalg.solve(within, means.T).T
            weights.append(weight)
            biases.append(((counts + 1) / total).log() - 0.5 * (weight * means).sum(1))
        self.to_logits[stage.index].weight.copy_(torch.cat(weights))
        self.to_logits[stage.index].bias.copy_(torch.cat(biases))

    def _train_step(self, latents: Tensor, active: Tensor, mask: Tensor) -> QuantizerOutput:
        rows = latents.mT[mask]  # (N, dim): padding is seen by nothing below
        if self.training:
            self._prepare_step(rows, mask)
        reach = active[:, None].expand(mask.shape)[mask]  # codebooks (N,) of each frame
        level = power_of(rows)
        left = rows - self.mean
        output = self.mean.expand_as(rows)
        codes, commitment, error, predictions = [], [], [], []
        for stage in self.stages:
            source = left.detach()
            found = self._find_roughly(stage, source) if self.training else self._find(stage, source, self.beam)
            vectors = self._vectors(stage, found)
            if self.training and self.start == "predicted":
                predictions.append(self._prediction_losses(stage, source, found))
            if self.training and self.initialized:
                self._follow(stage, source, found)
            used = (stage.last <= reach)[:, None]
            left, output = left - vectors, output + vectors * used
            codes.append(found)
            commitment.append(mean_square(left * used) / level)
            error += [mean_square(left.detach()) / level] * found.shape[1]
        losses = {"commitment": torch.stack(commitment).mean()}
        if predictions:
            prediction, entropy = torch.stack(predictions).mean(0)
            losses |= {"prediction": PREDICTION_WEIGHT * prediction, "prediction_entropy": ENTROPY_WEIGHT * entropy}
        all_codes = spread(torch.cat(codes, 1), mask).mT
        return QuantizerOutput(
            quantized=spread(straight_through(rows, output), mask).mT,
            codes=all_codes,
            losses=losses,
            stats={"relative_error": torch.stack(error)} | usage_stats(all_codes, mask, self.codebook_sizes),
        )

    @torch.no_grad()
    def _follow(self, stage: Stage, rows: Tensor, codes: Tensor) -> None:
        """Move each codebook to what the others leave of rows (N, dim), one after the other: each sees the others as
        they are by then, so that together they do not overshoot."""
        left = rows - self._vectors(stage, codes)
        for index, column in zip(range(stage.first, stage.last), codes.unbind(1)):
            target = left + self.codebooks[index][column]
            self.trainer[index].follow(target, column)
            self.codebooks[index] = self.trainer[index].codebook
            left = target - self.codebooks[index][column]

    def _prediction_losses(self, stage: Stage, rows: Tensor, codes: Tensor) -> Tensor:
        """(2,): cross-entropy of the refined codes (N, C), and by how much the average prediction falls short of using
        all codes alike. Both train the classifier alone."""
        frames = max(1, rows.shape[0])
        logits = self.to_logits[stage.index](rows / self.scale).unflatten(1, (-1, self.codebook_size)).log_softmax(2)
        cross_entropy = -logits.gather(2, codes[..., None]).sum() / (frames * codes.shape[1])
        average = logits.exp().sum(0) / frames
        shortfall = (average * (average * self.codebook_size).clamp_min(1e-9).log()).sum(1).mean()
        return torch.stack([cross_entropy, shortfall])
