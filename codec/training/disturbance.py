"""PESQ's measure of what is wrong with decoded speech, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.training.bark import Bark, smooth_root
from codec.training.loss_term import Term
from codec.training.spectra import Pair

DEAD_ZONE = 0.25  # share of the softer loudness that masks a difference
LOUDEST = 45.0  # disturbance of a frame at most
FLOOR = 1e-4  # of LOUDEST: keeps the gradient of the sixth root finite at 0
SPAN = 0.32  # seconds over which a bad moment outweighs good ones


class PESQDisturbance(Term):
    """How far PESQ-wb is below its best: 4.5 - its raw score.

    Source: ITU-T P.862 (2001) and P.862.2 (2007); as a loss Martín-Doñas et al., "A deep learning loss function based on the
    perceptual evaluation of the speech quality", 2018. Differences in loudness on the Bark scale, less what the softer
    sound masks; what was added counts once more, up to twelve times. As in PESQ, levels and the gain of each frame are
    made equal first. Unlike it: frames every 8 ms instead of 16 (the spectra of the other terms), nothing is moved in time, and an
    uneven frequency response counts as it is, because a crop is too short to tell it from the speech.

    Over whole recordings ``0.999 + 4 / (1 + exp(3.8224 - 1.3669 * (4.5 - loss)))`` comes within about 0.1 of PESQ-wb.
    A model trained with it has better PESQ than its other figures say: judge it by those too.
    """

    def __init__(self, sample_rate: int) -> None:
        bark = Bark(sample_rate)
        super().__init__([bark.n_fft])
        self.bark = bark
        self.span = max(2, round(SPAN * sample_rate / self.resolutions[0].hop))  # frames

    def forward(self, pair: Pair) -> Tensor:
        if not len(pair.audible):
            return pair.decoded.sum() * 0.0
        (resolution,) = self.resolutions
        energy = getattr(self, self._name(resolution)).square().sum()
        decoded, target = (self.bark.powers(s.power[pair.audible], energy) for s in self.spectra(pair, resolution))
        target_power = self.bark.audible(target)  # (B, frames)
        decoded = decoded * self._frame_gain(target_power, self.bark.audible(decoded)).unsqueeze(-1)

        ours, theirs = self.bark.loudness(decoded), self.bark.loudness(target)  # (B, frames, 49)
        difference = ours - theirs
        heard = difference.sign() * (difference.abs() - DEAD_ZONE * torch.minimum(ours, theirs)).clamp_min(0)
        growth = ((decoded + 50) / (target + 50)) ** 1.2
        added = heard * torch.where(growth < 3, 0.0, growth.clamp_max(12))
        ease = ((target_power + 1e5) / 1e7) ** 0.04  # loud frames hide more
        symmetric = self._over_time(self.bark.norm(heard, 2) / ease)
        asymmetric = self._over_time(self.bark.norm(added, 1) / ease)
        return (0.1 * symmetric + 0.0309 * asymmetric).mean()

    @staticmethod
    def _frame_gain(target: Tensor, decoded: Tensor) -> Tensor:
        """What brings each frame to the target's power, smoothed over two; audible powers (B, frames)."""
        gain = (target + 5e3) / (decoded + 5e3)
        gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], dim=1)
        return gain.clamp(3e-4, 5)

    def _over_time(self, frames: Tensor) -> Tensor:
        """(B, frames) -> (B,): 6-norms of half-overlapping spans, then the root mean square of those."""
        length = min(self.span, frames.shape[-1])
        spans = frames.clamp_max(LOUDEST).unfold(-1, length, max(1, length // 2))  # (B, spans, length)
        peaks = LOUDEST * (((spans / LOUDEST + FLOOR) ** 6).mean(-1) ** (1 / 6) - FLOOR)
        return smooth_root(peaks.square().mean(-1))
