"""Bits where they are heard: codes of all codebooks that take a mean bitrate once they are entropy-coded.

Frames differ in what errors in them cost: pauses forgive much, onsets little. With a fixed number of codebooks each frame takes the
same bits all the same. Here codes are searched by their distance, times the weight of their frame, plus a price for each bit that a
prior of the model takes (`quantizers.rate_search`), and the price is set for each block so that its bits suffice. Frames that matter little
take the smallest vectors of the upper codebooks, which the prior knows to be likely then and which cost next to nothing.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.blockwise import Blockwise
from codec.container.layout import BLOCK_FRAMES
from codec.entropy.prior import Prior
from codec.entropy.rates import Rates, contexts
from quantizers.rate_search import search
from quantizers.rvq import ResidualVQ

if TYPE_CHECKING:
    from codec.model import Codec

LEAST, MOST = 0.01, 10.0  # of such costs, in means
TRIES, SLACK = 4, 0.6  # prices that are tried at every turn, and the bits a frame that may be left unspent
PRICES = 14  # that are tried beyond, where bits have to suffice: up to e**(PRICES * STEP) times the first
FARTHEST = 1000.0  # of a price from what is usual, as a factor
SLOPE, STEP = 20.0, 0.7  # bits a frame that a price e times as high saves, about; the largest change of its logarithm
OVERHEAD = 64  # bits of each block of a file, which holds BLOCK_FRAMES frames: the prior's id and the coder's state
RESERVE = 0.1  # of a block's bits: the most that the next one may have of them, and that overhead takes
SETTINGS = LEAST, MOST, TRIES, SLACK, PRICES, FARTHEST, SLOPE, STEP, OVERHEAD, RESERVE


class Variable(NamedTuple):
    """bitrate: mean bit/s of each channel, which a fraction of a second may exceed. prior: of the model, for all of its codebooks."""

    bitrate: float
    prior: Prior


class Allocation:
    """The codes of one signal, block by block: `start` one, `search` as often as you like, and `take` what has been chosen.

    Raises ValueError for a model, a bitrate or a prior that `check` refuses.
    """

    def __init__(self, model: Codec, variable: Variable, beam: int | None = None):
        check(model, variable)
        quantizer = model.quantizer
        self._vectors, self._decode, self._encode = quantizer.codebooks.float(), quantizer.decode, quantizer.encode
        self._beam, self._rates = quantizer.check_beam(beam), Rates(variable.prior, model.device)
        self._bits_per_frame = variable.bitrate / model.frame_rate
        near = min(model.num_codebooks - 1, int(self._bits_per_frame / math.log2(model.codebook_size)))
        self._usual = self._vectors[near].square().sum(1).mean().item() / math.log2(model.codebook_size)  # price
        self._past = self._rates.none()
        self._spare, self._frames = 0.0, 0

    def start(self, latents: Tensor) -> None:
        """A block of latents (1, dim, T)."""
        self._codes = self._encode(latents, beam=1)[0]
        begun = -(-self._frames // BLOCK_FRAMES)
        self._frames += latents.shape[2]
        own = self._bits_per_frame * latents.shape[2]
        overhead = min(RESERVE * own, OVERHEAD * (-(-self._frames // BLOCK_FRAMES) - begun))
        self._budget = own + self._spare - overhead
        self._price, self._tries = self._usual, 3 * TRIES

    def search(self, latents: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
        """Codes (1, K, T) for latents (1, dim, T) of the block, what they stand for, and the bits that they take too many.

        weights (T,): of the frames' squared distances, as `spread` gives them; alike for None.
        """
        rows = latents[0].T.detach()
        weights = rows.new_ones(len(rows)) if weights is None else weights
        for _ in range(self._tries):
            self._codes = self._search(rows, weights)
            over = self._over()
            if -SLACK < over <= 0:
                break
            before, change = self._price, math.exp(max(-STEP, min(STEP, (over + SLACK / 2) / SLOPE)))
            self._price = max(self._usual / FARTHEST, min(self._usual * FARTHEST, self._price * change))
            if self._price == before:  # as in silence, where no more bits help
                break
        self._tries = TRIES
        return self._codes[None], self._decode(self._codes[None]), max(0.0, over)

    def fit(self, latents: Tensor) -> Tensor:
        """Codes (1, K, T) of the first search, or, where these take too many bits, at the lowest price met that lets the bits suffice."""
        codes, _, over = self.search(latents)
        rows, low, high = latents[0].T.detach(), self._price, None  # prices that are too low, and high enough
        for _ in range(PRICES if over else 0):
            self._price = low * math.exp(STEP) if high is None else math.sqrt(low * high)
            self._codes = self._search(rows, rows.new_ones(len(rows)))
            if self._over() > 0:
                low = self._price
            else:
                high, codes = self._price, self._codes[None]
        return self._codes[None] if high is None else codes

    def _over(self) -> float:
        """Bits a frame that the codes take too many."""
        return (self._rates.of(self._codes, self._past).item() - self._budget) / self._codes.shape[1]

    def _search(self, rows: Tensor, weights: Tensor) -> Tensor:
        past = self._rates.past(contexts(self._codes, self._past))  # as far as it is known: what the last search found

        def cost(k: int, row: Tensor, below: Tensor) -> Tensor:
            return self._rates.bits(k, past[k][row], below)

        return search(rows, self._vectors, self._price / weights, cost, self._beam).T

    def take(self, codes: Tensor) -> None:
        """The block has codes (1, K, T)."""
        unspent = self._budget - self._rates.of(codes[0], self._past).item()
        self._spare = min(unspent, RESERVE * self._bits_per_frame * codes.shape[2])
        self._past = torch.cat([self._past, codes[0]], 1)[:, -self._past.shape[1] :]


class Distribution(Blockwise):
    """Codes of all codebooks that take a mean bitrate, of the encoder's latents as they are. All frames matter alike.

    Raises ValueError as `Allocation`, and for another number of codebooks.
    """

    def __init__(self, model: Codec, batch_size: int, num_codebooks: int, variable: Variable, beam: int | None = None):
        check_count(model, num_codebooks)
        super().__init__(model, batch_size, num_codebooks)
        self._allocations = [Allocation(model, variable, beam) for _ in range(batch_size)]

    def _code(self, frames: int) -> Tensor:
        codes = []
        for row, allocation in enumerate(self._allocations):
            latents = self._latents[row : row + 1, :, :frames]
            allocation.start(latents)
            codes.append(allocation.fit(latents))
            allocation.take(codes[-1])
        return torch.cat(codes)


def spread(costs: Tensor) -> Tensor:
    """What errors in each frame cost (T,) to weights with a mean of 1: neighbours share, and extremes are cut."""
    smooth = F.avg_pool1d(F.pad(costs[None, None], (1, 1), mode="replicate"), 3, 1)[0, 0]
    relative = (smooth / smooth.mean().clamp_min(1e-30)).clamp(LEAST, MOST)
    return relative / relative.mean()


def variable_of(
    model: Codec, num_codebooks: int | None, bitrate: float | None, prior: Prior | None
) -> Variable | None:
    """What is asked for by these arguments of `encode`, None without a prior. Raises ValueError where they do not go together."""
    if prior is None or prior is False:
        return None
    if not isinstance(prior, Prior):
        raise ValueError(f"variable={prior!r}: give the prior that bits are counted by, codec.entropy.prior_of(NAME, variable=True)")
    if bitrate is None or num_codebooks is not None:
        raise ValueError("variable wants bitrate, which it distributes over all codebooks, and no num_codebooks")
    variable = Variable(bitrate, prior)
    check(model, variable)
    return variable


def check(model: Codec, variable: Variable) -> None:
    """Raise ValueError where there is nothing to choose from, or no bits to choose by."""
    check_quantizer(model)
    least, most = model.bitrate(1), model.bitrate()
    if not isinstance(variable.bitrate, Real) or not least <= variable.bitrate <= most:
        raise ValueError(f"bitrate={variable.bitrate!r}: with variable it must be {least:g} to {most:g} bit/s "
                         f"({least / 1000:g} to {most / 1000:g} kbit/s) for {model.config.name}")
    if variable.prior.sizes != model.codebook_sizes:
        raise ValueError(f"the prior is for codebooks of {variable.prior.sizes}, and has to be for all of {model.config.name}, "
                         f"{model.codebook_sizes}: take codec.entropy.prior_of(…, variable=True)")


def check_count(model: Codec, num_codebooks: int) -> None:
    """Raise ValueError for some of a model's codebooks."""
    if num_codebooks != model.num_codebooks:
        raise ValueError(f"num_codebooks={num_codebooks}: a variable bitrate is for all {model.num_codebooks} of them")


def check_quantizer(model: Codec) -> None:
    """Raise ValueError for codebooks that bits cannot be distributed over."""
    if not isinstance(model.quantizer, ResidualVQ):
        raise ValueError(f"the codebooks of {model.config.name} are not plain residual ones (rvq, kmeans), and only of those are bits "
                         "distributed: leave variable out, or take speech-16k")
