"""Transcripts: the file that keeps them, a faked recogniser over a small corpus, and the verb."""

from __future__ import annotations

import errno
import json
import sys
import types
from collections import namedtuple

import numpy as np
import pytest
import soundfile

from codec import cli
from codec.atomic import WriteError
from codec.semantic.alignment import AlignmentError, Word
from codec.semantic.features import content_key
from codec.semantic.transcripts import FasterWhisper, Given, Skip, Transcript, TranscriptError, Transcripts, given_texts, transcribe
from codec.training.data import decode

HELLO = Transcript("hello there", (Word("hello", 0.1, 0.4), Word("there", 0.4, 0.8)), "en", "asr", "fake", "a.wav", 1.0)


def noise(path, seconds=1.0, level=0.1, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.random.default_rng(seed).standard_normal(int(16_000 * seconds)), 16_000)
    return path


# The file


def test_what_is_added_is_read_back(tmp_path):
    path = tmp_path / "t.jsonl"
    with Transcripts(path, write=True) as out:
        out.add("a", HELLO)
        out.add("b", Transcript("ohne Zeiten: ü", language="de"))
        out.skip("c", Skip("silent"))
    again = Transcripts(path)
    assert len(again) == 2 and "a" in again and "c" not in again and again.get("x") is None
    assert again.get("a") == HELLO and again.get("b").text == "ohne Zeiten: ü" and again.get("b").words == ()
    assert again.skipped["c"].reason == "silent" and [key for key, _ in again.items()] == ["a", "b"]
    assert len(path.read_text().splitlines()) == 3  # one JSON object a line


def test_the_last_line_of_a_key_counts(tmp_path):
    path = tmp_path / "t.jsonl"
    with Transcripts(path, write=True) as out:
        out.skip("a", Skip("language", "de"))
        out.add("a", HELLO)
        out.add("b", HELLO)
        out.skip("b", Skip("silent"))
        assert "a" in out and "a" not in out.skipped and "b" not in out
    again = Transcripts(path)
    assert "a" in again and "a" not in again.skipped and "b" not in again


def test_a_torn_line_costs_that_line_alone(tmp_path):
    path = tmp_path / "t.jsonl"
    with Transcripts(path, write=True) as out:
        out.add("a", HELLO)
        out.add("b", HELLO)
    path.write_bytes(path.read_bytes()[:-20])  # killed while writing b
    with pytest.warns(UserWarning, match="line 2"), Transcripts(path, write=True) as out:
        assert "a" in out and "b" not in out
        out.add("c", HELLO)
    with pytest.warns(UserWarning, match="1 torn"):
        again = Transcripts(path)
    assert "a" in again and "c" in again and "b" not in again


def test_two_writers_keep_each_others_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    with Transcripts(path, write=True) as one, Transcripts(path, write=True) as two:
        one.add("a", HELLO)
        two.add("b", HELLO)
        one.add("c", HELLO)
    assert [key for key, _ in Transcripts(path).items()] == ["a", "b", "c"]


@pytest.mark.parametrize("content, words", [
    ("RIFF nothing of the kind\n", "holds no transcripts"),
    ('{"text": "no key"}\n', "line 1 .* no transcript"),
    ('{"key": "a", "text": "x", "words": [["x", 1]]}\n', "line 1 .* no transcript"),
    ('{"key": "a", "text": 3}\n', "line 1 .* no transcript"),
    ('{"key": "a", "text": "x", "words": [["x", 2, 1]]}\n', "line 1 .*must be in order"),
    ('{"key": "a", "text": "x y", "words": [["x", 2, 3], ["y", 1, 4]]}\n', "line 1 .*must be in order"),
])
def test_other_files_are_refused(content, words, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    with pytest.raises(TranscriptError, match=words):
        Transcripts(path)
    assert path.read_text() == content


def test_missing_and_read_only_files(tmp_path):
    with pytest.raises(TranscriptError, match="codec transcribe"):
        Transcripts(tmp_path / "none.jsonl")
    with pytest.raises(WriteError, match="folder does not exist"):
        Transcripts(tmp_path / "no" / "folder.jsonl", write=True)
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        out.add("a", HELLO)
    with pytest.raises(TranscriptError, match="write=True"):
        Transcripts(tmp_path / "t.jsonl").add("b", HELLO)


# Given texts


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


# A corpus


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


def test_a_full_disk_is_an_error(tmp_path):
    class Full:
        def write(self, line):
            if self.room:
                return self.room
            raise OSError(errno.ENOSPC, "no space")

    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        out._file, file = Full(), out._file
        out._file.room = 0
        with pytest.raises(WriteError, match="disk is full"):
            out.add("a", HELLO)
        out._file.room = 10
        with pytest.raises(TranscriptError, match="in part"):
            out.add("a", HELLO)
        assert "a" not in out
        out._file = file


def test_devices_and_folders_are_refused(tmp_path):
    for path in ("/dev/null", tmp_path):
        for write in (True, False):
            with pytest.raises(TranscriptError, match="no plain file"):
                Transcripts(path, write)


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


# faster-whisper, faked


Segment = namedtuple("Segment", "words avg_logprob compression_ratio")
Piece = namedtuple("Piece", "word start end")


@pytest.fixture
def whisper(monkeypatch):
    """The package with a model that hears what the test says; `whisper.calls` are the options it was called with."""
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


GOOD = Segment([Piece(" Can", np.float64(-0.1), 0.3), Piece(" light", 0.3, 0.6), Piece("-roast", 0.6, 0.9), Piece(" go.", 0.95, 1.7)], -0.3, 1.0)


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


# The verb


def test_the_verb(corpus, tmp_path, whisper, capfd):
    whisper.segments = [GOOD]
    (corpus / "manifest.json").write_text(json.dumps([{"path": "a.wav"}, {"path": "silent.wav"}]))
    command = ["transcribe", str(corpus), "--asr", "base", "--language", "en", "--out", str(tmp_path / "t.jsonl")]
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "1 file transcribed (1 s of audio), 0 done before, skipped: 1 silent\n"
    assert cli.main(command) == 0
    assert capfd.readouterr().out == "0 files transcribed (0 s of audio), 2 done before\n"
    (corpus / "manifest.json").write_text(json.dumps([{"path": "broken.wav"}]))
    assert cli.main(command) == 1
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 2 and "broken.wav" in err[0] and "1 failed" in err[1]


@pytest.mark.parametrize("options, words", [
    (["--asr", "missing"], "missing"), (["--align", "missing-dir/"], "missing-dir"), (["--device", "tpu"], "tpu"),
])
def test_the_verb_refuses_on_one_line(options, words, corpus, tmp_path, whisper, capfd):
    assert cli.main(["transcribe", str(corpus), "--out", str(tmp_path / "t.jsonl"), *options]) == 1
    err = capfd.readouterr().err
    assert words in err and err.startswith("codec: ") and err.count("\n") == 1
    assert cli.main(["transcribe", "none/", "--out", str(tmp_path / "t.jsonl")]) == 1
