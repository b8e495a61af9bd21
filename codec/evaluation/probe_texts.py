"""What is said in recordings, for the probes that need texts: from the data itself, or from a file of `codec transcribe`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from codec.atomic import put
from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_report import ProbeError
from codec.evaluation.probe_tokens import user_cache
from codec.semantic.alignment import Word
from codec.semantic.corpus_texts import given_texts
from codec.semantic.features import content_key
from codec.semantic.transcripts import Transcript, TranscriptError, Transcripts
from codec.training.data import DataError, decode

KEYS = "content-keys.json"


class Texts:
    """Texts and words of recordings.

    source: the data, which may come with texts; transcripts: a file of `codec transcribe`, known by the content of the
    recordings; cache: folder where it is kept which content a file has. Raises ProbeError for a file that holds something else.
    """

    def __init__(
        self, source: str | os.PathLike[str], transcripts: str | os.PathLike[str] = "", cache: str | os.PathLike[str] = ""
    ):
        try:
            self._given = given_texts(Path(source))
            self._transcripts = Transcripts(transcripts) if transcripts else None
        except TranscriptError as error:
            raise ProbeError(str(error)) from None
        self._kept = (Path(cache).expanduser() if cache else user_cache()) / KEYS
        self._keys: dict[str, str] = {}

    def text(self, recording: Recording) -> str:
        """Empty where none is known. What comes with the data is preferred."""
        given = self._given.get(recording.path)
        if given is not None and given.text:
            return given.text
        transcript = self._transcript(recording)
        return transcript.text if transcript else ""

    def words(self, recording: Recording) -> tuple[Word, ...]:
        """With their times; empty where none are known."""
        transcript = self._transcript(recording)
        return transcript.words if transcript else ()

    def _transcript(self, recording: Recording) -> Transcript | None:
        if self._transcripts is None:
            return None
        return self._transcripts.get(self._key(recording))

    def _key(self, recording: Recording) -> str:
        if not self._keys:
            try:
                self._keys = json.loads(self._kept.read_text())
            except (OSError, ValueError):
                pass
        if recording.digest not in self._keys:
            try:
                self._keys[recording.digest] = content_key(decode(recording.path, 16_000))
            except DataError as error:
                raise ProbeError(f"{recording.path} cannot be read ({error}): take it out of the data") from None
        return self._keys[recording.digest]

    def keep(self) -> None:
        """Write down which content files have, so that they need not be decoded for it again."""
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        put(self._kept, json.dumps(self._keys).encode())
