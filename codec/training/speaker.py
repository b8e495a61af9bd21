"""How far the voice of decoded speech is from the target's, as a loss: by what a speaker network says, and by what it hears on the way."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from codec.training.campplus import BANDS, CAMPPlus, Heard
from codec.training.loss_term import Term
from codec.training.resampling import Resampling
from codec.training.spectra import OneSidedDFT, Pair

WEIGHTS = Path(__file__).with_name("campplus.safetensors")
RATE = 16_000  # Hz, of what the network hears
WINDOW, HOP, N_FFT = 400, 160, 512  # of its spectra, in samples
LOWEST, HIGHEST = 20.0, 8000.0  # Hz, of its mel bands
PREEMPHASIS = 0.97
STEP = 2.0**-15  # of 16-bit integers: what is softer than one of them is none
SHORTEST = 0.3  # seconds; nobody is known by less


class Speaker(Term):
    """1 - cosine of the embeddings of decoded and target speech by CAM++: 0 for the same sound, about 0.9 for two strangers.

    Source: the network, Wang et al., "CAM++", 2023 (https://arxiv.org/abs/2303.00332); speaker embeddings compared as a loss,
    Casanova et al., "SC-GlowTTS", 2021 (https://arxiv.org/abs/2104.05557). The weights are those of
    speech_campplus_sv_zh_en_16k-common_advanced by 3D-Speaker (Apache-2.0), in float16; they are frozen and in no checkpoint.
    Silent targets and crops below 0.3 s are not judged. Its gradient at the audio is several times those of the other losses, most of it
    in pauses: where shares of the adversary are relative to the reconstruction's (`balance: reference`), lower them.

    features  weight of what the network hears on the way: the mean absolute difference between what each of its three blocks of layers
              makes of both sounds, in means of the target's, is added to 1 - cosine (deep features of speech as a loss: Germain et al.,
              "Speech Denoising with Deep Feature Losses", 2018, https://arxiv.org/abs/1806.10522).

    What was trained or refined with it is nearer to its target for ECAPA, too (docs/training-log.md), but for this network above all: judge
    it by another.
    """

    def __init__(self, sample_rate: int, features: float = 0.0) -> None:
        super().__init__()
        if not isinstance(features, int | float) or not 0 <= features < math.inf:
            raise ValueError(f"speaker: features={features!r}; give the weight of what its layers hear, 0 or more")
        if sample_rate < RATE:
            raise ValueError(f"the speaker loss hears up to 8 kHz and needs {RATE} Hz or more, not {sample_rate}; leave it out")
        with torch.device("meta"):  # random weights would be drawn for nothing, and move the caller's generator
            network = CAMPPlus()
        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(WEIGHTS).items()}
        network.load_state_dict(state, assign=True)
        self._network = [network.eval().requires_grad_(False)]  # in a list: no part of this module
        self._known: tuple[Tensor, Heard] | None = None  # the last target: refinement gives one many times
        self.features = features
        self.resample = Resampling(sample_rate, RATE)
        self.shortest = round(SHORTEST * sample_rate)
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False).pow(0.85), persistent=False)
        self.register_buffer("bands", _kaldi_bands(), persistent=False)

    def forward(self, pair: Pair) -> Tensor:
        if not len(pair.audible) or pair.decoded.shape[-1] < self.shortest:
            return pair.decoded.sum() * 0.0
        decoded, target = self.heard(pair.decoded[pair.audible]), self._targets(pair.target[pair.audible])
        distance = 1 - F.cosine_similarity(decoded.embedding, target.embedding, dim=-1).mean()
        if not self.features:
            return distance
        return distance + self.features * sum(map(_apart, decoded.blocks, target.blocks)) / len(target.blocks)

    @torch.no_grad()
    def _targets(self, wav: Tensor) -> Heard:
        known = self._known
        if known is None or known[0].device != wav.device or not torch.equal(known[0], wav):
            known = self._known = wav, self.heard(wav)
        return known[1]

    def heard(self, wav: Tensor) -> Heard:
        """wav (B, T) -> an embedding (B, 192) and features (B, channels, frames of 20 ms)."""
        spectra = self.spectra(self.resample(wav.unsqueeze(1)).squeeze(1))
        network = self._network[0].to(spectra)  # its device and dtype
        return network(spectra - spectra.mean(1, keepdim=True))

    def spectra(self, wav: Tensor) -> Tensor:
        """wav (B, T) at 16 kHz -> logarithms of mel powers (B, N, 80) as Kaldi computes them, with a floor."""
        frames = wav.unfold(-1, WINDOW, HOP) / STEP  # (B, N, 400)
        frames = frames - frames.mean(-1, keepdim=True)
        frames = frames - PREEMPHASIS * torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        real, imag = OneSidedDFT.apply(F.pad(frames * self.window, (0, N_FFT - WINDOW)))
        return ((real.square() + imag.square()) @ self.bands).clamp_min(1.0).log()


def _apart(decoded: Tensor, target: Tensor) -> Tensor:
    """Mean |decoded - target| of features (B, channels, N), in means of |target|."""
    return ((decoded - target).abs().mean((1, 2)) / target.abs().mean((1, 2)).clamp_min(1e-5)).mean()


def _kaldi_bands() -> Tensor:
    """Triangles of height 1 on Kaldi's mel scale (257, 80): straight over mel, where those of `codec.audio.mel` are over Hz."""
    edges = torch.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2)
    low, centre, high = (edges[i : i + BANDS] for i in range(3))
    mels = torch.tensor([_mel(i * RATE / N_FFT) for i in range(N_FFT // 2 + 1)]).unsqueeze(1)
    return torch.minimum((mels - low) / (centre - low), (high - mels) / (high - centre)).clamp_min(0)


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)
