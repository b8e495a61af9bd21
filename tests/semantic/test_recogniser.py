"""Whisper's words, languages and errors, over a faked package faster-whisper."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fake_whisper import GOOD, install

from codec.semantic.alignment import Word
from codec.semantic.recogniser import FasterWhisper
from codec.semantic.transcripts import Skip, TranscriptError


@pytest.fixture
def whisper(monkeypatch):
    return install(monkeypatch)


def test_whisper_words(whisper):
    whisper.segments = [GOOD]
    transcript = FasterWhisper("some/base", ["en"])(np.zeros(16_000, np.float32))
    assert transcript.words == (Word("Can", 0.0, 0.3), Word("light-roast", 0.3, 0.9), Word("go.", 0.95, 1.0))
    assert (transcript.text, transcript.source, transcript.language) == ("Can light-roast go.", "faster-whisper base", "en")
    assert whisper.made == {"device": "cpu", "device_index": 0, "compute_type": "int8"}
    assert whisper.calls[0]["word_timestamps"] and whisper.calls[0]["temperature"] == 0.0


def test_whisper_leaves_out_what_it_is_unsure_of(whisper):
    whisper.segments = [GOOD._replace(avg_logprob=-1.1), GOOD._replace(compression_ratio=2.5)]
    with pytest.raises(Skip) as skip:
        FasterWhisper("base")(np.zeros(16_000, np.float32))
    assert skip.value.reason == "unsure"
    whisper.segments = []
    with pytest.raises(Skip) as skip:
        FasterWhisper("base")(np.zeros(16_000, np.float32))
    assert skip.value.reason == "no speech"


def test_whisper_and_languages(whisper):
    whisper.segments = [GOOD]
    wav = np.zeros(32_000, np.float32)
    whisper.shares = {"de": 0.98, "en": 0.01}
    english = FasterWhisper("base", ["en"])
    for _ in range(2):
        with pytest.raises(Skip) as skip:
            english(wav)
        assert (skip.value.reason, skip.value.language) == ("language", "de")
    for languages in (["en", "de"], ["de"], []):
        whisper.calls.clear()
        assert FasterWhisper("base", languages)(wav).language == "de" and whisper.calls[-1]["language"] == "de"
    whisper.shares = {"nl": 0.4, "en": 0.35, "de": 0.2}  # more probably one of the wanted two
    assert FasterWhisper("base", ["de", "en"])(wav).language == "en" and whisper.calls[-1]["language"] == "en"
    whisper.shares = {"en": 0.99, "de": 0.01}
    assert english(wav).language == "en"
    whisper.shares = {"de": 1.0}
    assert FasterWhisper("base.en", ["en"])(wav).language == "en"  # it knows but one


@pytest.mark.parametrize("languages", [["en"], ["de", "en"], []])
@pytest.mark.parametrize("seconds, runs", [(2, 1), (40, 2)])
def test_whisper_encodes_each_window_once(languages, seconds, runs, whisper):
    whisper.segments = [GOOD]
    assert FasterWhisper("base", languages)(np.zeros(16_000 * seconds, np.float32)).language == "en"
    assert whisper.encoded == runs


def test_whisper_that_cannot_be_had(whisper, monkeypatch):
    with pytest.raises(TranscriptError, match="missing.*cannot be loaded"):
        FasterWhisper("missing")
    with pytest.raises(TranscriptError, match="'english'"):
        FasterWhisper("base", ["english"])
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(TranscriptError, match="pip install"):
        FasterWhisper("base")
