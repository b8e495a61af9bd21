"""Analysis by synthesis: an encoder that listens to what its codes decode to.

An encoder gives its latents once. Here they are moved, step by step, against the gradient of a loss between recording and decoded
audio, through the decoder and (straight through) the quantizer; of all codes met on the way the best ones are taken. Speech codecs have
searched like this since CELP (Schroeder and Atal, 1985); with gradients through a neural decoder it is as in Yang, Bamler and
Mandt, "Improving inference for neural image compression", 2020. Decoders know nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.allocation import Allocation, Distribution, Variable, check_count, spread
from codec.audio.equalizer import Equalizer
from codec.blockwise import BLOCK, PART, Blockwise
from codec.coding import Encoding

if TYPE_CHECKING:
    from codec.model import Codec

VERSION = 2  # to be raised where a loss, its weights or the descent change otherwise than by the constants below
AHEAD = 0.16  # seconds behind a block in which it is still heard
SHORTEST = 0.256  # seconds that the losses are given at least
TAIL = 0.128  # seconds in which an equalizer dies away
RATE = 0.08  # of Adam at first, in RMS of the latents; it falls to 0 in a line
BETAS = 0.8, 0.95
COMMITMENT = 0.1  # weight of the latents' distance from their codes, in squares of their RMS
LEAST_RATE = 16_000  # Hz, of a model for the losses below
LOSSES: tuple[Mapping[str, Any], ...] = (  # entries of `codec.training.losses.SpectralLosses`
    {"name": "compressed_stft", "weight": 18.0, "options": {"exponent": 1, "complex_share": 0.33}},
    {"name": "pesq", "weight": 3.5},
    {"name": "stoi", "weight": 30.0},
    {"name": "speaker", "weight": 7.0, "options": {"features": 2.0}},
)
VOICE = 1500, 3000, 1.5  # bit/s between which, at a variable bitrate, the weight of `speaker` grows, by this power of the bitrate


class Refinement(Blockwise):
    """Refined codes.

    num_codebooks, beam  as in `Codec.encode`.
    steps   of the descent. Each takes a forward and a backward pass of the decoder.
    losses  that are to fall, `LOSSES` by default, which are for speech: entries of a recipe's `loss.spectral`.
    variable  codes of all codebooks that take a mean bitrate once they are entropy-coded (`codec.allocation`): frames where the loss
            has the larger squared gradients get more of it. With all codebooks alone.
    eq_db   of each row, the gains of the equalizer that it has been through (`Correction.eq_db`), or none: recording and decoded
            audio are compared without it, as they will be heard.

    Raises ValueError for fewer than 1 step, for a model that `check` refuses, and for numbers of codebooks or rows that do not fit.
    """

    @torch.inference_mode(False)  # in which nothing could be differentiated
    def __init__(
        self, model: Codec, batch_size: int, num_codebooks: int, steps: int, beam: int | None = None,
        losses: Sequence[Mapping[str, Any]] | None = None, variable: Variable | None = None,
        eq_db: Sequence[Sequence[float]] = (),
    ):
        check(model, steps, losses)
        if variable is not None:
            check_count(model, num_codebooks)
        if len(eq_db) not in (0, batch_size):
            raise ValueError(f"eq_db has {len(eq_db)} rows, and must have {batch_size}, one for each signal, or none")
        from codec.training.losses import SpectralLosses

        super().__init__(model, batch_size, num_codebooks, AHEAD)
        self._steps, self._beam, self._delay = steps, beam, model.decoder.delay
        self._losses = SpectralLosses(model.sample_rate, losses_for(variable) if losses is None else losses).to(model.device)
        self._wav = torch.zeros(batch_size, 1, self._delay, device=model.device)  # what they decode to, late by the delay
        self._shortest = round(SHORTEST * model.sample_rate)
        self._unheard = self._delay  # decoded samples from before the start of the signal
        self._states: list[Any] = [None] * batch_size  # of the decoder, after the codes that are out
        self._allocations = [None if variable is None else Allocation(model, variable, beam) for _ in self._states]
        self._undoing = [_undoing(row, model.sample_rate, model.device) for row in eq_db] or [None] * batch_size

    @torch.no_grad()
    def _take(self, wav: Tensor, last: bool) -> Tensor:
        whole = super()._take(wav, last)
        self._wav = torch.cat([self._wav, whole], 2)
        return whole

    def _code(self, frames: int) -> Tensor:
        behind = self._latents[..., frames : frames + self._ahead]
        if behind.shape[2]:
            behind = self._quantized(behind)[1]
        elif self._delay:  # silence pushes the last samples out of the decoder
            behind = self._latents.new_zeros(*self._latents.shape[:2], -(-self._delay // self._size))
        heard = slice(self._unheard, min((frames + behind.shape[2]) * self._size, self._wav.shape[2]))
        codes = []
        for row, state in enumerate(self._states):
            mine = slice(row, row + 1)
            hear = partial(self._hear, heard, self._undoing[row])
            found, latents = self._descend(
                self._latents[mine, :, :frames], behind[mine], state, self._wav[mine], hear, self._allocations[row]
            )
            _, self._states[row] = self._model.decoder(latents, state)
            codes.append(found)
        self._wav, self._unheard = self._wav[..., frames * self._size :].clone(), 0
        return torch.cat(codes)

    def _descend(
        self, latents: Tensor, behind: Tensor, state: Any, target: Tensor, hear: Callable[[Tensor], Tensor], spending: Allocation | None
    ) -> tuple[Tensor, Tensor]:
        """The best codes (1, k, n) for latents (1, dim, n), and what they stand for."""
        scale = latents.square().mean().sqrt().clamp_min(1e-6)
        moved = latents.clone().requires_grad_()
        slope, square = torch.zeros_like(moved), torch.zeros_like(moved)  # Adam's; torch's own brings its compiler along
        target, best, weights = hear(target), None, None
        if spending is not None:
            spending.start(latents)
        for step in range(self._steps + 1):
            if spending is None:
                (codes, quantized), over = self._quantized(moved), 0.0
            else:
                codes, quantized, over = spending.search(moved, weights)
            with torch.enable_grad(), _recurrent(self._model.decoder):
                through = moved + (quantized - moved).detach()
                audio, _ = self._model.decoder(torch.cat([through, behind], 2), state)
                loss = self._losses(hear(audio), target).total
                if best is None or (over, loss) < best[0]:
                    best = (over, loss.detach()), codes, quantized
                if step == self._steps:
                    break
                committed = ((moved - quantized).square() * (1.0 if weights is None else weights)).mean() / scale**2
                (gradient,) = torch.autograd.grad(loss + COMMITMENT * committed, moved)
            slope, square = slope.lerp(gradient, 1 - BETAS[0]), square.lerp(gradient.square(), 1 - BETAS[1])
            direction = slope / (1 - BETAS[0] ** (step + 1)) / ((square / (1 - BETAS[1] ** (step + 1))).sqrt() + 1e-8)
            moved -= RATE * scale * (1 - step / self._steps) * direction
            if spending is not None:
                weights = spread(square[0].mean(0))
        if spending is not None:
            spending.take(best[1])
        return best[1:]

    def _quantized(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        codes = self._model.quantizer.encode(latents.detach(), self._k, self._beam)
        return codes, self._model.quantizer.decode(codes)

    def _hear(self, heard: slice, undoing: Tensor | None, wav: Tensor) -> Tensor:
        """These samples of (1, 1, n), filtered from rest (so that a block's first 10 ms are not quite as in the whole), and silence where they are few."""
        wav = wav[..., heard]
        if undoing is not None:
            size = 1 << (wav.shape[2] + undoing.shape[2]).bit_length()
            wav = torch.fft.irfft(torch.fft.rfft(wav, size) * torch.fft.rfft(undoing, size), size)[..., : wav.shape[2]]
        return F.pad(wav, (0, max(0, self._shortest - wav.shape[2])))


def encoding(
    model: Codec, batch_size: int, num_codebooks: int, beam: int | None = None, refine: int = 0,
    variable: Variable | None = None, eq_db: Sequence[Sequence[float]] = (),
) -> Encoding | Blockwise:
    """What turns samples into codes, with so many steps of refinement."""
    if refine:
        return Refinement(model, batch_size, num_codebooks, refine, beam, variable=variable, eq_db=eq_db)
    if variable is not None:
        return Distribution(model, batch_size, num_codebooks, variable, beam)
    return Encoding(model, batch_size, num_codebooks, beam)


def losses_for(variable: Variable | None) -> list[Mapping[str, Any]]:
    """`LOSSES`; at a variable bitrate with more of the voice where there are more bits, which without it go where PESQ wants them."""
    least, most, power = VOICE
    more = 1.0 if variable is None else (min(max(variable.bitrate, least), most) / least) ** power
    return [{**loss, "weight": loss["weight"] * more} if loss["name"] == "speaker" else loss for loss in LOSSES]


def settings() -> str:
    """What changes with VERSION and the constants above, so that codes that were refined otherwise are not taken for the same."""
    constants = VERSION, BLOCK, PART, AHEAD, SHORTEST, TAIL, RATE, BETAS, COMMITMENT, LOSSES
    return hashlib.sha256(repr(constants).encode()).hexdigest()[:8]


def check(model: Codec, steps: int, losses: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Raise ValueError where codes cannot be refined."""
    name, instead = model.config.name, "leave it out, or take speech-16k"
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"refine={steps}: give the number of steps, 30 for example, or leave it out")
    if model.decoder.context is not None or model.decoder.window is not None:
        raise ValueError(f"refine={steps}: the decoder of {name} looks at codes to come, and only those of causal ones are refined: {instead}")
    if model.output_sample_rate != model.sample_rate:
        raise ValueError(f"refine={steps}: {name} encodes at {model.sample_rate} Hz and decodes to {model.output_sample_rate} Hz, "
                         f"which cannot be compared: {instead}")
    if losses is None and model.sample_rate < LEAST_RATE:
        raise ValueError(f"refine={steps}: its losses judge speech at {LEAST_RATE} Hz or more, and {name} has {model.sample_rate} Hz: "
                         "leave it out, or give codec.refinement.Refinement other losses")
    if any(weight.is_inference() for weight in model.decoder.parameters()):
        raise ValueError(f"refine={steps}: {name} was loaded under torch.inference_mode(), where nothing has a gradient: load it outside")


def _undoing(eq_db: Sequence[float], sample_rate: int, device: torch.device) -> Tensor | None:
    """Impulse response (1, 1, n) of what takes an equalizer off again; None where it does nothing."""
    if not any(eq_db):
        return None
    impulse = np.zeros((1, round(TAIL * sample_rate)), np.float32)
    impulse[0, 0] = 1.0
    return torch.from_numpy(Equalizer([[-gain for gain in eq_db]], sample_rate).process(impulse))[None].to(device)


def _recurrent(decoder: nn.Module) -> AbstractContextManager:
    """Without cuDNN where there are recurrent layers, for which it has gradients in training only."""
    if not any(isinstance(part, nn.RNNBase) for part in decoder.modules()):
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=False, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=cudnn.allow_tf32)
