"""STFT in, causal ConvNeXt blocks at frame rate, STFT out: nearly all arithmetic is matrix products.

In the line of Vocos (Siuzdak 2023, https://arxiv.org/abs/2306.00814), made causal at both ends. Two departures:
the decoder is upsampled before synthesis, because one frame of 20 ms cannot follow the pitch pulses and buzzes, and
the encoder sees complex spectra, power-compressed (|X|^0.3, phase kept), so that it can code waveforms at all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.backbones.base import Network
from codec.nn.convnext import ConvNeXtBlock
from codec.nn.linear import Linear
from codec.nn.state import State, run
from codec.nn.stft import Analysis, Synthesis
from quantizers.base import unmixed

FLOOR = 1e-5  # added to the squared magnitude of a bin; a full-scale sine has (window / 4)^2
MAX_LOG_MAGNITUDE = 5.5  # a bin of a full-scale sine has log(window / 4) = 4.4 at a window of 320


def compress(spectrum: Tensor, bins: int) -> Tensor:
    """(B, T, 2 * bins) to (B, T, 3 * bins): real and imaginary parts of |X|^0.3 e^(i phase), and log |X|."""
    real, imaginary = spectrum[..., :bins], spectrum[..., bins:]
    power = real * real + imaginary * imaginary + FLOOR
    log_power = torch.log(power)
    gain = torch.exp(-0.35 * log_power)  # not a power: torch rounds those another way at the end of a tensor
    return torch.cat([real * gain, imaginary * gain, 0.25 * log_power], dim=-1)


class ConvNeXtEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents. Looks only back: frame t ends with sample (t + 1) * hop - 1."""

    def __init__(self, dim: int, hop: int, window: int, channels: int, hidden: int, blocks: int, kernel_size: int):
        super().__init__()
        self.hop = hop
        self.analysis = Analysis(window, hop)
        self.embed = Linear(3 * self.analysis.bins, channels)
        self.norm_in = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, hidden, kernel_size) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(channels)
        self.out = Linear(channels, dim)

    def forward(self, wav: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        own, blocks = (None, None) if state is None else state
        with unmixed(wav.device):
            spectrum, own = self.analysis(wav.squeeze(1).float(), own)
            features = compress(spectrum, self.analysis.bins)  # (B, T, 3 * bins)
        x = self.norm_in(self.embed(features))  # (B, T, channels)
        x, blocks = run(self.blocks, x, blocks)
        return self.out(self.norm_out(x)).transpose(1, 2), (own, blocks)


class ConvNeXtDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples that lag the input by `delay` samples.

    Blocks at frame rate, then each frame becomes `upsample` sub-frames, blocks at that rate, and a head that gives
    log magnitude and direction (a vector in the complex plane, made one long) of every bin of a short inverse STFT.
    """

    def __init__(
        self, dim: int, hop: int, window: int, channels: int, hidden: int, blocks: int, upsample: int,
        fine_channels: int, fine_hidden: int, fine_blocks: int, kernel_size: int, delay: int,
    ):
        super().__init__()
        if hop % upsample:
            raise ValueError(f"a hop of {hop} samples cannot be cut into {upsample} sub-frames: take a divisor")
        fine_hop = hop // upsample
        if delay < window - fine_hop:
            raise ValueError(f"delay={delay} is less than the {window - fine_hop} samples that synthesis needs")
        self.hop, self.upsample, self.delay = hop, upsample, delay
        self.embed = Linear(dim, channels)
        self.norm_in = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, hidden, kernel_size) for _ in range(blocks))
        self.split = Linear(channels, upsample * fine_channels)
        self.fine_blocks = nn.ModuleList(
            ConvNeXtBlock(fine_channels, fine_hidden, kernel_size) for _ in range(fine_blocks)
        )
        self.norm_out = nn.LayerNorm(fine_channels)
        self.synthesis = Synthesis(window, fine_hop)
        self.bins = window // 2 + 1
        self.head = Linear(fine_channels, 3 * self.bins)
        with torch.no_grad():
            self.head.bias[: self.bins] -= 1.0  # start near the level of speech

    def spectrum(self, y: Tensor) -> Tensor:
        """Head outputs (B, T, 3 * bins) to spectra (B, T, 2 * bins), real parts then imaginary parts."""
        log_magnitude, real, imaginary = y.split(self.bins, dim=-1)
        gain = torch.exp(log_magnitude.clamp(max=MAX_LOG_MAGNITUDE)) * torch.rsqrt(real * real + imaginary * imaginary + 1e-4)
        return torch.cat([real * gain, imaginary * gain], dim=-1)

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        coarse, fine, own = (None, None, None) if state is None else state
        x = self.norm_in(self.embed(latents.transpose(1, 2)))  # (B, T, channels)
        x, coarse = run(self.blocks, x, coarse)
        x = self.split(x).reshape(x.shape[0], x.shape[1] * self.upsample, -1)  # (B, upsample * T, fine_channels)
        x, fine = run(self.fine_blocks, x, fine)
        y = self.head(self.norm_out(x))  # (B, upsample * T, 3 * bins)
        with unmixed(y.device):
            wav, own = self.synthesis(self.spectrum(y.float()), own)
        return wav.unsqueeze(1), (coarse, fine, own)
