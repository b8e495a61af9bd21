"""Multi-scale complex STFT discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, conv2d, judge_all
from discriminators.stft import ComplexSTFT, check_windows


class MultiScaleSTFTDiscriminator(Discriminator):
    """One convolutional judge per STFT resolution, looking at real and imaginary parts (MS-STFT of EnCodec).

    Source: Défossez et al., "High Fidelity Neural Audio Compression", 2022, section 3.4 (there: five resolutions, 32
    channels, no compression). Layers, spectrograms and slopes are those of its code, but that all convolutions have
    weight norm, there all but the first.

    n_ffts       window lengths in samples; the hop is a quarter of each.
    channels     width of every hidden layer.
    dilations    along time, one strided (1, 2) layer each.
    compression  magnitudes are raised to this power, phases kept, so that quiet bands and quiet speech are seen (1.0:
                 as in EnCodec).

    In: wav (B, 1, T), T >= the longest window. Out, per resolution: logits (B, 1, N, M) over N = (T - n_fft) // hop + 1
    frames and M = bins / 2**len(dilations); features: len(dilations) + 2 maps (B, channels, N, .).
    Cost: about (50 channels**2 + 108 channels) T multiply-adds per item and resolution, forward. All maps are kept
    channels-last, which on a CPU in bfloat16 is two to four times as fast as the default layout.
    """

    PUBLISHED = {"EnCodec": {"n_ffts": (2048, 1024, 512, 256, 128), "channels": 32, "compression": 1.0}}

    def __init__(
        self,
        n_ffts: Sequence[int] = (1024, 512, 256),
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4),
        compression: float = 0.3,
    ) -> None:
        super().__init__()
        check_positive("msstft", n_ffts=n_ffts, channels=channels, dilations=dilations)
        check_windows("msstft", n_ffts)
        self.scales = nn.ModuleList(STFTDiscriminator(n_fft, channels, dilations, compression) for n_fft in n_ffts)
        self.min_samples = max(n_ffts)
        self.to(memory_format=torch.channels_last)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.scales, wav)


class STFTDiscriminator(nn.Module):
    """One resolution of :class:`MultiScaleSTFTDiscriminator`."""

    def __init__(self, n_fft: int, channels: int, dilations: Sequence[int], compression: float) -> None:
        super().__init__()
        self.spectrum = ComplexSTFT(n_fft, compression)
        layers = [conv2d(2, channels, (3, 9))]
        layers += [conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in dilations]
        layers += [conv2d(channels, channels, (3, 3))]
        self.layers = nn.ModuleList(layers)
        self.head = conv2d(channels, 1, (3, 3))

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.spectrum(wav)  # (B, 2, N, bins)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x), features
