"""Multi-scale discriminator."""

from __future__ import annotations

from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, conv1d, judge_all

# One row a layer: width as a share of the deepest, kernel, stride, groups as a share of that width (0: one group).
LAYOUTS: dict[str, tuple[tuple[Fraction, int, int, Fraction], ...]] = {
    "melgan": (
        (Fraction(1, 64), 15, 1, Fraction(0)),
        (Fraction(1, 16), 41, 4, Fraction(1, 256)),
        (Fraction(1, 4), 41, 4, Fraction(1, 64)),
        (Fraction(1), 41, 4, Fraction(1, 16)),
        (Fraction(1), 41, 4, Fraction(1, 4)),
        (Fraction(1), 5, 1, Fraction(0)),
    ),
    "hifigan": (
        (Fraction(1, 8), 15, 1, Fraction(0)),
        (Fraction(1, 8), 41, 2, Fraction(1, 256)),
        (Fraction(1, 4), 41, 2, Fraction(1, 64)),
        (Fraction(1, 2), 41, 4, Fraction(1, 64)),
        (Fraction(1), 41, 4, Fraction(1, 64)),
        (Fraction(1), 41, 1, Fraction(1, 64)),
        (Fraction(1), 5, 1, Fraction(0)),
    ),
}
SLOPES = {"melgan": 0.2, "hifigan": 0.1}


class MultiScaleDiscriminator(Discriminator):
    """The same stack of long grouped convolutions over the waveform and over averages of it at half rates.

    Source: Kumar et al., "MelGAN", 2019, section 2.2; Kong et al., "HiFi-GAN", 2020, section 2.3 (both: 3 scales, 1024
    channels). Each scale halves the rate by averages of 4 samples. All convolutions have weight norm and zero padding;
    HiFi-GAN has spectral norm on the first scale, MelGAN reflects at the ends of the waveform.

    scales    1 for the waveform alone; each further one at half the rate of that before.
    channels  width of the deepest layers, a multiple of 256: groups and the other widths are shares of it.
    layout    "melgan" (strides 1, 4, 4, 4, 4, 1; groups of 4 channels) or "hifigan" (strides 1, 2, 2, 4, 4, 1, 1; at
              five to ten times the cost).

    In: wav (B, 1, T), any T > 0. Out, per scale s: logits (B, 1, about T / (256 * 2**s)), "hifigan": 64 in place of
    256, and six features (B, C, .), "hifigan": seven.
    Cost at 256 channels, three scales: "melgan" 6 k, "hifigan" 30 k multiply-adds per sample, forward.
    """

    PUBLISHED = {"MelGAN": {"channels": 1024}, "HiFi-GAN": {"channels": 1024, "layout": "hifigan"}}

    def __init__(self, scales: int = 3, channels: int = 256, layout: str = "melgan") -> None:
        super().__init__()
        check_positive("msd", scales=scales, channels=channels)
        if layout not in LAYOUTS:
            raise ValueError(f"discriminator 'msd': layout is {layout!r}; choose one of {', '.join(LAYOUTS)}")
        if channels % 256:
            raise ValueError(f"discriminator 'msd': channels is {channels}; give a multiple of 256, which groups share")
        self.scales = nn.ModuleList(WaveformDiscriminator(halvings, channels, layout) for halvings in range(scales))

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.scales, wav)


class WaveformDiscriminator(nn.Module):
    """One scale of :class:`MultiScaleDiscriminator`: the waveform at its rate / 2**halvings."""

    def __init__(self, halvings: int, channels: int, layout: str) -> None:
        super().__init__()
        self.halvings, self.slope = halvings, SLOPES[layout]
        self.layers = nn.ModuleList()
        width = 1
        for share, kernel, stride, groups in LAYOUTS[layout]:
            self.layers.append(conv1d(width, int(channels * share), kernel, stride, max(1, int(channels * groups))))
            width = int(channels * share)
        self.head = conv1d(width, 1, 3)

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = wav
        for _ in range(self.halvings):
            x = F.avg_pool1d(x, 4, stride=2, padding=2, count_include_pad=False)  # (B, 1, T // 2 + 1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), self.slope)
            features.append(x)
        return self.head(x), features
