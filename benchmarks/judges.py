"""Measures of decoded speech against the original, both 16 kHz float32 arrays (T,) of the same length.

A judge takes the original and gives a function of what was decoded, so that the original is heard once.
Scores are {metric: (value, weight)}; the mean of a metric over utterances is weighted with it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

RATE = 16_000
Scores = dict[str, tuple[float, float]]
Judge = Callable[[np.ndarray], Callable[[np.ndarray], Scores]]  # judge(original)(decoded)

DISTILLMOS, ECAPA, WHISPER = "distillmos", "speechbrain", "faster_whisper"  # the modules behind the optional judges


def missing(module: str) -> str | None:
    """The command that installs an optional judge, or None when it is there."""
    return None if importlib.util.find_spec(module) else f"pip install {module.replace('_', '-')}"


def unusable(wav: np.ndarray) -> str | None:
    """Why an original cannot be judged, or None. STOI needs 0.4 s within 40 dB of the loudest part."""
    if len(wav) < RATE:
        return "shorter than 1 s"
    frames = wav[: len(wav) // 320 * 320].reshape(-1, 320)
    energy = (frames.astype(np.float64) ** 2).mean(1)
    if energy.max() < 1e-6:  # -60 dBFS
        return "silent"
    if (energy > 1e-4 * energy.max()).sum() < 30:
        return "less than 0.6 s of sound"
    return None


def intelligibility(wav: np.ndarray) -> Callable[[np.ndarray], Scores]:
    """PESQ-wb (ITU-T P.862.2), STOI (Taal et al. 2011), ESTOI (Jensen and Taal 2016).

    PESQ-wb is 1 where nothing is left of the speech.
    """
    from pesq import NoUtterancesError, pesq
    from pystoi import stoi

    def score(decoded: np.ndarray) -> Scores:
        quality = 1.0
        if np.abs(decoded).max() > 1e-5:  # the package fails on digital silence
            try:
                quality = float(pesq(RATE, wav, decoded, "wb"))
            except NoUtterancesError:
                pass
        plain, extended = (float(stoi(wav, decoded, RATE, extended=e)) for e in (False, True))
        return {"PESQ-wb": (quality, 1.0), "STOI": (plain, 1.0), "ESTOI": (extended, 1.0)}

    return score


def distillmos() -> Judge:
    """Distill-MOS, a predicted opinion score that needs no original (Stahl and Gamper 2025, package distillmos)."""
    from distillmos import ConvTransformerSQAModel

    model = ConvTransformerSQAModel().eval()

    @torch.no_grad()
    def score(decoded: np.ndarray) -> Scores:
        return {"Distill-MOS": (float(model(torch.from_numpy(decoded)[None])), 1.0)}

    return lambda wav: score


def speaker_similarity(folder: Path) -> Judge:
    """Cosine of ECAPA-TDNN speaker embeddings (Desplanques et al. 2020) of decoded and original speech.

    folder: holds model.safetensors, the state of SpeechBrain's spkrec-ecapa-voxceleb `embedding_model`.
    """
    from safetensors.torch import load_file
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    features = Fbank(n_mels=80)
    model = ECAPA_TDNN(80, channels=[1024, 1024, 1024, 1024, 3072], lin_neurons=192)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()

    @torch.no_grad()
    def embed(wav: np.ndarray) -> torch.Tensor:
        mel = features(torch.from_numpy(wav)[None])  # (1, frames, 80)
        return model(mel - mel.mean(1, keepdim=True))[0, 0]  # (192,)

    def judge(wav: np.ndarray) -> Callable[[np.ndarray], Scores]:
        speaker = embed(wav)
        return lambda decoded: {"ECAPA sim": (float(torch.cosine_similarity(speaker, embed(decoded), dim=0)), 1.0)}

    return judge


def word_errors(folder: Path) -> Judge:
    """dWER: word errors of the decoded speech's transcript against the original's, both by Whisper, per original word.

    folder: a CTranslate2 Whisper model for `faster_whisper.WhisperModel`.
    """
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)

    def words(wav: np.ndarray, language: str | None) -> tuple[list[str], str]:
        segments, info = model.transcribe(
            wav, language=language, beam_size=5, temperature=0.0, condition_on_previous_text=False,
        )
        text = " ".join(segment.text for segment in segments).lower()
        return re.findall(r"[\w']+", text), info.language

    def judge(wav: np.ndarray) -> Callable[[np.ndarray], Scores]:
        truth, language = words(wav, None)
        total = max(1, len(truth))
        return lambda decoded: {"dWER": (edits(truth, words(decoded, language)[0]) / total, float(total))}

    return judge


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that make `b` of `a`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]
