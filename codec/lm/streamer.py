"""Speech that plays while `transformers` generates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from codec.lm.patterns import Pattern
    from codec.lm.vocab import Vocabulary
    from codec.model import Codec


class AudioStreamer:
    """For `generate(streamer=)`: what a language model writes behind the last `start` becomes samples as soon as a frame is
    complete, the same ones as all of it decoded at the end.

        streamer = AudioStreamer(model, pattern, vocab, play)
        language_model.generate(prompt, streamer=streamer, eos_token_id=vocab.end)

    Args:
        model: the codec, causal.
        pattern: a flat one of one id a step, or one of K ids a step (parallel, delay) for models that write so, as MusicGen
            does (without an audio prompt, whose last codes it puts in later, unseen): steps in front in which all are
            `pattern.special` are no audio.
        vocab: what the ids are. Audio starts behind the last `start` and ends with `end`. None for ids that are codes, K a step.
        play: is called with samples (n,) at `model.output_sample_rate`, n > 0.
        skip_prompt: audio in the prompt is heard by the decoder, but not played.
    """

    def __init__(
        self, model: Codec, pattern: Pattern, vocab: Vocabulary | None, play: Callable[[Tensor], None], skip_prompt: bool = False
    ):
        if pattern.flat == (vocab is None):
            raise ValueError(f"{pattern.name} writes {'one id' if pattern.flat else 'K codes'} a step: "
                             f"{'give the vocabulary' if pattern.flat else 'take flatten, or vocab=None'}")
        self.pattern, self.vocab, self.play, self.skip_prompt = pattern, vocab, play, skip_prompt
        self._stream, self._online = model.stream(num_codebooks=pattern.num_codebooks), pattern.online()
        self._frame = model.output_frame_size
        self._prompt, self._ended, self._skip = True, False, 0

    def put(self, ids: Tensor) -> None:
        """The prompt (1, n), then the ids that are written, (1,); or (K, n) and (K,).

        Raises ValueError for several sequences, a prompt without `start`, and ids that are no codes where one must be."""
        rows = 1 if self.pattern.flat else self.pattern.num_codebooks
        if ids.dim() not in (1, 2) or len(ids) != rows:
            raise ValueError(f"ids have shape {tuple(ids.shape)}: one sequence can be played, ({rows}, n)")
        ids = ids.reshape(rows, -1).long()
        prompt, self._prompt = self._prompt, False
        if prompt:
            ids = ids[:, self._start(ids) :]
        if self._ended:
            return
        if self.vocab is not None and (ids == self.vocab.end).any():
            ids, self._ended = ids[:, : int((ids == self.vocab.end).any(0).nonzero()[0])], True
        frames = self._online.push(ids if self.pattern.flat else ids[None])
        if prompt and self.skip_prompt:
            self._skip = frames.shape[2] * self._frame
        self._hear(self._stream.decode(frames if self.vocab is None else self.vocab.decode(frames)))
        if self._ended:
            self._hear(self._stream.flush_decoder())

    def _start(self, ids: Tensor) -> int:
        """The first step of audio in a prompt (rows, n)."""
        if self.vocab is None:
            return int((ids == self.pattern.special).all(0).long().cumprod(0).sum())
        starts = (ids[0] == self.vocab.start).nonzero()
        if not len(starts):
            raise ValueError(f"the prompt has no start of audio (id {self.vocab.start}): put it in front of the audio")
        return int(starts[-1]) + 1

    def end(self) -> None:
        """There is no more: what is still inside the decoder is played."""
        if not self._ended:
            self._hear(self._stream.flush_decoder())
        self._ended = True

    def _hear(self, wav: Tensor) -> None:
        """wav (1, 1, n), without what is skipped."""
        skipped = min(self._skip, wav.shape[2])
        self._skip -= skipped
        if wav.shape[2] > skipped:
            self.play(wav[0, 0, skipped:])
