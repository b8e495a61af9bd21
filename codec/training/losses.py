"""Reconstruction losses, named in a recipe and weighted there.

    losses = SpectralLosses(16_000, [{"name": "mr_stft", "weight": 1.0}, {"name": "waveform", "weight": 0.5}])
    total, terms = losses(decoded, target)  # both (B, 1, T)

Quiet speech counts as much as loud speech: before any term is computed, both signals of an item are multiplied by the
one gain that brings the target to an RMS of ``LEVEL`` (-26 dBFS). The gain stops growing for targets below ``FLOOR``
(-50 dBFS), so that silence stays small and no gradient explodes. Everything is computed in float32, also under
autocast, and STFTs are shared between the terms that use the same one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = 10 ** (-26 / 20)  # RMS that every target is brought to
FLOOR = 10 ** (-50 / 20)  # RMS below which a target counts as silence


class Losses(NamedTuple):
    """``total``: the weighted sum, a scalar. ``terms``: each unweighted term by name; all are attached to the graph."""

    total: Tensor
    terms: dict[str, Tensor]


class SpectralLosses(nn.Module):
    """The weighted sum of the terms that a recipe names.

    entries: mappings with ``name`` (one of ``TERMS``), ``weight`` (default 1.0) and ``options`` (the arguments of that
    term's class). Raises ValueError for unknown names and options, and for a term named twice.
    """

    def __init__(self, sample_rate: int, entries: Iterable[Mapping[str, Any]]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        for entry in entries:
            name = entry.get("name")
            if name not in TERMS:
                raise ValueError(f"no reconstruction loss is called {name!r}; choose one of {', '.join(sorted(TERMS))}")
            if name in self.weights:
                raise ValueError(f"reconstruction loss {name!r} is listed twice; merge the two entries")
            options = dict(entry.get("options") or {})
            known = [p for p in inspect.signature(TERMS[name]).parameters if p != "sample_rate"]
            unknown = [key for key in options if key not in known] + [
                k for k in entry if k not in ("name", "weight", "options")
            ]
            if unknown:
                raise ValueError(
                    f"reconstruction loss {name!r} has no option {', '.join(map(repr, unknown))}; "
                    f"it has {', '.join(known) or 'none'}"
                )
            self.terms[name] = TERMS[name](sample_rate=sample_rate, **options)
            self.weights[name] = float(entry.get("weight", 1.0))

    def forward(self, decoded: Tensor, target: Tensor) -> Losses:
        """decoded, target: (B, C, T) in [-1, 1], of one shape. Gradients reach ``decoded`` only."""
        if decoded.shape != target.shape or decoded.dim() != 3:
            raise ValueError(
                f"decoded and target must both be (B, C, T), not {tuple(decoded.shape)} and {tuple(target.shape)}"
            )
        with torch.autocast(decoded.device.type, enabled=False):
            pair = Pair(decoded.flatten(0, 1).float(), target.flatten(0, 1).detach().float())
            terms = {name: term(pair) for name, term in self.terms.items()}
            total = torch.zeros((), device=decoded.device)
            for name, value in terms.items():
                total = total + self.weights[name] * value
        return Losses(total, terms)


class OneSidedDFT(torch.autograd.Function):
    """frames (..., n) -> real and imaginary parts (..., n // 2 + 1), each contiguous.

    The values are those of ``torch.fft.rfft``, but the gradient is one real inverse transform, where torch transforms
    all n complex bins, and no strided view of a complex tensor slows down what follows: half the time of a loss on a
    CPU. n must be even.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.fft.rfft(frames)
        return z.real.contiguous(), z.imag.contiguous()

    @staticmethod
    def backward(ctx: Any, real: Tensor, imag: Tensor) -> Tensor:
        z = torch.complex(real, imag)
        z[..., 1:-1] *= 0.5  # the inverse counts every bin twice but the first and the last
        return torch.fft.irfft(z, norm="forward")


class Spectrum:
    """A centred STFT with a hop of a quarter window, as ``torch.stft`` computes it.

    real, imag and power are (B, frames, bins).
    """

    def __init__(self, wav: Tensor, n_fft: int, window: Tensor) -> None:
        hop = n_fft // 4
        wav = F.pad(wav.unsqueeze(1), (n_fft // 2, n_fft // 2), mode="reflect").squeeze(1)
        frames = 1 + (wav.shape[-1] - n_fft) // hop
        quarters = wav[:, : (frames + 3) * hop].unflatten(-1, (-1, hop))  # (B, frames + 3, hop)
        quarters = torch.cat([quarters[:, i : frames + i] for i in range(4)], dim=-1)  # (B, frames, n_fft)
        self.real, self.imag = OneSidedDFT.apply(quarters * window)
        self.power = self.real.square() + self.imag.square()
        self._magnitude: dict[float, Tensor] = {}

    def magnitude(self, eps: float) -> Tensor:
        """The magnitude as ``auraloss`` floors it, (B, frames, bins)."""
        if eps not in self._magnitude:
            self._magnitude[eps] = self.power.clamp_min(eps).sqrt()
        return self._magnitude[eps]


class Pair:
    """Decoded and target waveforms (B, T) at the common level, and their spectra, each computed once."""

    def __init__(self, decoded: Tensor, target: Tensor) -> None:
        rms = target.square().mean(-1, keepdim=True).sqrt()  # (B, 1)
        gain = LEVEL / rms.clamp_min(FLOOR)
        self.audible = (rms.squeeze(-1) >= FLOOR).nonzero().flatten()  # the items whose target is no silence
        self.decoded, self.target = decoded * gain, target * gain
        self._spectra: dict[int, tuple[Spectrum, Spectrum]] = {}

    def spectra(self, n_fft: int, window: Tensor) -> tuple[Spectrum, Spectrum]:
        """Spectra of decoded and target with a Hann window of n_fft samples and a hop of a quarter of it."""
        if n_fft not in self._spectra:
            if self.target.shape[-1] <= n_fft // 2:
                raise ValueError(
                    f"{self.target.shape[-1]} samples are too few for a spectrum of {n_fft}; train on longer crops"
                )
            self._spectra[n_fft] = (Spectrum(self.decoded, n_fft, window), Spectrum(self.target, n_fft, window))
        return self._spectra[n_fft]


class Term(nn.Module):
    """A term maps a :class:`Pair` to a scalar. ``n_ffts`` are the resolutions that it looks at."""

    def __init__(self, n_ffts: Sequence[int] = ()) -> None:
        super().__init__()
        self.n_ffts = tuple(n_ffts)
        for n_fft in self.n_ffts:
            if n_fft < 4 or n_fft % 4:
                raise ValueError(f"a spectrum needs a window of a multiple of 4 samples, not {n_fft}")
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def window(self, n_fft: int) -> Tensor:
        return getattr(self, f"window_{n_fft}")


class MultiResolutionSTFT(Term):
    """Spectral convergence and log-magnitude distance at several resolutions, by ``auraloss``.

    Source: Yamamoto et al., "Parallel WaveGAN", 2020 (arXiv 1910.11480); Steinmetz and Reiss, "auraloss", 2020. The
    value is that of ``auraloss.freq.MultiResolutionSTFTLoss`` at the common level, except that silent targets are left
    out of the spectral convergence, which divides by the target's norm.
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: Sequence[int] = (256, 512, 1024, 2048),
        w_sc: float = 1.0,
        w_log_mag: float = 1.0,
        w_lin_mag: float = 0.0,
    ) -> None:
        super().__init__(n_ffts)
        auraloss = _auraloss()
        hops = [n_fft // 4 for n_fft in self.n_ffts]
        self.auraloss = auraloss.freq.MultiResolutionSTFTLoss(
            list(self.n_ffts), hops, list(self.n_ffts), w_sc=w_sc, w_log_mag=w_log_mag, w_lin_mag=w_lin_mag
        )

    def forward(self, pair: Pair) -> Tensor:
        losses = self.auraloss.stft_losses
        return sum(_auraloss_terms(pair, loss, self.window(loss.fft_size)) for loss in losses) / len(losses)


class MultiScaleMel(Term):
    """L1 distance of log mel magnitudes at several window sizes, by ``auraloss``.

    Source: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023, who found several window
    sizes to keep transients that one size smears. The value is the mean of ``auraloss.freq.MelSTFTLoss(w_sc=0)`` at the
    common level.

    n_ffts, n_mels: window sizes and the number of mel bands of each.
    """

    def __init__(
        self, sample_rate: int, n_ffts: Sequence[int] = (256, 512, 1024, 2048), n_mels: Sequence[int] = (16, 32, 64, 80)
    ) -> None:
        super().__init__(n_ffts)
        if len(self.n_ffts) != len(n_mels):
            raise ValueError(f"the mel loss needs one n_mels per n_fft, not {len(n_mels)} for {len(self.n_ffts)}")
        auraloss = _auraloss()
        try:
            import librosa.filters  # noqa: F401  auraloss would only print a complaint, then fail on a missing name
        except ImportError as error:
            raise ImportError('the mel loss needs librosa: pip install "neural-codec-toolkit[train]"') from error
        self.auraloss = nn.ModuleList()
        for n_fft, bands in zip(self.n_ffts, n_mels):
            loss = auraloss.freq.MelSTFTLoss(sample_rate, n_fft, n_fft // 4, n_fft, w_sc=0.0, n_mels=bands)
            if not (loss.fb.sum(-1) > 0).all():
                raise ValueError(
                    f"{bands} mel bands are too many for windows of {n_fft}: some hold no bin; lower n_mels"
                )
            self.auraloss.append(loss)

    def forward(self, pair: Pair) -> Tensor:
        return sum(_auraloss_terms(pair, loss, self.window(loss.fft_size)) for loss in self.auraloss) / len(self.n_ffts)


class CompressedSTFT(Term):
    """Distance of power-compressed spectra X |X|**(c - 1) (phase-aware) and of their magnitudes |X|**c, at several
    resolutions.

    Source: Ephrat et al., "Looking to Listen at the Cocktail Party", 2018 (c = 0.3); Braun and Tashev, "Data
    augmentation and loss normalization for deep noise suppression", 2020 (complex and magnitude parts mixed).
    Compression lets soft consonants and upper bands weigh nearly as much as vowels; the complex part ties the phase
    down.

    compression    c. Magnitudes are relative to the target's mean power, with a floor 60 dB below it that bounds the
                   gradient at zero.
    complex_share  weight of the complex part; the magnitude part has the rest.
    exponent       1: mean absolute difference; 2: mean square.
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: Sequence[int] = (256, 512, 1024),
        compression: float = 0.3,
        complex_share: float = 0.5,
        exponent: int = 1,
    ) -> None:
        super().__init__(n_ffts)
        if exponent not in (1, 2):
            raise ValueError(f"the compressed STFT loss takes exponent 1 or 2, not {exponent}")
        self.compression, self.complex_share, self.exponent = compression, complex_share, exponent

    def forward(self, pair: Pair) -> Tensor:
        total = torch.zeros((), device=pair.decoded.device)
        for n_fft in self.n_ffts:
            window = self.window(n_fft)
            scale = 1 / (window.square().sum().sqrt() * LEVEL)  # brings the mean power of a spectrum to 1
            decoded, target = (self.compress(s, scale) for s in pair.spectra(n_fft, window))
            real, imag, magnitude = (_distance(d, t, self.exponent) for d, t in zip(decoded, target))
            total = total + self.complex_share * (real + imag) + (1 - self.complex_share) * magnitude
        return total / len(self.n_ffts)

    def compress(self, spectrum: Spectrum, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compressed real part, imaginary part and magnitude, each (B, frames, bins)."""
        level = (spectrum.power * scale.square() + 1e-6).log()  # exp and log: cheaper than powers, forth and back
        gain = (level * ((self.compression - 1) / 2)).exp() * scale
        return spectrum.real * gain, spectrum.imag * gain, (level * (self.compression / 2)).exp()


class WaveformL1(Term):
    """Mean absolute sample difference over the target's RMS (EnCodec's time-domain term, made independent of level)."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()

    def forward(self, pair: Pair) -> Tensor:
        return (pair.decoded - pair.target).abs().mean() / LEVEL


TERMS: dict[str, type[Term]] = {
    "mr_stft": MultiResolutionSTFT,
    "mel": MultiScaleMel,
    "compressed_stft": CompressedSTFT,
    "waveform": WaveformL1,
}


def _distance(x: Tensor, y: Tensor, exponent: int) -> Tensor:
    return (x - y).abs().mean() if exponent == 1 else (x - y).square().mean()


def _auraloss_terms(pair: Pair, loss: nn.Module, window: Tensor) -> Tensor:
    """What ``loss`` (an ``auraloss.freq.STFTLoss``) computes, from shared spectra, with silent targets left out of its
    spectral convergence."""
    x, y = (spectrum.magnitude(loss.eps) for spectrum in pair.spectra(loss.fft_size, window))  # (B, frames, bins)
    if loss.scale == "mel":
        bands = loss.fb[0].mT  # (bins, n_mels)
        x, y = x @ bands, y @ bands
    total = torch.zeros((), device=x.device)
    if loss.w_sc and len(pair.audible):
        heard = (x, y) if len(pair.audible) == len(x) else (x[pair.audible], y[pair.audible])
        total = total + loss.w_sc * loss.spectralconv(*heard)
    if loss.w_log_mag:
        total = total + loss.w_log_mag * loss.logstft(x, y)
    if loss.w_lin_mag:
        total = total + loss.w_lin_mag * loss.linstft(x, y)
    return total


def _auraloss():
    try:
        import auraloss
    except ImportError as error:
        raise ImportError('the spectral losses need auraloss: pip install "neural-codec-toolkit[train]"') from error
    return auraloss
