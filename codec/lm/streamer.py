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
        pattern: a flat one, of one sequence.
        vocab: what the ids are. Audio ends with its `end`.
        play: is called with samples (n,) at `model.output_sample_rate`, n > 0.
        skip_prompt: audio in the prompt is heard by the decoder, but not played.
    """

    def __init__(
        self, model: Codec, pattern: Pattern, vocab: Vocabulary, play: Callable[[Tensor], None], skip_prompt: bool = False
    ):
        if not pattern.flat:
            raise ValueError(f"generate writes one id a step: take flatten instead of {pattern.name}, or pattern.online()")
        self.vocab, self.play, self.skip_prompt = vocab, play, skip_prompt
        self._stream, self._online = model.stream(), pattern.online()
        self._frame = model.output_frame_size
        self._prompt, self._ended, self._skip = True, False, 0

    def put(self, ids: Tensor) -> None:
        """The prompt (1, n), then the ids that are written, (1,).

        Raises ValueError for several sequences, a prompt without `start`, and ids that are no codes where one must be."""
        if ids.dim() == 2 and len(ids) != 1 or ids.dim() == 1 and len(ids) != 1:
            raise ValueError(f"ids have shape {tuple(ids.shape)}: one sequence can be played")
        ids = ids.reshape(-1).long()
        prompt, self._prompt = self._prompt, False
        if prompt:
            starts = (ids == self.vocab.start).nonzero()
            if not len(starts):
                raise ValueError(f"the prompt has no start of audio (id {self.vocab.start}): put it in front of the audio")
            ids = ids[int(starts[-1]) + 1 :]
        ends = (ids == self.vocab.end).nonzero()
        if self._ended:
            return
        self._ended = len(ends) > 0
        frames = self._online.push(ids[None, : int(ends[0])] if self._ended else ids[None])
        if prompt and self.skip_prompt:
            self._skip = frames.shape[2] * self._frame
        self._hear(self._stream.decode(self.vocab.decode(frames)))
        if self._ended:
            self._hear(self._stream.flush_decoder())

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
