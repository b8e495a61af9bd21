"""A measure beside the probes: what a speech recogniser still hears in the decoded speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from codec.audio import resample
from codec.evaluation.edits import edits
from codec.evaluation.probe_data import Recording
from codec.evaluation.probe_report import LOWER, Missing, ProbeError, Score, bootstrap
from codec.evaluation.probe_view import View
from codec.tokens import Tokens
from codec.training.data import decode

RATE = 16_000  # of Whisper
RECORDINGS = 50  # the first ones by content
MIN_WORDS = 20


class DecodedWords:
    """dWER: word errors of Whisper's transcript of the decoded speech against its own transcript of the original, per word of
    that. Only for the first k codebooks, where those decode on their own. Chance, silence, is 100 %."""

    name, steps = "dwer", 0

    def __init__(self, found: Sequence[Recording], asr: str):
        if not asr:
            raise Missing("no speech recogniser is named: give --asr base, or a folder of CTranslate2")
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise Missing('it needs faster-whisper: pip install "neural-codec-toolkit[eval]"') from None
        try:
            self._whisper = WhisperModel(asr, device="cpu", compute_type="float32", cpu_threads=torch.get_num_threads())
        except Exception as error:  # of the hub, of CTranslate2, of the file system
            raise ProbeError(
                f"the recogniser {asr} cannot be loaded ({error}): name a size such as base, or a folder of CTranslate2"
            ) from None
        self.recordings = list(found[:RECORDINGS])
        self._originals: dict[str, tuple[list[str], str]] = {}

    def measure(self, view: View) -> Iterator[Score]:
        model, chosen = view.tokens.model, view.codebooks
        if not chosen.is_prefix or chosen.last not in model.quantizer.counts:
            raise Missing("these codebooks do not decode on their own")
        wrong, there = [], []
        step = view.step("dwer")
        for index, (recording, codes) in enumerate(zip(self.recordings, view.codes(self.recordings))):
            if step is not None:
                step(index, len(self.recordings))
            samples = len(decode(recording.path, model.sample_rate))
            tokens = Tokens(codes[None], view.tokens.spec, model.sample_rate, (samples,))
            speech = resample(model.decode(tokens)[0].numpy(), model.sample_rate, RATE)[0]
            truth, language = self._original(recording)
            heard, _ = self._heard(speech, language)
            wrong.append(edits(truth, heard))
            there.append(len(truth))
        if sum(there) < MIN_WORDS:
            raise ProbeError(f"dwer: Whisper hears {sum(there)} words in the recordings, {MIN_WORDS} are needed: add speech, or "
                             "leave the task out of --tasks")
        estimate = bootstrap(np.array(wrong), np.array(there), view.seed)
        yield view.score(self.name, "", "none", "word error rate", LOWER, estimate, 1.0, len(wrong), "recordings")

    def _original(self, recording: Recording) -> tuple[list[str], str]:
        if recording.digest not in self._originals:
            self._originals[recording.digest] = self._heard(decode(recording.path, RATE).astype(np.float32) / 32767, None)
        return self._originals[recording.digest]

    def _heard(self, wav: np.ndarray, language: str | None) -> tuple[list[str], str]:
        """Samples (T,) at 16 kHz to words, and the language."""
        segments, info = self._whisper.transcribe(
            wav, language=language, beam_size=5, temperature=0.0, condition_on_previous_text=False,
        )
        return re.findall(r"[\w']+", " ".join(segment.text for segment in segments).casefold()), info.language
