"""The file that keeps transcripts: what is read is what was added, whatever is torn, full or something else."""

from __future__ import annotations

import errno

import pytest

from codec.atomic import WriteError
from codec.semantic.alignment import Word
from codec.semantic.transcripts import Skip, Transcript, TranscriptError, Transcripts

HELLO = Transcript("hello there", (Word("hello", 0.1, 0.4), Word("there", 0.4, 0.8)), "en", "asr", "fake", "a.wav", 1.0)


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
