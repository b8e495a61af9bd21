"""The package faster-whisper, faked."""

from __future__ import annotations

import sys
import types
from collections import namedtuple

import numpy as np

Segment = namedtuple("Segment", "words avg_logprob compression_ratio")
Piece = namedtuple("Piece", "word start end")
WORDS = [(" Can", np.float64(-0.1), 0.3), (" light", 0.3, 0.6), ("-roast", 0.6, 0.9), (" go.", 0.95, 1.7)]
GOOD = Segment([Piece(*word) for word in WORDS], -0.3, 1.0)


def install(monkeypatch):
    """Puts in place a package with a model that hears what the test says in `segments`; `calls` are the options it was
    called with."""
    fake = types.SimpleNamespace(calls=[], segments=[], shares={"en": 0.9, "de": 0.1}, made=None, encoded=0)

    class Network:
        is_multilingual = True

        def detect_language(self, encoded):
            assert encoded == "encoded"
            return [[(f"<|{code}|>", share) for code, share in fake.shares.items()]]

    class WhisperModel:
        def __init__(self, name, **options):
            if "missing" in name:
                raise ValueError("Invalid model size")
            fake.made, self.model = options, Network()
            self.model.is_multilingual = not name.endswith(".en")
            self.supported_languages = ["en", "de", "nl"] if self.model.is_multilingual else ["en"]

        def encode(self, features):
            fake.encoded += 1
            return "encoded"

        def transcribe(self, wav, **options):
            fake.calls.append(options)

            def segments():
                assert self.encode(wav) == "encoded"
                yield from fake.segments
                if len(wav) > 30 * 16_000:
                    assert self.encode(wav) == "encoded"

            return segments(), None

    monkeypatch.setitem(sys.modules, "faster_whisper", types.SimpleNamespace(WhisperModel=WhisperModel))
    return fake
