"""Multi-period discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, conv2d


class MultiPeriodDiscriminator(Discriminator):
    """One judge per period p: the waveform is folded to rows of p samples and convolved along columns only, so each
    judge sees every p-th sample.

    Source: Kong et al., "HiFi-GAN", 2020, section 2.3 (there: channels 32, 128, 512, 1024, 1024).

    periods       primes, so that the judges overlap as little as possible.
    channels      width of the first layer; it doubles with every layer up to
    max_channels  the width of the deepest layers.

    In: wav (B, 1, T), T >= the longest period (reflected at its end to a whole number of rows). Out, per period: logits
    (B, 1, about T / (81 p), p) and five features. Cost at 16 to 128 channels: about 2.2 k multiply-adds per sample and
    period, forward.
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), channels: int = 16, max_channels: int = 128) -> None:
        super().__init__()
        self.judges = nn.ModuleList(PeriodDiscriminator(period, channels, max_channels) for period in periods)
        self.min_samples = max(periods)
        self.to(memory_format=torch.channels_last)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        outputs = [judge(wav) for judge in self.judges]
        return DiscriminatorOutput([logits for logits, _ in outputs], [features for _, features in outputs])


class PeriodDiscriminator(nn.Module):
    """One period of :class:`MultiPeriodDiscriminator`."""

    def __init__(self, period: int, channels: int, max_channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1] + [min(channels * 2**i, max_channels) for i in range(5)]
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
