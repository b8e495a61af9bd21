"""Multi-scale sub-band constant-Q discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, conv2d, judge_all
from discriminators.cqt import ConstantQ
from discriminators.stft import check_compression, compress


class MultiScaleSubbandCQTDiscriminator(Discriminator):
    """One judge per constant-Q resolution: fine in frequency for low notes and in time for high ones, where an STFT is
    the same for all. Every octave has a convolution of its own, which aligns it with the others, as their kernels
    differ in length.

    Source: Gu et al., "Multi-Scale Sub-Band Constant-Q Transform Discriminator for High-Fidelity Vocoder", 2023 (there:
    24 kHz, 9 octaves from 32.7 Hz, 32 channels, no compression). Here all convolutions have weight norm, kernels of the
    transform have unit energy, and it needs no library.

    hops, bins_per_octave  one of each per resolution. A hop must be a multiple of 2**(halvings of the lowest octave).
    octaves                from f_min Hz upwards; bins above half the sample rate hold nothing.
    channels               width of every hidden layer.
    dilations              along time, one strided (1, 2) layer each.
    compression            as for "msstft" (1.0: none, as published).
    sample_rate            in Hz.

    In: wav (B, 1, T), any T > 0; it counts as silent beyond its ends, and the lowest octaves have kernels of seconds.
    Out, per resolution: logits (B, 1, N, M) over N = ceil(T / hop) frames and M = bins / 2**len(dilations); features:
    len(dilations) + 2 maps (B, channels, N, .).
    Cost: about (25 channels**2 + 54 channels) bins / hop multiply-adds per sample and resolution, forward.
    """

    PUBLISHED = {"Gu et al.": {"octaves": 9, "channels": 32, "compression": 1.0, "sample_rate": 24_000}}

    def __init__(
        self,
        hops: Sequence[int] = (512, 256, 256),
        bins_per_octave: Sequence[int] = (24, 36, 48),
        octaves: int = 8,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4),
        compression: float = 0.3,
        f_min: float = 32.703,
        sample_rate: int = 16_000,
    ) -> None:
        super().__init__()
        check_positive(
            "mssbcqt",
            hops=hops,
            bins_per_octave=bins_per_octave,
            octaves=octaves,
            channels=channels,
            dilations=dilations,
            sample_rate=sample_rate,
        )
        if len(hops) != len(bins_per_octave):
            raise ValueError(
                f"discriminator 'mssbcqt': {len(hops)} hops have {len(bins_per_octave)} bins_per_octave; "
                "give one per hop"
            )
        self.resolutions = nn.ModuleList(
            CQTDiscriminator(ConstantQ(sample_rate, hop, octaves, bins, f_min), channels, dilations, compression)
            for hop, bins in zip(hops, bins_per_octave)
        )
        self.to(memory_format=torch.channels_last)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.resolutions, wav)


class CQTDiscriminator(nn.Module):
    """One resolution of :class:`MultiScaleSubbandCQTDiscriminator`."""

    def __init__(self, transform: ConstantQ, channels: int, dilations: Sequence[int], compression: float) -> None:
        super().__init__()
        check_compression(compression)
        self.transform, self.compression = transform, compression
        self.align = nn.ModuleList(conv2d(2, 2, (3, 9)) for _ in range(transform.octaves))
        layers = [conv2d(2, channels, (3, 9))]
        layers += [conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in dilations]
        layers += [conv2d(channels, channels, (3, 3))]
        self.layers = nn.ModuleList(layers)
        self.head = conv2d(channels, 1, (3, 3))

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        octaves = [self.align[i](self.compressed(z)) for i, z in enumerate(self.transform(wav))]  # (B, 2, N, bins each)
        x = torch.cat(octaves, dim=-1).contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.head(x), features

    def compressed(self, spectrum: Tensor) -> Tensor:
        """(B, 2, N, bins) with magnitudes raised to `compression`, in float32."""
        with torch.autocast(spectrum.device.type, enabled=False):
            return compress(spectrum.movedim(1, -1), self.compression).movedim(-1, 1)
