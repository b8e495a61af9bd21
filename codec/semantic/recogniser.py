"""A speech recogniser that writes transcripts: Whisper, with the times of its words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codec.semantic.alignment import SAMPLE_RATE, Word
from codec.semantic.transcripts import Skip, Transcript, TranscriptError

UNSURE = -1.0  # mean log probability of a segment's tokens below which it is dropped; Whisper's own limit
REPEATING = 2.4  # length over compressed length of a segment above which it is dropped; Whisper's own limit


class FasterWhisper:
    """Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356) through the package `faster-whisper`.

    Args:
        name_or_dir: a size ("base", "large-v3", ...) or hub id, which are downloaded, or a folder of CTranslate2.
        languages: codes like "en". The most probable one of them is taken; a recording that is more probably in another
            language than in all of these is skipped. Empty: whatever is detected.
        device: cpu (int8 products) or cuda (float16).

    Words get their times from Whisper's attention to the sound. Decoding is a beam search without chance. Segments that
    Whisper is unsure of or that repeat themselves are left out. Raises TranscriptError without the package or the model.
    """

    def __init__(self, name_or_dir: str | Path, languages: Sequence[str] = (), device: str = "cpu"):
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise TranscriptError(
                'transcribing needs faster-whisper: pip install "neural-codec-toolkit[eval]"'
            ) from None
        self.name = f"faster-whisper {Path(name_or_dir).name}"
        self.languages = tuple(languages)
        kind, _, index = device.partition(":")
        try:
            self._model = WhisperModel(
                str(name_or_dir), device=kind, device_index=int(index or 0), compute_type="int8" if kind == "cpu" else "float16"
            )
        except Exception as error:  # of the hub, of CTranslate2, of the file system
            raise TranscriptError(
                f"the recogniser {name_or_dir} cannot be loaded ({error}); name a size such as base, or a folder of CTranslate2"
            ) from error
        unknown = [language for language in self.languages if language not in self._model.supported_languages]
        if unknown:
            raise TranscriptError(f"{self.name} knows no language {unknown[0]!r}; languages are codes like en, de, zh")
        self._encode, self._model.encode = self._model.encode, self._listen
        self._language: str | None = None  # that is being decoded, until it is known to be the right one
        self._encoded: Any = None  # what the encoder gave when it was not

    def __call__(self, wav: np.ndarray) -> Transcript:
        """16 kHz samples (T,) float32 to a transcript. Raises Skip for another language and where no words are heard."""
        language = (self.languages or self._model.supported_languages)[0]
        self._language, self._encoded = language, None
        try:
            segments = self._segments(wav, language)
        except _OtherLanguage as other:
            self._language, language = None, other.language
            segments = self._segments(wav, language)
        seconds = len(wav) / SAMPLE_RATE
        sure = [s for s in segments if s.avg_logprob >= UNSURE and s.compression_ratio <= REPEATING]
        words = _whole_words((word for segment in sure for word in segment.words or []), seconds)
        if not words:
            raise Skip("unsure" if any(segment.words for segment in segments) else "no speech", language)
        return Transcript(" ".join(word.text for word in words), words, language, "asr", self.name, seconds=seconds)

    def _segments(self, wav: np.ndarray, language: str) -> list[Any]:
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(wav, dtype=np.float32), language=language, beam_size=5, temperature=0.0, word_timestamps=True,
            condition_on_previous_text=False,
        )
        return list(segments)

    def _listen(self, features: np.ndarray) -> Any:
        """The encoder, in the place of the model's. The language is found in what it gives for the first 30 s; the package
        would run it twice."""
        if self._encoded is not None:
            encoded, self._encoded = self._encoded, None
            return encoded
        encoded = self._encode(features)
        if self._language is not None and self._model.model.is_multilingual:
            decoded, self._language = self._language, None
            shares = {token[2:-2]: share for token, share in self._model.model.detect_language(encoded)[0]}  # <|en|>
            language = max(shares, key=shares.get)
            if self.languages and language not in self.languages:
                wanted = {code: shares.get(code, 0.0) for code in self.languages}
                if sum(wanted.values()) < 0.5:
                    raise Skip("language", language)
                language = max(wanted, key=wanted.get)
            if language != decoded:
                self._encoded = encoded
                raise _OtherLanguage(language)
        return encoded


class _OtherLanguage(Exception):
    def __init__(self, language: str):
        self.language = language


def _whole_words(pieces: Iterable[Any], seconds: float) -> tuple[Word, ...]:
    """Whisper's words, those that go on from the one before without a space ("-roast") joined to it."""
    words: list[Word] = []
    for piece in pieces:
        text = piece.word.strip()
        start = min(max(float(piece.start), words[-1].start if words else 0.0), seconds)
        end = min(max(float(piece.end), start), seconds)
        if not text:
            continue
        if words and not piece.word[0].isspace():
            words[-1] = replace(words[-1], text=words[-1].text + text, end=max(end, words[-1].end))
        else:
            words.append(Word(text, start, end))
    return tuple(words)
