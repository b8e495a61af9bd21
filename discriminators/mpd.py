"""Multi-period discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, conv2d, judge_all


class MultiPeriodDiscriminator(Discriminator):
    """One judge per period p: the waveform is folded to rows of p samples and convolved along columns only, so each
    judge sees every p-th sample.

    Source: Kong et al., "HiFi-GAN", 2020, section 2.3 (there: channels 32, 128, 512, 1024, 1024).

    periods       primes, so that the judges overlap as little as possible.
    channels      width of the first layer; it grows with every layer by
    growth        (HiFi-GAN: 4) up to
    max_channels  the width of the deepest layers.

    In: wav (B, 1, T), T >= the longest period (reflected at its end to a whole number of rows). Out, per period: logits
    (B, 1, about T / (81 p), p) and five features. Cost at 16 to 128 channels: about 2.2 k multiply-adds per sample and
    period, forward.
    """

    PUBLISHED = {"HiFi-GAN": {"channels": 32, "growth": 4, "max_channels": 1024}}

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        channels: int = 16,
        max_channels: int = 128,
        growth: int = 2,
    ) -> None:
        super().__init__()
        check_positive("mpd", periods=periods, channels=channels, max_channels=max_channels, growth=growth)
        self.judges = nn.ModuleList(PeriodDiscriminator(period, channels, max_channels, growth) for period in periods)
        self.min_samples = max(periods)
        self.to(memory_format=torch.channels_last)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.judges, wav)


class PeriodDiscriminator(nn.Module):
    """One period of :class:`MultiPeriodDiscriminator`."""

    def __init__(self, period: int, channels: int, max_channels: int, growth: int) -> None:
        super().__init__()
        self.period = period
        widths = [1] + [min(channels * growth**i, max_channels) for i in range(5)]
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            conv2d(n_in, n_out, (5, 1), stride=(stride, 1)) for n_in, n_out, stride in zip(widths, widths[1:], strides)
        )
        self.head = conv2d(widths[-1], 1, (3, 1))

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        wav = F.pad(wav, (0, -wav.shape[-1] % self.period), mode="reflect")
        x = wav.unflatten(-1, (-1, self.period))  # (B, 1, rows, p)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.head(x), features
