"""Log-mel discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive, judge_all
from discriminators.mfd import mel_bands
from discriminators.stft import check_windows
from discriminators.temporal import TemporalJudge


class LogMelDiscriminator(Discriminator):
    """One judge per resolution over the logarithm of mel powers, by convolutions over time alone, in which the bands are channels: each
    layer sees the whole spectrum, and what is faint weighs as much as what is loud.

    On a CPU it learns to tell decoded speech within a minute or two, where "mfd", "mrd" and "msstft", whose two-dimensional layers see a small
    part of a spectrum at a time, hardly begin (docs/training-log.md). It hears no phase: put one of those beside it.

    n_ffts       window lengths in samples (Hann),
    hops         their hops,
    bands        and their numbers of mel bands, which are powers of a window of unit energy, in triangles of height 1.
    channels     width of every hidden layer.
    floor_db     powers below are as one: -70 is 44 dB below the speech that `adversary.normalize` brings to -26 dBFS.
    sample_rate  in Hz, for the mel scale.

    In: wav (B, 1, T), T more than half of the longest window (it is reflected at its ends). Out, per resolution: logits
    (B, 1, T // hop + 1) and three maps (B, channels, T // hop + 1).
    Cost: about 10 channels**2 + 5 bands channels multiply-adds per frame and resolution, forward.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (1024, 400, 256),
        hops: Sequence[int] = (256, 160, 64),
        bands: Sequence[int] = (128, 80, 40),
        channels: int = 128,
        floor_db: float = -70.0,
        sample_rate: int = 16_000,
    ) -> None:
        super().__init__()
        check_positive("logmel", n_ffts=n_ffts, hops=hops, bands=bands, channels=channels, sample_rate=sample_rate)
        if not len(n_ffts) == len(hops) == len(bands):
            raise ValueError(f"discriminator 'logmel': {len(n_ffts)} n_ffts have {len(hops)} hops and {len(bands)} bands; give one of each per window")
        check_windows("logmel", n_ffts)
        if isinstance(floor_db, bool) or not isinstance(floor_db, (int, float)) or not -200 <= floor_db < 0:
            raise ValueError(f"discriminator 'logmel': floor_db is {floor_db!r}; give a number from -200 to below 0")
        sizes = zip(n_ffts, hops, bands)
        self.judges = nn.ModuleList(LogMelJudge(*size, channels, float(floor_db), sample_rate) for size in sizes)
        self.min_samples = max(n_ffts) // 2 + 1

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        return judge_all(self.judges, wav)


class LogMelJudge(nn.Module):
    """One resolution of :class:`LogMelDiscriminator`."""

    def __init__(self, n_fft: int, hop: int, bands: int, channels: int, floor_db: float, sample_rate: int) -> None:
        super().__init__()
        self.n_fft, self.hop, self.floor = n_fft, hop, 10 ** (floor_db / 10)
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        self.register_buffer("bands", mel_bands(n_fft // 2 + 1, sample_rate, bands), persistent=False)
        self.temporal = TemporalJudge(bands, channels, first_kernel=5)

    def forward(self, wav: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.temporal(self.levels(wav))

    def levels(self, wav: Tensor) -> Tensor:
        """wav (B, 1, T) -> (B, bands, T // hop + 1) in float32: levels over 20 dB, so that -70 dB are -3.5."""
        with torch.autocast(wav.device.type, enabled=False):
            z = torch.stft(wav.squeeze(1).float(), self.n_fft, self.hop, window=self.window, pad_mode="reflect", return_complex=True)
            power = torch.view_as_real(z).square().sum(-1).mT @ self.bands  # (B, N, bands)
            return (power + self.floor).log10().mT / 2
