"""Multi-resolution multi-band complex STFT discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, conv2d, judge_all
from discriminators.stft import ComplexSTFT, check_windows


class MultiResolutionBandDiscriminator(Discriminator):
    """One judge per STFT resolution with layers of its own for each frequency band: real and imaginary parts are cut
    into bands, each band has five convolutions, and one scores them side by side, so that soft upper bands are not
    drowned.

    Source: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023, section 3.3 (there: 32
    channels). DAC first removes the mean and brings every waveform's peak to 0.8, pads the ends and does not compress;
    here levels stay, frames lie inside the waveform and the window has unit energy.

    n_ffts       window lengths in samples; the hop is a quarter of each.
    channels     width of every hidden layer.
    edges        of the bands, as shares of the bins, from 0 to 1.
    compression  as for "msstft" (1.0: none, as in DAC).

    In: wav (B, 1, T), T >= the longest window. Out, per resolution: logits (B, 1, N, about bins / 8) over
    N = (T - n_fft) // hop + 1 frames; features: five maps (B, channels, N, .) of each band, band by band.
    Cost: as "msstft" of the same windows and width, about (50 channels**2 + 108 channels) T multiply-adds per item and
    resolution, forward.
    """

    PUBLISHED = {"DAC": {"channels": 32, "compression": 1.0}}

    def __init__(
        self,
        n_ffts: Sequence[int] = (2048, 1024, 512),
        channels: int = 16,
        edges: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        compression: float = 0.3,
    ) -> None:
        super().__init__()
        check_positive("mrd", n_ffts=n_ffts, channels=channels)
        check_windows("mrd", n_ffts)
        self.resolutions = nn.ModuleList(BandDiscriminator(n_fft, channels, edges, compression) for n_fft in n_ffts)
        self.min_samples = max(n_ffts)
        self.to(memory_format=torch.channels_last)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.resolutions, wav)


class BandDiscriminator(nn.Module):
    """One resolution of :class:`MultiResolutionBandDiscriminator`."""

    def __init__(self, n_fft: int, channels: int, edges: Sequence[float], compression: float) -> None:
        super().__init__()
        bins = n_fft // 2 + 1
        limits = [int(edge * bins) for edge in edges]
        self.ranges = list(zip(limits, limits[1:]))  # of bins, one per band
        if not self.ranges or any(begin >= end for begin, end in self.ranges) or limits[0] or limits[-1] != bins:
            raise ValueError(
                f"discriminator 'mrd': edges {list(edges)} leave a band of a window of {n_fft} without a bin, or bins "
                "without a band; give rising shares from 0 to 1, fewer of them for short windows"
            )
        self.spectrum = ComplexSTFT(n_fft, compression)
        self.bands = nn.ModuleList(self._stack(channels) for _ in self.ranges)
        self.head = conv2d(channels, 1, (3, 3))

    @staticmethod
    def _stack(channels: int) -> nn.ModuleList:
        layers = [conv2d(2, channels, (3, 9))]
        layers += [conv2d(channels, channels, (3, 9), stride=(1, 2)) for _ in range(3)]
        layers += [conv2d(channels, channels, (3, 3))]
        return nn.ModuleList(layers)

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum = self.spectrum(wav)  # (B, 2, N, bins)
        scored, features = [], []
        for (begin, end), layers in zip(self.ranges, self.bands):
            x = spectrum[..., begin:end].contiguous(memory_format=torch.channels_last)
            for layer in layers:
                x = F.leaky_relu(layer(x), 0.1)
                features.append(x)
            scored.append(x)
        return self.head(torch.cat(scored, dim=-1)), features
