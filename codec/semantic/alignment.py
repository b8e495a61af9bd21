"""When the words of a text are said: forced alignment by CTC, times of a recogniser's words laid under another text, or
characters spread over the voiced part."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch

SAMPLE_RATE = 16_000
UNKNOWN_SHARE = 0.3  # of a text's letters that an acoustic model may not know
MATCHED_SHARE = 0.5  # of a text's words that a recogniser must have heard
WINDOW_SECONDS, CONTEXT_SECONDS = 30, 2  # of the acoustic model
VOICED_DB = -35.0  # below the loud parts of a recording: a pause
VOICED_HOP = SAMPLE_RATE // 50


class AlignmentError(ValueError):
    """A text cannot be laid over a recording; one line that says why."""


@dataclass(frozen=True)
class Word:
    """A word between two times, in seconds from the start of the recording."""

    text: str
    start: float
    end: float


def forced_align(log_probs: np.ndarray | torch.Tensor, targets: Sequence[int], blank: int = 0) -> np.ndarray:
    """The most probable CTC path through the targets (Graves et al. 2006): the frames of each token.

    log_probs  (T, V), log probabilities of the tokens in each frame.
    targets    N token numbers in order, no blank among them.

    Returns (N, 2) int64: first frame, and the frame behind the last. Raises AlignmentError for more targets than fit
    into T frames (two equal ones in a row need a blank between them) and for numbers that are no tokens.
    """
    log_probs = np.asarray(log_probs.detach().cpu() if isinstance(log_probs, torch.Tensor) else log_probs, dtype=np.float64)
    labels = np.asarray(targets, dtype=np.int64).reshape(-1)
    if log_probs.ndim != 2 or np.isnan(log_probs).any():
        raise AlignmentError(f"alignment takes log probabilities (frames, tokens) without NaN, got {log_probs.shape}")
    frames, tokens = log_probs.shape
    if not 0 <= blank < tokens or ((labels < 0) | (labels >= tokens) | (labels == blank)).any():
        raise AlignmentError(f"targets must be tokens from 0 to {tokens - 1} and not the blank, {blank}")
    needed = len(labels) + int((labels[1:] == labels[:-1]).sum())
    if needed > frames:
        raise AlignmentError(f"a text of {len(labels)} characters needs {needed} frames, and the recording has {frames}")
    if not len(labels):
        return np.zeros((0, 2), np.int64)

    states = np.full(2 * len(labels) + 1, blank)  # blank, first token, blank, ..., last token, blank
    states[1::2] = labels
    may_skip = np.zeros(len(states), bool)  # from token to token without the blank between them
    may_skip[3::2] = labels[1:] != labels[:-1]
    emitted = log_probs[:, states]  # (T, S)
    score = np.full(len(states), -np.inf)
    score[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)  # how many states were advanced on the best way to here
    ways = np.full((3, len(states)), -np.inf)
    for frame in range(1, frames):
        ways[0] = score
        ways[1, 1:] = score[:-1]
        ways[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        score = ways.max(axis=0) + emitted[frame]
    state = len(states) - (1 if score[-1] > score[-2] else 2)
    if score[state] == -np.inf:
        raise AlignmentError("the text has no probability at all in this recording")

    spans = np.zeros((len(labels), 2), np.int64)
    for frame in range(frames - 1, -1, -1):
        if state % 2:
            spans[state // 2, 0] = frame
            spans[state // 2, 1] = max(spans[state // 2, 1], frame + 1)
        state -= int(steps[frame, state])  # of 8 bits
    return spans


class CtcAligner:
    """Word times by forced alignment of characters, with a CTC model of `transformers` (wav2vec 2.0, HuBERT, WavLM, ...).

    Args:
        name_or_dir: hub id or folder with config.json, weights, vocab.json and preprocessor_config.json.
        device: where it runs.

    A word lasts from the first frame of its first character to the end of its last. Characters that the model does not
    know are left out (accents first); a word of nothing else ("1862") shares the gap between its neighbours. Long
    recordings run in windows of 30 s with 2 s of context on both sides.

    Raises AlignmentError or `codec.semantic.teachers.TeacherError`, both ValueError, when it cannot be loaded.
    """

    def __init__(self, name_or_dir: str | Path, device: str | torch.device = "cpu"):
        try:
            from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer
        except ImportError:
            raise AlignmentError('alignment needs transformers: pip install "neural-codec-toolkit[teachers]"') from None
        from codec.semantic.transformers_teachers import FILES, check_weights, find, from_pretrained

        folder = find(str(name_or_dir), [*FILES, "vocab.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"])
        check_weights(str(name_or_dir), folder)
        model = from_pretrained(AutoModelForCTC, folder)
        try:
            tokenizer, inputs = AutoTokenizer.from_pretrained(str(folder)), AutoFeatureExtractor.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:  # TypeError: a tokenizer without its vocabulary
            raise AlignmentError(
                f"{name_or_dir} lacks a vocabulary (vocab.json) or preprocessor_config.json that can be read: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        self.hop = getattr(model.config, "inputs_to_logits_ratio", None)
        if self.hop is None or getattr(inputs, "sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise AlignmentError(f"{name_or_dir} does not hear 16 kHz samples; name a model such as wav2vec2-base-960h")
        self._model = model.to(device).eval().requires_grad_(False)
        self._normalise = bool(getattr(inputs, "do_normalize", False))
        outputs = model.config.vocab_size  # a tokenizer adds special tokens of its own behind those of the model
        self._vocabulary = {token: number for token, number in tokenizer.get_vocab().items() if number < outputs}
        self._blank: int = tokenizer.pad_token_id
        self._between = self._vocabulary.get(getattr(tokenizer, "word_delimiter_token", None) or "|")
        letters = [token for token in self._vocabulary if len(token) == 1 and token.isalpha()]
        self._upper = sum(token.isupper() for token in letters) > sum(token.islower() for token in letters)
        self.name = f"ctc {Path(name_or_dir).name}"

    def __call__(self, text: str, wav: np.ndarray) -> tuple[Word, ...]:
        """The words of a text in 16 kHz samples (T,) float32. Raises AlignmentError for a text too long for the recording
        or in letters that the model does not know."""
        words = text.split()
        tokens = [self.tokens(word) for word in words]
        letters = sum(character.isalnum() for word in words for character in word)
        known = sum(len(found) for found in tokens)
        if not known or known < (1 - UNKNOWN_SHARE) * letters:
            raise AlignmentError(f"{self.name} knows {known} of the {letters} letters of the text {text[:40]!r}")
        targets: list[int] = []
        places = []
        for found in tokens:
            if found and targets and self._between is not None:
                targets.append(self._between)
            places.append((len(targets), len(targets) + len(found)))
            targets += found
        spans = forced_align(self.log_probs(wav), targets, self._blank) * (self.hop / SAMPLE_RATE)  # seconds
        seconds = len(wav) / SAMPLE_RATE
        timed = [
            (word, (min(spans[a, 0], seconds), min(spans[b - 1, 1], seconds)) if a < b else None) for word, (a, b) in zip(words, places)
        ]
        return fill_times(timed, seconds)

    def tokens(self, word: str) -> list[int]:
        """The numbers of a word's characters, those that the model knows."""
        word = word.replace("’", "'")
        word = word.upper() if self._upper else word.lower()
        found = []
        for character in word:
            bare = unicodedata.normalize("NFD", character)[0]
            number = self._vocabulary.get(character, self._vocabulary.get(bare))
            if number is not None and number not in (self._blank, self._between):
                found.append(number)
        return found

    @torch.no_grad()
    def log_probs(self, wav: np.ndarray) -> np.ndarray:
        """16 kHz samples (T,) to log probabilities (T // hop or one frame less, V)."""
        wav = np.asarray(wav, dtype=np.float32)
        if self._normalise:
            wav = (wav - wav.mean()) / np.sqrt(wav.var() + 1e-7)
        window, context = (int(seconds * SAMPLE_RATE) // self.hop for seconds in (WINDOW_SECONDS, CONTEXT_SECONDS))  # frames
        parts = []
        for start in range(0, max(1, len(wav) // self.hop), window):
            first = max(0, start - context)
            part = wav[first * self.hop : (start + window + context) * self.hop]
            if len(part) < self._needed():
                part = np.pad(part, (0, self._needed() - len(part)))
            logits = self._model(torch.from_numpy(part)[None].to(self._model.device)).logits[0]
            logits = logits[start - first : start - first + window]
            parts.append(torch.log_softmax(logits.float(), dim=-1).cpu().numpy())
        return np.concatenate(parts)

    def _needed(self) -> int:
        """Samples of one frame."""
        needed = 1
        for kernel, stride in zip(reversed(self._model.config.conv_kernel), reversed(self._model.config.conv_stride)):
            needed = (needed - 1) * stride + kernel
        return needed


def match_times(text: str, heard: Sequence[Word], seconds: float) -> tuple[Word, ...]:
    """The words of a given text with the times of a recogniser's words.

    Equal words (whatever their case and punctuation) take their times; words in the place of others share the time of
    those; words that were not heard share the gap between their neighbours. Raises AlignmentError where fewer than half
    of the words were heard.
    """
    words = text.split()
    matcher = SequenceMatcher(None, [_bare(word) for word in words], [_bare(word.text) for word in heard], autojunk=False)
    times: list[tuple[float, float] | None] = [None] * len(words)
    matched = 0
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            times[a:b] = [(word.start, word.end) for word in heard[c:d]]
            matched += b - a
        elif kind == "replace":
            times[a:b] = _shares(words[a:b], heard[c].start, heard[d - 1].end)
    if matched < MATCHED_SHARE * len(words):
        raise AlignmentError(f"of {len(words)} words of the text {text[:40]!r} {matched} were heard; is it another recording's?")
    return fill_times(list(zip(words, times)), seconds)


def fill_times(words: Sequence[tuple[str, tuple[float, float] | None]], seconds: float) -> tuple[Word, ...]:
    """Words with their times, and for those without: a share of the gap between their neighbours, in proportion to
    characters. Times are put in order."""
    filled: list[Word] = []
    index = 0
    while index < len(words):
        stop = index
        while stop < len(words) and words[stop][1] is None:
            stop += 1
        last = filled[-1].end if filled else 0.0
        if stop == index:
            text, (start, end) = words[index]
            start = max(float(start), filled[-1].start if filled else 0.0)
            filled.append(Word(text, start, max(start, float(end))))
            index += 1
            continue
        until = words[stop][1][0] if stop < len(words) else seconds
        texts = [text for text, _ in words[index:stop]]
        filled += [Word(text, *span) for text, span in zip(texts, _shares(texts, last, max(last, float(until))))]
        index = stop
    return tuple(filled)


def spread_words(text: str, wav: np.ndarray) -> tuple[Word, ...]:
    """No times at all: the words of a text, spread over the voiced part of 16 kHz samples (T,) in proportion to their
    characters. A guess, for want of a recogniser."""
    words = text.split()
    if not words:
        return ()
    voiced = voiced_frames(wav)
    if not voiced.any():
        raise AlignmentError(f"the recording of {text[:40]!r} is silent")
    place = np.concatenate([[0], np.cumsum(voiced)])  # voiced frames before each frame
    edges = np.cumsum([0] + [len(word) for word in words]) * (place[-1] / sum(len(word) for word in words))
    seconds = len(wav) / SAMPLE_RATE
    spans = []
    for start, end in zip(edges[:-1], edges[1:]):
        spans.append(tuple(min(_when(place, edge, after) * VOICED_HOP / SAMPLE_RATE, seconds) for edge, after in ((start, True), (end, False))))
    return tuple(Word(word, *span) for word, span in zip(words, spans))


def voiced_frames(wav: np.ndarray) -> np.ndarray:
    """16 kHz samples (T,) to (ceil(T / 320),) bool: 20 ms frames less than 35 dB below the loud ones (the 95th percentile)."""
    frames = -(-len(wav) // VOICED_HOP)
    padded = np.zeros(frames * VOICED_HOP, np.float64)
    padded[: len(wav)] = wav
    level = np.sqrt(np.mean(np.square(padded.reshape(frames, VOICED_HOP)), axis=1))
    loud = np.percentile(level, 95) if frames else 0.0
    return (level > loud * 10 ** (VOICED_DB / 20)) & (level > 0)


def _when(place: np.ndarray, voiced: float, after: bool) -> float:
    """The frame (with fraction) at which so many voiced frames are over; behind a pause if `after`, before it if not."""
    if after:
        frame = int(np.searchsorted(place, voiced + 1e-9, side="right")) - 1
    else:
        frame = int(np.searchsorted(place, voiced - 1e-9, side="left")) - 1
    frame = min(max(frame, 0), len(place) - 2)
    return frame + min(max(voiced - place[frame], 0.0), 1.0)


def _shares(texts: Sequence[str], start: float, end: float) -> list[tuple[float, float]]:
    """Times of words that share a stretch in proportion to their characters."""
    edges = start + (end - start) * np.cumsum([0] + [len(text) for text in texts]) / max(1, sum(len(text) for text in texts))
    return [(float(a), float(b)) for a, b in zip(edges[:-1], edges[1:])]


def _bare(word: str) -> str:
    return re.sub(r"[^\w]", "", unicodedata.normalize("NFKD", word)).casefold()
