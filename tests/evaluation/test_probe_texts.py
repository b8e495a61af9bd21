"""Probes that need texts: letters, words, and what a recogniser hears."""

from __future__ import annotations

import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from synthetic_codes import SIZE, view
from torch.nn import functional as F

from codec.evaluation.probe_characters import Characters, Writer, edits
from codec.evaluation.probe_data import Recording, recordings
from codec.evaluation.probe_report import Missing, ProbeError
from codec.evaluation.probe_speech import DecodedWords
from codec.evaluation.probe_texts import Texts
from codec.evaluation.probe_tokens import CodebookSet, Tokens
from codec.evaluation.probe_view import View
from codec.evaluation.probe_words import Words, warped
from codec.semantic.alignment import Word
from codec.semantic.letters import spelled


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


class Said:
    """Stands for `Texts`."""

    def __init__(self, texts=None, words=None):
        self._texts, self._words = texts or {}, words or {}

    def text(self, recording):
        return self._texts.get(recording.digest, "")

    def words(self, recording):
        return self._words.get(recording.digest, ())


def letters(count: int = 120):
    """Codebook 1 spells the text, four frames a letter; codebook 2 is noise."""
    generator = torch.Generator().manual_seed(0)
    found, codes, texts = [], {}, {}
    for number in range(count):
        word = torch.randint(0, 5, (8,), generator=generator)
        key = digest(number)
        codes[key] = torch.stack([word.repeat_interleave(4), torch.randint(0, SIZE, (32,), generator=generator)])
        texts[key] = "".join("abcde"[letter] for letter in word)
        found.append(Recording(key, key))
    return found, codes, Said(texts)


def test_letters_are_found_where_they_are_and_only_there():
    found, codes, texts = letters()
    task = Characters(found, texts)
    (row,) = task.measure(view(codes, 1, only_steps=120))
    assert row.value < 0.4 and row.beyond_chance and row.better == "lower" and row.chance > 0.6
    assert row.count == sum(recording.fold(5) == 0 for recording in found)
    (row,) = task.measure(view(codes, 2, only_steps=120))
    assert row.value > 0.6 and abs(row.value - row.chance) < 0.1
    with pytest.raises(Missing, match="--transcripts"):
        Characters(found, Said())
    with pytest.raises(ProbeError, match="to train on .* are too few, 50 and 10 are needed"):
        Characters(found[:40], texts)


def test_a_part_with_most_recordings_is_not_for_testing():
    """One speaker who is in the first part and says most of what there is."""
    found, _, texts = letters()
    speakers = ["loud"] * 70 + [f"other {number}" for number in range(50)]
    found = [Recording(each.path, each.digest, name) for each, name in zip(found, speakers)]
    task = Characters(found, texts)
    assert found[0].fold(5) == 0 and not task.tested[:70].any() and task.tested.sum() >= 10
    assert {found[number].fold(5) for number in np.flatnonzero(task.tested)} == {1}


@pytest.mark.parametrize("frame_rate, stride, places", [(12.5, 1, 4), (25, 1, 2), (50, 2, 2), (75, 3, 2), (86.1, 3, 2)])
def test_there_is_room_for_letters_at_every_rate(frame_rate, stride, places):
    head = Writer([torch.randn(4, 3)], frame_rate).eval()
    assert (head.stride, head.places) == (stride, places)
    mask = torch.arange(31) < torch.tensor([[31], [20]])
    codes = torch.randint(0, 4, (2, 1, 31))
    log_probs, lengths = head(codes, mask)
    assert log_probs.shape == (2, -(-31 // stride) * places, 29)
    assert lengths.tolist() == [-(-31 // stride) * places, -(-20 // stride) * places]
    alone, _ = head(codes[1:, :, :20], mask[1:, :20])
    assert torch.allclose(alone[0], log_probs[1, : lengths[1]], atol=1e-5)  # padding changes nothing


def test_edits():
    for a, b, number in [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]:
        assert edits(a, b) == number == edits(b, a)
    assert edits(["two", "words"], ["two", "other", "words"]) == 1


def test_spelling():
    assert spelled("  Don\u2019t - stop, Caf\u00e9!") == "don't stop cafe"
    for text in ("", "room 7", "\u4f60\u597d", "..."):
        assert spelled(text) is None


def spoken(speakers: int = 6):
    """Five words of 0.4 s in codebook 1 that all speakers say in their own order, with noise; codebook 2 is noise."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, SIZE, (5, 20), generator=generator)
    found, codes, said = [], {}, {}
    for number in range(speakers):
        order = torch.randperm(5, generator=generator)
        code = torch.stack([words[order].flatten(), torch.randint(0, SIZE, (100,), generator=generator)])
        noise = torch.rand(100, generator=generator) < 0.3
        code[0, noise] = torch.randint(0, SIZE, (int(noise.sum()),), generator=generator)
        key = digest(number)
        codes[key] = code
        said[key] = tuple(Word(("One", "two,", "three", "four", "five")[word], 0.4 * at, 0.4 * (at + 1)) for at, word in enumerate(order))
        found.append(Recording(key, key, str(number)))
    return found, codes, Said(words=said)


def test_words_are_known_where_they_are_and_only_there():
    found, codes, texts = spoken()
    task = Words(found, texts)
    for a, b, x in task.triplets:
        assert a.word == x.word != b.word and a.recording == b.recording != x.recording
    assert {word.word for triplet in task.triplets for word in triplet} == {"one", "two", "three", "four", "five"}
    (row,) = task.measure(view(codes, 1))
    assert row.value < 0.05 and row.beyond_chance and row.chance == 0.5
    (row,) = task.measure(view(codes, 2))
    assert row.low <= 0.5 <= row.high
    assert Words(found, texts).triplets == task.triplets  # drawn the same way
    with pytest.raises(Missing, match="--transcripts"):
        Words(found, Said())
    with pytest.raises(ProbeError, match="0 comparisons .* are too few"):
        Words(found[:1], texts)


def test_equal_words_are_half_wrong():
    found, codes, texts = spoken()
    same = {key: torch.zeros_like(code) for key, code in codes.items()}
    (row,) = Words(found, texts).measure(view(same, 1))
    assert row.value == 0.5


def test_warping():
    generator = torch.Generator().manual_seed(0)
    pairs = [(F.normalize(torch.randn(n, 3, generator=generator), dim=1), F.normalize(torch.randn(m, 3, generator=generator), dim=1))
             for n, m in [(1, 1), (4, 2), (3, 6), (5, 5)]]

    def slow(a, b):
        cost = 1 - a @ b.T

        def best(i, j):
            if i < 0 or j < 0:
                return float("inf")
            if i == j == 0:
                return 2 * float(cost[0, 0])
            here = float(cost[i, j])
            return min(best(i - 1, j) + here, best(i, j - 1) + here, best(i - 1, j - 1) + 2 * here)

        return best(len(a) - 1, len(b) - 1) / (len(a) + len(b))

    together = warped([a for a, _ in pairs], [b for _, b in pairs])
    assert np.allclose(together, [slow(a, b) for a, b in pairs], atol=1e-6)
    stretched = pairs[3][0].repeat_interleave(2, 0)
    assert warped([stretched], [pairs[3][0]])[0] < 1e-6


def test_texts_are_known_by_content(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("given", "heard", "unknown"):
        soundfile.write(tmp_path / f"{name}.wav", (1000 * rng.standard_normal(1000)).astype(np.int16), 16_000)
    wav = (soundfile.read(tmp_path / "heard.wav", dtype="int16")[0]).astype("<i2")
    from codec.training.data import decode

    key = hashlib.sha256(decode(tmp_path / "heard.wav", 16_000).tobytes()).hexdigest()
    assert len(wav) == 1000
    (tmp_path / "t.jsonl").write_text(json.dumps({"key": key, "text": "Heard this", "words": [["Heard", 0, 0.01], ["this", 0.02, 0.03]]}))
    (tmp_path / "manifest.json").write_text(json.dumps(
        [{"path": "given.wav", "text": "Given"}, {"path": "heard.wav"}, {"path": "unknown.wav"}]))
    (tmp_path / "heard.wav").rename(tmp_path / "moved.wav")
    (tmp_path / "moved.wav").rename(tmp_path / "heard.wav")
    texts = Texts(tmp_path, tmp_path / "t.jsonl", tmp_path / "cache")
    told = {recording.path.rsplit("/", 1)[1]: (texts.text(recording), len(texts.words(recording))) for recording in recordings(tmp_path)}
    assert told == {"given.wav": ("Given", 0), "heard.wav": ("Heard this", 2), "unknown.wav": ("", 0)}
    texts.keep()
    assert key in (tmp_path / "cache" / "content-keys.json").read_text()
    with pytest.raises(ProbeError, match="codec transcribe"):
        Texts(tmp_path, tmp_path / "none.jsonl")


class Whisper:
    """Hears four words in an original, and one of them otherwise in what was decoded."""

    def __init__(self, name, **options):
        if name == "nowhere":
            raise RuntimeError("no such model")

    def transcribe(self, wav, language=None, **options):
        text = "One two, three four" if language is None else "one two, free four"
        return iter([SimpleNamespace(text=text)]), SimpleNamespace(language="en")


def test_decoded_words(tmp_path, tiny_model, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(5):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(8_000), 8_000)
    found = recordings(tmp_path)
    with pytest.raises(Missing, match="--asr"):
        DecodedWords(found, "")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(Missing, match="pip install"):
        DecodedWords(found, "base")
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    with pytest.raises(ProbeError, match="cannot be loaded"):
        DecodedWords(found, "nowhere")
    task, tokens = DecodedWords(found, "base"), Tokens(tiny_model, tmp_path / "cache")
    (row,) = task.measure(View("tiny", tokens, CodebookSet(1, 2)))
    assert (row.value, row.low, row.high, row.chance, row.count) == (0.25, 0.25, 0.25, 1.0, 5)
    with pytest.raises(Missing, match="do not decode on their own"):
        list(task.measure(View("tiny", tokens, CodebookSet(2, 2))))
    task.recordings = task.recordings[:4]
    with pytest.raises(ProbeError, match="16 words in the recordings"):
        list(task.measure(View("tiny", tokens, CodebookSet(1, 1))))
