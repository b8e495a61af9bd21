"""Multi-frequency discriminator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, conv2d, judge_all


class MultiFrequencyDiscriminator(Discriminator):
    """One judge per hop over mel magnitudes and their logarithm, strided along both axes: from 8 ms windows, which see
    transients, to 256 ms, which see pitch.

    Source: X-Codec (Ye et al., "Codec Does Matter", 2024; github.com/zhenye234/xcodec), whose only discriminator it is;
    before that Zhang et al., "VISinger 2", 2022. Hops, windows of four hops, as many mel bands as bins, both domains
    and all layers are X-Codec's. Here convolutions pad with zeros instead of reflections, so that shorter crops can be
    judged; mel bands narrower than a bin take their neighbours in proportion (there they are empty); the logarithm has
    a floor instead of a clamp; and the six hidden maps are the features.

    hops         of the spectrograms, in samples; windows are four times as long.
    channels     width of the deepest layer at each hop; the layers before have 1/32, 1/16, 1/8, 1/4 and 1/2 of it.
    sample_rate  in Hz, for the mel scale.

    In: wav (B, 1, T), T > twice the longest hop (it is reflected at its ends). Out, per hop: logits
    (B, 1, about T / (8 hop), about bins / 8), time before frequency, and six features.
    Cost: about 0.4 channels**2 multiply-adds per sample and hop, forward.
    """

    PUBLISHED = {"X-Codec": {"channels": (64, 128, 256, 512, 512, 512)}}

    def __init__(
        self,
        hops: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        channels: Sequence[int] = (64, 64, 128, 128, 128, 128),
        sample_rate: int = 16_000,
    ) -> None:
        super().__init__()
        check_positive("mfd", hops=hops, channels=channels, sample_rate=sample_rate)
        if len(hops) != len(channels):
            raise ValueError(f"discriminator 'mfd': {len(hops)} hops have {len(channels)} channels; give one per hop")
        if any(width % 32 for width in channels):
            raise ValueError(f"discriminator 'mfd': channels are {list(channels)}; give multiples of 32")
        self.judges = nn.ModuleList(MelDiscriminator(hop, width, sample_rate) for hop, width in zip(hops, channels))
        self.min_samples = 2 * max(hops) + 1
        self.to(memory_format=torch.channels_last)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.judges, wav)


class MelDiscriminator(nn.Module):
    """One hop of :class:`MultiFrequencyDiscriminator`."""

    def __init__(self, hop: int, channels: int, sample_rate: int) -> None:
        super().__init__()
        self.hop = hop
        window = torch.hann_window(4 * hop)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        self.register_buffer("bands", mel_bands(2 * hop + 1, sample_rate), persistent=False)
        widths = [2] + [channels // share for share in (32, 16, 8, 4, 2, 1)]
        self.layers = nn.ModuleList(
            conv2d(n_in, n_out, (3, 3), stride=(stride, stride))
            for n_in, n_out, stride in zip(widths, widths[1:], (1, 2, 1, 2, 1, 2))
        )
        self.head = conv2d(channels, 1, (3, 3))

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.spectrogram(wav)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x), features

    def spectrogram(self, wav: Tensor) -> Tensor:
        """wav (B, 1, T) -> (B, 2, T // hop + 1, bins) in float32: mel magnitudes, and their logarithm from 0 at -80 dB
        to 1 at 20 dB."""
        with torch.autocast(wav.device.type, enabled=False):
            z = torch.stft(
                wav.squeeze(1).float(),
                4 * self.hop,
                self.hop,
                window=self.window,
                pad_mode="reflect",
                return_complex=True,
            )
            power = torch.view_as_real(z).square().sum(-1)  # (B, bins, N)
            mel = (power + 1e-8).sqrt().mT @ self.bands  # (B, N, bins); the floor bounds the gradient at silence
            return torch.stack([mel, 0.8 + 0.2 * mel.log10()], dim=1).contiguous(memory_format=torch.channels_last)


def mel_bands(bins: int, sample_rate: int, bands: int | None = None) -> Tensor:
    """(bins, bands): triangular bands of height 1, as many as bins unless told, from 0 Hz to half the sample rate, equally wide in
    mels (2595 log10(1 + f / 700)) but to either side never narrower than the distance of two bins."""
    frequencies = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, (bands or bins) + 2, dtype=torch.float64) / 2595) - 1)
    centres = edges[1:-1]
    below = (centres - edges[:-2]).clamp_min(frequencies[1])
    above = (edges[2:] - centres).clamp_min(frequencies[1])
    distance = frequencies.unsqueeze(1) - centres  # (bins, bands)
    return (1 - torch.where(distance < 0, -distance / below, distance / above)).clamp_min(0).float()
