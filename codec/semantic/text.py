"""Text teachers: BERT-like models that read what is said in a recording, each frame getting the state of its word piece.

    teacher = load_text_teacher("google-bert/bert-base-uncased", layer="mean")         # or a folder
    features, valid = teacher.features(transcript, samples)        # (F, D) float32, (F,) bool; F = ceil(samples * rate / 16000)
    compute_text(paths, Transcripts("transcripts.jsonl"), teacher, FeatureStore.of(teacher, "features/"))
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.semantic.alignment import SAMPLE_RATE, VOICED_HOP, AlignmentError, spread_words, voiced_frames
from codec.semantic.features import FeatureStore
from codec.semantic.filling import Report, fill
from codec.semantic.teachers import Layer, TeacherError, chosen, fingerprint_of, layer_name
from codec.semantic.transcripts import Transcript, Transcripts
from codec.training.data import DataError

PAUSE_SECONDS = 0.2  # silence that is no part of a word, whatever its times say
TOKENIZER = ["tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"]
UNUSED = ("pooler",)  # of a model whose hidden states are read


class TextTeacher:
    """A frozen model of text whose hidden states become features in time.

    A word's pieces share its time in proportion to their characters, and a frame takes the state of the piece at its middle.
    Texts longer than the model's maximum are read in windows that overlap by a quarter, and of each overlap both windows give
    the half that lies farther from their edge.

    padded   True: the text's tokens in the first frames, one each, and [PAD] behind them, as in the public code of DM-Codec
             (Ahasan et al. 2024, https://arxiv.org/abs/2410.15017). That is no alignment: it is here to be compared with.

    name, dim, frame_rate, sample_rate, fingerprint   as of `codec.semantic.teachers.Teacher`.
    window   tokens that the model reads at a time.
    """

    sample_rate = native_rate = SAMPLE_RATE

    def __init__(self, folder: Path, name: str, layer: Layer, frame_rate: float, padded: bool, device: str | torch.device):
        from codec.semantic.transformers_teachers import from_pretrained
        from transformers import AutoModel, AutoTokenizer

        if frame_rate <= 0 or SAMPLE_RATE % frame_rate:
            raise TeacherError(f"frame_rate={frame_rate}: it must divide {SAMPLE_RATE}, so that rows begin at samples")
        self.frame_rate, self.hop, self.padded = float(frame_rate), int(SAMPLE_RATE // frame_rate), padded
        self._model = from_pretrained(AutoModel, folder, UNUSED).requires_grad_(False).to(device).eval()
        if not any(path.name.startswith(("tokenizer.json", "vocab.")) or path.suffix == ".model" for path in folder.iterdir()):
            raise TeacherError(f"{name} holds no tokenizer.json or vocabulary: save its tokenizer there too")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(os.fspath(folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TeacherError(f"{name}: its tokenizer cannot be loaded ({' '.join(str(error).split())[:200]})") from None
        if not self._tokenizer.is_fast:
            raise TeacherError(f"{name}: its tokenizer does not say where pieces lie in a text: it needs a tokenizer.json")
        if padded and self._tokenizer.pad_token is None:
            raise TeacherError(f"{name}: its tokenizer has no [PAD], which the padded variant puts behind the text")
        settings = self._model.config
        self.dim, self.window = settings.hidden_size, _longest(settings, self._tokenizer)
        self.layers = chosen(layer, settings.num_hidden_layers + 1)
        self.name = f"{'padded-' if padded else ''}{name}-{layer_name(layer, self.layers)}"
        words = hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        self.fingerprint = fingerprint_of(self, self._model, self.layers, words, padded)

    def features(self, transcript: Transcript, samples: int) -> tuple[Tensor, Tensor]:
        """The features of a recording of so many samples at 16 kHz: (F, D) float32, and which rows have a word (F,) bool; the others
        are zeros. Raises TeacherError for a transcript without word times."""
        frames = math.ceil(samples * self.frame_rate / SAMPLE_RATE)
        if self.padded:
            return self._padded(transcript.text, frames)
        words = [word for word in transcript.words if word.end > word.start]
        if not words:
            raise TeacherError(f"the transcript {transcript.text[:40]!r} has no word times: `codec transcribe` finds them, and "
                               "codec.semantic.alignment.spread_words guesses them")
        text = " ".join(word.text for word in words)
        states, offsets = self.read(text)
        pieces = _pieces_of_characters(text, offsets)

        length = np.array([len(word.text) for word in words])
        first = np.cumsum(length + 1) - length - 1  # of a word's characters
        start, end = (np.array([getattr(word, edge) for word in words]) for edge in ("start", "end"))
        middle = (np.arange(frames) + 0.5) / self.frame_rate  # seconds
        word = np.searchsorted(start, middle, side="right") - 1  # the last one that has begun
        valid = (word >= 0) & (middle < end[word])
        share = (middle - start[word]) / (end - start)[word]
        character = first[word] + np.clip((share * length[word]).astype(np.int64), 0, length[word] - 1)
        piece = np.where(valid, pieces[np.where(valid, character, 0)], -1)
        valid = piece >= 0
        features = torch.zeros(frames, self.dim)
        features[torch.from_numpy(valid)] = states[torch.from_numpy(piece[valid])]
        return features, torch.from_numpy(valid)

    @torch.inference_mode()
    def read(self, text: str) -> tuple[Tensor, np.ndarray]:
        """The states (N, D) of a text's pieces, without [CLS] and the like, and their first and last characters (N, 2)."""
        room = self.window - self._tokenizer.num_special_tokens_to_add()  # pieces of a window
        overlap = room // 4
        windows = self._tokenizer(
            text, truncation=True, max_length=self.window, stride=overlap, return_overflowing_tokens=True,
            return_offsets_mapping=True, return_special_tokens_mask=True,
        )
        states, offsets = [], []
        for index in range(len(windows["input_ids"])):
            plain = ~np.array(windows["special_tokens_mask"][index], dtype=bool)
            last = index == len(windows["input_ids"]) - 1
            kept = slice(overlap // 2 if index else 0, None if last else room - (overlap - overlap // 2))
            names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in windows]
            rows = self._states({name: torch.tensor([windows[name][index]]) for name in names})
            states.append(rows[torch.from_numpy(plain)][kept])
            offsets.append(np.array(windows["offset_mapping"][index], dtype=np.int64).reshape(-1, 2)[plain][kept])
        return torch.cat(states), np.concatenate(offsets)

    @torch.inference_mode()
    def _padded(self, text: str, frames: int) -> tuple[Tensor, Tensor]:
        """Tokens one after the other from the first frame, then [PAD]; frames behind the model's maximum have no target."""
        length = max(min(frames, self.window), self._tokenizer.num_special_tokens_to_add() + 1)
        tokens = self._tokenizer(text, truncation=True, padding="max_length", padding_side="right", max_length=length, return_tensors="pt")
        rows = self._states({name: tokens[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokens})[:frames]
        features, valid = torch.zeros(frames, self.dim), torch.zeros(frames, dtype=torch.bool)
        features[: len(rows)], valid[: len(rows)] = rows, True
        return features, valid

    def _states(self, tokens: dict[str, Tensor]) -> Tensor:
        """One window of tokens (1, n) to the mean of the chosen layers (n, D)."""
        tokens = {name: values.to(self._model.device) for name, values in tokens.items()}
        states = self._model.eval()(**tokens, output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in self.layers]).mean(0).float().cpu()


def load_text_teacher(
    name: str | Path, layer: Layer = "mean", frame_rate: float = 50.0, padded: bool = False, device: str | torch.device = "cpu"
) -> TextTeacher:
    """A BERT-like model of `transformers` (BERT, MiniLM, ELECTRA, RoBERTa, DeBERTa, ...) as a teacher, frozen.

    Args:
        name: a folder with config.json, safetensors and tokenizer.json, or a hub id (owner/name).
        layer: 0 is what goes into the first layer, n comes out of the n-th; negative ones count from the last; "mean" is the mean of
            all, a list the mean of those.
        frame_rate: rows a second; must divide 16,000.
        padded: DM-Codec's variant without alignment, for comparison.
        device: where it runs.

    Raises TeacherError for what is not there, not supported or not safe to load.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise TeacherError('teachers are models of another package: pip install "neural-codec-toolkit[teachers]"') from None
    from codec.semantic.transformers_teachers import FILES, check_weights, find, plain_name

    folder = find(str(name), [*FILES, *TOKENIZER])
    check_weights(str(name), folder)
    return TextTeacher(folder, plain_name(str(name)), layer, frame_rate, padded, device)


def compute_text(
    paths: Iterable[str | os.PathLike[str]], transcripts: Transcripts, teacher: TextTeacher, store: FeatureStore,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Fill a store with a text teacher's features of audio files. What is in the store is not done again; files that are silent,
    unreadable or without a transcript are skipped with a reason.

    Frames outside of words have no target, nor have pauses of 0.2 s or more that a recogniser took into a word. Transcripts without
    word times are spread over the voiced part of the recording.

    progress: called as (files done, files). Raises StoreError where the store is another teacher's.
    """

    def read(wav: np.ndarray, key: str) -> tuple[Tensor, Tensor]:
        try:
            return _features(wav, key, transcripts, teacher)
        except (AlignmentError, TeacherError) as error:
            raise DataError(str(error)) from None

    return fill(paths, teacher, store, read, progress)


def _features(wav: np.ndarray, key: str, transcripts: Transcripts, teacher: TextTeacher) -> tuple[Tensor, Tensor]:
    transcript = transcripts.get(key)
    if transcript is None:
        skip = transcripts.skipped.get(key)
        raise DataError(f"it has no transcript{f' ({skip.reason})' if skip is not None else ''}")
    if not transcript.text.strip():
        raise DataError("its transcript is empty")
    if not transcript.words and not teacher.padded:
        transcript = replace(transcript, words=spread_words(transcript.text, wav), timing="spread")
    features, valid = teacher.features(transcript, len(wav))
    if not teacher.padded:
        middles = ((np.arange(len(valid)) + 0.5) * teacher.hop).astype(np.int64) // VOICED_HOP
        still = pauses(voiced_frames(wav))
        valid &= torch.from_numpy(~still[np.minimum(middles, len(still) - 1)])
        features[~valid] = 0.0
    return features, valid


def pauses(voiced: np.ndarray) -> np.ndarray:
    """Which of the 20 ms frames (F,) bool lie in unvoiced stretches of 0.2 s or more."""
    still = np.zeros(len(voiced), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], voiced, [True]])))  # starts and ends of unvoiced stretches
    for start, end in zip(edges[::2], edges[1::2]):
        still[start:end] = (end - start) * VOICED_HOP >= PAUSE_SECONDS * SAMPLE_RATE
    return still


def _pieces_of_characters(text: str, offsets: np.ndarray) -> np.ndarray:
    """The piece (len(text),) of each character; -1 in words of which the tokenizer left nothing. Characters that it left out of a
    word go to the piece before them, or to the word's first."""
    pieces = np.full(len(text), -1, np.int64)
    for number, (start, end) in enumerate(offsets):
        pieces[start:end] = number
    for index in range(1, len(text)):
        if pieces[index] < 0 and not text[index].isspace() and not text[index - 1].isspace():
            pieces[index] = pieces[index - 1]
    for index in range(len(text) - 2, -1, -1):
        if pieces[index] < 0 and not text[index].isspace() and not text[index + 1].isspace():
            pieces[index] = pieces[index + 1]
    return pieces


def _longest(settings, tokenizer) -> int:
    """Tokens that a model takes at a time; RoBERTa's positions are counted from behind the padding's."""
    positions = getattr(settings, "max_position_embeddings", None) or 512
    if settings.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= settings.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)
