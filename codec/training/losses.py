"""Reconstruction losses, named in a recipe and weighted there.

    losses = SpectralLosses(16_000, [{"name": "mr_stft", "weight": 1.0}, {"name": "waveform", "weight": 0.5}])
    total, terms = losses(decoded, target)  # both (B, 1, T)

Quiet speech counts as much as loud speech: before any term is computed, both signals of an item are multiplied by the
one gain that brings the target to an RMS of -26 dBFS. The gain stops growing for targets below -50 dBFS, so that
silence stays small and no gradient explodes. Everything is computed in float32, also under autocast, and STFTs are
shared between the terms that use the same one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from codec.audio.mel import mel_filters
from codec.training.disturbance import PESQDisturbance
from codec.training.intelligibility import STOI
from codec.training.loss_term import Term
from codec.training.pqmf import PQMF
from codec.training.speaker import Speaker
from codec.training.spectra import LEVEL, Pair, Spectrum

MEL_FLOOR = 1e-8  # of the squared magnitude of a bin, as auraloss has it


class Losses(NamedTuple):
    """``total``: the weighted sum, a scalar. ``terms``: each unweighted term by name; all are attached to the graph."""

    total: Tensor
    terms: dict[str, Tensor]


class SpectralLosses(nn.Module):
    """The weighted sum of the terms that a recipe names.

    entries: mappings with ``name`` (one of ``TERMS``), ``weight`` (default 1.0) and ``options`` (the arguments of that
    term's class). Further entries of one name are called ``mel_2``, ``mel_3``, ... Raises ValueError for unknown names and
    options.
    """

    def __init__(self, sample_rate: int, entries: Iterable[Mapping[str, Any]]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        for entry in entries:
            name = entry.get("name")
            if name not in TERMS:
                raise ValueError(f"no reconstruction loss is called {name!r}; choose one of {', '.join(sorted(TERMS))}")
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
            earlier = sum(type(term) is TERMS[name] for term in self.terms.values())
            key = f"{name}_{earlier + 1}" if earlier else name
            self.terms[key] = TERMS[name](sample_rate=sample_rate, **options)
            self.weights[key] = float(entry.get("weight", 1.0))

    def forward(self, decoded: Tensor, target: Tensor) -> Losses:
        """decoded, target: (B, C, T) in [-1, 1], of one shape. Gradients reach ``decoded`` only."""
        if decoded.shape != target.shape or decoded.dim() != 3:
            raise ValueError(
                f"decoded and target must both be (B, C, T), not {tuple(decoded.shape)} and {tuple(target.shape)}"
            )
        with torch.autocast(decoded.device.type, enabled=False):
            pair = Pair.at_level(decoded.flatten(0, 1).float(), target.flatten(0, 1).detach().float())
            terms = {name: term(pair) for name, term in self.terms.items()}
            total = torch.zeros((), device=decoded.device)
            for name, value in terms.items():
                total = total + self.weights[name] * value
        return Losses(total, terms)


class MultiResolutionSTFT(Term):
    """Spectral convergence and log-magnitude distance at several resolutions, by ``auraloss``.

    Source: Yamamoto et al., "Parallel WaveGAN", 2020 (arXiv 1910.11480); Steinmetz and Reiss, "auraloss", 2020. The
    value is that of ``auraloss.freq.MultiResolutionSTFTLoss`` at the common level, except that silent targets are left
    out of the spectral convergence, which divides by the target's norm.

    n_ffts, hops, windows  as for :class:`Term`. X-Codec: (512, 1024, 2048), (120, 240, 300), (480, 960, 1200).
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: Sequence[int] = (256, 512, 1024, 2048),
        w_sc: float = 1.0,
        w_log_mag: float = 1.0,
        w_lin_mag: float = 0.0,
        hops: Sequence[int] | None = None,
        windows: Sequence[int] | None = None,
    ) -> None:
        super().__init__(n_ffts, hops, windows)
        auraloss = _auraloss()
        sizes = [list(numbers) for numbers in zip(*self.resolutions)]
        self.auraloss = auraloss.freq.MultiResolutionSTFTLoss(
            *sizes, w_sc=w_sc, w_log_mag=w_log_mag, w_lin_mag=w_lin_mag
        )

    def forward(self, pair: Pair) -> Tensor:
        pairs = zip(self.resolutions, self.auraloss.stft_losses)
        values = [_auraloss_terms(pair, self.spectra(pair, size), loss) for size, loss in pairs]
        return sum(values) / len(values)


class SubbandSTFT(MultiResolutionSTFT):
    """The terms of "mr_stft" on the bands of a filter bank, each at a fraction of the rate: soft upper bands get
    spectra of their own.

    Source: Yang et al., "Multi-band MelGAN", 2020; sizes and bands of X-Codec (Ye et al., 2024). Norms of the spectral
    convergence are taken over all bands together, so that an empty band divides by nothing small.

    bands                  of the PQMF bank, equally wide (``codec.training.pqmf``).
    n_ffts, hops, windows  in samples of a band, of which `bands` times fewer are a second.
    """

    def __init__(
        self,
        sample_rate: int,
        bands: int = 6,
        n_ffts: Sequence[int] = (128, 256, 256),
        hops: Sequence[int] | None = (20, 40, 50),
        windows: Sequence[int] | None = (80, 120, 200),
        w_sc: float = 1.0,
        w_log_mag: float = 1.0,
        w_lin_mag: float = 0.0,
    ) -> None:
        super().__init__(sample_rate, n_ffts, w_sc, w_log_mag, w_lin_mag, hops, windows)
        self.pqmf = PQMF(bands)

    def forward(self, pair: Pair) -> Tensor:
        # (B, T) -> (B * M, T / M)
        decoded, target = (self.pqmf.analysis(wav).flatten(0, 1) for wav in (pair.decoded, pair.target))
        bands = torch.arange(self.pqmf.bands, device=target.device)
        audible = (pair.audible.unsqueeze(1) * len(bands) + bands).flatten()
        return super().forward(Pair(decoded, target, audible, decimated=len(bands)))


class MultiScaleMel(Term):
    """L1 distance of log mel magnitudes at several window sizes.

    Source: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023, who found several window
    sizes to keep transients that one size smears. The value is the mean of ``auraloss.freq.MelSTFTLoss(w_sc=0)`` at the
    common level. DAC sums over its seven windows and takes log10 of squared magnitudes: its weight of 15 is
    15 * 7 * 2 / ln(10) = 91 here.

    n_ffts, n_mels  window sizes and the number of mel bands of each. DAC: n_ffts (32, 64, 128, 256, 512, 1024, 2048),
                    n_mels (5, 10, 20, 40, 80, 160, 320).
    hops            as for :class:`Term`. SpeechTokenizer: 240 for a window of 1024.
    drop_empty      leave out mel bands that hold no bin of their spectrum (of DAC's, one each of the two shortest
                    windows at 48 kHz, none up to 44.1 kHz); in DAC they count, with a distance of 0. False: they are
                    an error.
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: Sequence[int] = (256, 512, 1024, 2048),
        n_mels: Sequence[int] = (16, 32, 64, 80),
        drop_empty: bool = False,
        hops: Sequence[int] | None = None,
    ) -> None:
        super().__init__(n_ffts, hops)
        if len(n_ffts) != len(n_mels):
            raise ValueError(f"the mel loss needs one n_mels per n_fft, not {len(n_mels)} for {len(n_ffts)}")
        for number, (size, bands) in enumerate(zip(self.resolutions, n_mels)):
            filters = torch.tensor(mel_filters(sample_rate, size.n_fft, bands), dtype=torch.float32)
            held = filters.sum(1) > 0  # (bands,)
            if not held.any() or not (drop_empty or held.all()):
                raise ValueError(
                    f"{bands} mel bands are too many for windows of {size.n_fft}: some hold no bin; lower n_mels, "
                    "or set drop_empty to leave those out"
                )
            self.register_buffer(f"filters_{number}", filters[held].T.contiguous(), persistent=False)  # (bins, bands)

    def forward(self, pair: Pair) -> Tensor:
        total = torch.zeros((), device=pair.decoded.device)
        for number, size in enumerate(self.resolutions):
            filters = getattr(self, f"filters_{number}")
            decoded, target = ((s.magnitude(MEL_FLOOR) @ filters).log() for s in self.spectra(pair, size))
            total = total + (decoded - target).abs().mean()
        return total / len(self.resolutions)


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
        for resolution in self.resolutions:
            window = getattr(self, self._name(resolution))
            scale = 1 / (window.square().sum().sqrt() * LEVEL)  # brings the mean power of a spectrum to 1
            decoded, target = (self.compress(s, scale) for s in self.spectra(pair, resolution))
            real, imag, magnitude = (_distance(d, t, self.exponent) for d, t in zip(decoded, target))
            total = total + self.complex_share * (real + imag) + (1 - self.complex_share) * magnitude
        return total / len(self.resolutions)

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
    "subband_stft": SubbandSTFT,
    "mel": MultiScaleMel,
    "compressed_stft": CompressedSTFT,
    "waveform": WaveformL1,
    "pesq": PESQDisturbance,
    "stoi": STOI,
    "speaker": Speaker,
}


def _distance(x: Tensor, y: Tensor, exponent: int) -> Tensor:
    return (x - y).abs().mean() if exponent == 1 else (x - y).square().mean()


def _auraloss_terms(pair: Pair, spectra: tuple[Spectrum, Spectrum], loss: nn.Module) -> Tensor:
    """What ``loss`` (an ``auraloss.freq.STFTLoss``) computes, from shared spectra, with silent targets left out of its
    spectral convergence."""
    x, y = (spectrum.magnitude(loss.eps) for spectrum in spectra)  # (B, frames, bins)
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
