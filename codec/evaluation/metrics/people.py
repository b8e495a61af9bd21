"""What becomes of the speaker and of the words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from codec.evaluation.metrics.base import EXTRA, HIGHER, LOWER, Coded, Metric, MetricError, Options, Unjudged, folder_with
from codec.evaluation.edits import edits
from codec.evaluation.sound import Sound

RATE = 16_000
WEIGHTS = "model.safetensors"
WHISPER = {
    "install": EXTRA, "modules": ("faster_whisper",), "licence": "MIT (faster-whisper; Whisper's weights)", "better": LOWER,
    "weighted": True, "option": "asr",
}


class Speaker:
    """Cosine of ECAPA-TDNN speaker embeddings of the decoded and the original speech.

    `options.ecapa` holds model.safetensors, the state of SpeechBrain's spkrec-ecapa-voxceleb `embedding_model`.
    """

    metrics = (
        Metric("speaker", "Speaker similarity", "cosine", HIGHER, "Desplanques et al. 2020 (ECAPA-TDNN)",
               "Apache-2.0 (speechbrain; its weights)", "pip install speechbrain", ("speechbrain",), option="ecapa"),
    )

    @staticmethod
    def check(options: Options) -> None:
        folder_with(options.ecapa, WEIGHTS, "--ecapa")

    def __init__(self, options: Options):
        from safetensors.torch import load_file
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        self._features = Fbank(n_mels=80)
        self._model = ECAPA_TDNN(80, channels=[1024, 1024, 1024, 1024, 3072], lin_neurons=192)
        self._model.load_state_dict(load_file(folder_with(options.ecapa, WEIGHTS, "--ecapa") / WEIGHTS))
        self._model.eval()

    def __call__(self, original: Sound, coded: Coded) -> dict[str, float]:
        if original.unheard:
            raise Unjudged(original.unheard)
        first = original.remember("ecapa", lambda: self._embed(original))
        second = self._embed(coded.sound)
        return {"speaker": float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-12))}

    def _embed(self, sound: Sound) -> np.ndarray:
        """(192,)"""
        import torch

        with torch.no_grad():
            mel = self._features(torch.from_numpy(sound.at(RATE))[None])  # (1, frames, 80)
            return self._model(mel - mel.mean(1, keepdim=True))[0, 0].numpy().astype(np.float64)


class Words:
    """Errors of Whisper's transcript of the decoded speech against its own of the original, per word or letter of that; means
    are over words and letters. `options.asr`: a size, or a folder of CTranslate2; figures of different sizes do not compare."""

    metrics = (
        Metric("dwer", "dWER", "errors a word", source="word errors against the transcript of the original", **WHISPER),
        Metric("dcer", "dCER", "errors a letter", source="letter errors against the transcript of the original", **WHISPER),
    )

    @staticmethod
    def check(options: Options) -> None:
        if not options.asr:
            raise MetricError("--asr is not given: a size of Whisper (base), or a folder of CTranslate2")
        if Path(options.asr).is_dir() and not (Path(options.asr) / "model.bin").is_file():
            raise MetricError(f"{options.asr} holds no model.bin, which --asr needs")

    def __init__(self, options: Options):
        from faster_whisper import WhisperModel

        self._model = WhisperModel(options.asr, device="cpu", compute_type="float32", cpu_threads=1)

    def __call__(self, original: Sound, coded: Coded) -> dict[str, tuple[float, float]]:
        if original.unheard:
            raise Unjudged(original.unheard)
        truth, language = original.remember("words", lambda: self._heard(original, None))
        if not truth:
            raise Unjudged("Whisper hears no words in it")
        return rates(truth, self._heard(coded.sound, language)[0])

    def _heard(self, sound: Sound, language: str | None) -> tuple[list[str], str]:
        """Words and the language."""
        segments, info = self._model.transcribe(
            sound.at(RATE), language=language, beam_size=5, temperature=0.0, condition_on_previous_text=False,
        )
        return re.findall(r"[\w']+", " ".join(segment.text for segment in segments).casefold()), info.language


def rates(truth: list[str], heard: list[str]) -> dict[str, tuple[float, float]]:
    """dwer and dcer with their weights, of words; letters are those of the words with a space between."""
    letters, others = " ".join(truth), " ".join(heard)
    return {
        "dwer": (edits(truth, heard) / len(truth), float(len(truth))),
        "dcer": (edits(letters, others) / len(letters), float(len(letters))),
    }
