"""Transcribing a small corpus: texts that come with it, and a faked recogniser."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from codec.semantic.alignment import AlignmentError, Word
from codec.semantic.corpus_texts import Given, given_texts
from codec.semantic.features import content_key
from codec.semantic.transcribing import transcribe
from codec.semantic.transcripts import Skip, Transcript, TranscriptError, Transcripts
from codec.training.data import decode

HELLO = Transcript("hello there", (Word("hello", 0.1, 0.4), Word("there", 0.4, 0.8)), "en", "asr", "fake", "a.wav", 1.0)


def noise(path, seconds=1.0, level=0.1, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.random.default_rng(seed).standard_normal(int(16_000 * seconds)), 16_000)
    return path


# Texts that come with it


def test_texts_of_a_manifest(tmp_path):
    rows = [{"path": "a.wav", "text": " one two ", "language": "en"}, {"path": "b.wav"}]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = {str(tmp_path / "a.wav"): Given("one two", "en"), str(tmp_path / "b.wav"): Given()}
    assert given_texts(tmp_path) == given_texts(tmp_path / "m.jsonl") == expected
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "text": 1}')
    with pytest.raises(TranscriptError, match="a.wav"):
        given_texts(tmp_path / "m.jsonl")


def test_texts_of_librispeech(tmp_path):
    noise(tmp_path / "84" / "1" / "84-1-0000.flac")
    (tmp_path / "84" / "1" / "84-1.trans.txt").write_text("84-1-0000 GO DO YOU HEAR\n84-1-0001 AND\n")
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        report = transcribe(tmp_path, out, languages=["en"])
        ((_, transcript),) = out.items()
    assert report.transcribed == 1
    assert (transcript.text, transcript.words, transcript.timing, transcript.language) == ("GO DO YOU HEAR", (), "", "en")


# A recogniser, an aligner


class Heard:
    """A recogniser that hears "hello there" but what it is told to skip."""

    def __init__(self, skip: Skip | None = None):
        self.skip, self.calls = skip, 0

    def __call__(self, wav):
        assert wav.dtype == np.float32 and np.abs(wav).max() <= 1
        self.calls += 1
        if self.skip is not None:
            raise self.skip
        return Transcript("hello there", HELLO.words, "en", "asr", "fake")


@pytest.fixture
def corpus(tmp_path):
    """Two recordings, a silent one, one in German, one that is no audio."""
    folder = tmp_path / "corpus"
    for seed, name in enumerate(("a", "b", "german")):
        noise(folder / f"{name}.wav", seed=seed)
    noise(folder / "silent.wav", level=1e-4)
    (folder / "broken.wav").write_text("text")
    rows = [{"path": f"{name}.wav"} for name in ("a", "b", "silent", "broken")]
    rows[1]["text"] = "Hello, you there"
    rows.append({"path": "german.wav", "text": "nun", "language": "de"})
    (folder / "manifest.json").write_text(json.dumps(rows))
    return folder


def test_a_corpus_is_transcribed_once(corpus, tmp_path):
    asr, seen = Heard(), []
    for again in range(3):
        with Transcripts(tmp_path / "t.jsonl", write=True) as out:
            report = transcribe(corpus, out, asr, languages=["en"], progress=lambda *call: seen.append(call))
        assert len(report.failed) == 1 and "broken.wav" in report.failed[0]
        if not again:
            assert report.transcribed == 2 and report.done_before == 0 and report.seconds == 2.0
            assert report.skipped == {"silent": 1, "language": 1}
        else:
            assert report.transcribed == 0 and report.done_before == 4 and not report.skipped
    assert asr.calls == 2 and seen[0] == (0, 5, str(corpus / "a.wav"))
    done = {transcript.path: transcript for _, transcript in Transcripts(tmp_path / "t.jsonl").items()}
    assert set(Transcripts(tmp_path / "t.jsonl").skipped) | {key for key, _ in Transcripts(tmp_path / "t.jsonl").items()} == {
        content_key(decode(corpus / f"{name}.wav", 16_000)) for name in ("a", "b", "silent", "german")
    }
    heard, given = done[str(corpus / "a.wav")], done[str(corpus / "b.wav")]
    assert (heard.text, heard.timing, heard.source, heard.language) == ("hello there", "asr", "fake", "en")
    assert (given.text, given.timing, given.source, given.language) == ("Hello, you there", "matched", "given", "en")
    assert given.words == (Word("Hello,", 0.1, 0.4), Word("you", 0.4, 0.4), Word("there", 0.4, 0.8))


def test_without_a_recogniser_texts_are_kept_and_get_times_later(corpus, tmp_path):
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        report = transcribe(corpus, out, languages=["en"])
        assert report.transcribed == 1 and report.skipped == {"no text": 1, "silent": 1, "language": 1}
        report = transcribe(corpus, out, Heard(), languages=["en"])
        assert report.transcribed == 2 and report.done_before == 2 and not report.skipped
        assert all(transcript.words for _, transcript in out.items())


def test_another_language_may_be_wanted_later(corpus, tmp_path):
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        transcribe(corpus, out, languages=["en"])
        assert transcribe(corpus, out, languages=["de"]).transcribed == 1
        assert {transcript.language for _, transcript in out.items()} == {"en", "de"}


def test_an_aligner_gives_the_times(corpus, tmp_path):
    def aligner(text, wav):
        assert len(wav) == 16_000
        return tuple(Word(word, 0.2, 0.3) for word in text.split())

    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        transcribe(corpus, out, Heard(), aligner, ["en"])
        assert {(t.text, t.timing, t.words[0].start) for _, t in out.items()} == {
            ("hello there", "ctc", 0.2), ("Hello, you there", "ctc", 0.2)
        }


def test_what_the_aligner_refuses_is_a_mismatch(corpus, tmp_path):
    def aligner(text, wav):
        raise AlignmentError("too long")

    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        assert transcribe(corpus, out, Heard(), aligner, ["en"]).skipped == {"mismatch": 2, "silent": 1, "language": 1}


def test_what_the_recogniser_skips_is_counted_and_noted(corpus, tmp_path):
    asr = Heard(Skip("no speech", "en"))
    for _ in range(2):
        with Transcripts(tmp_path / "t.jsonl", write=True) as out:
            report = transcribe(corpus, out, asr, languages=["en"])
    assert asr.calls == 2 and report.done_before == 4


def test_a_text_of_something_else_is_a_mismatch(corpus, tmp_path):
    rows = [{"path": "a.wav", "text": "quite another text than that"}]
    (corpus / "manifest.json").write_text(json.dumps(rows))
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        assert transcribe(corpus, out, Heard()).skipped == {"mismatch": 1} and len(out) == 0
