"""Encoding and decoding live: any chunk sizes, the same tokens as `Codec.encode`, the same samples as `Codec.decode`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.coding import BLOCK_FRAMES, Decoding, Encoding
from codec.rows import Cohorts

if TYPE_CHECKING:
    from codec.model import Codec

NO_CODE = -1  # in front of the codes of rows that have fewer than others


def as_samples(wav: Tensor) -> Tensor:
    """The same samples in float32. Raises ValueError unless they are finite floating-point numbers."""
    if not wav.dtype.is_floating_point:
        raise ValueError(f"samples are {wav.dtype}: scale them to full scale 1 first, e.g. wav / 32768 for 16-bit PCM")
    wav = wav.float()
    if wav.numel() and not all(map(math.isfinite, wav.aminmax())):  # without copies of it, as torch.isfinite makes them
        raise ValueError("samples are NaN or infinite: repair them first, e.g. torch.nan_to_num(wav)")
    return wav


class Stream:
    """State of one live encoder and one live decoder, which do not depend on each other, for a batch of signals.

    Made by `model.stream(batch_size)`. The decoder's output lags by `model.decoder.delay` samples; the first ones, from
    before the start of the signal, are left out, so that the output is aligned with the input.

    Rows are signals of their own. `reset(mask)` starts some of them anew at any moment, with `lengths` some are given less
    than others, `take` and `join` move them between streams; every row is coded as if it were alone. Rows that are not in step
    get different numbers of codes and samples from one call. **What a call returns stands at the end of each row**: in front
    of it are codes of -1, which `decode` takes for none, and samples of zero; `lengths` says how many samples are the row's.
    In a stream without any of that all rows are in step, and nothing needs to be looked at.

    Attributes:
        lengths: (B,) int64: of the samples that `decode` or `flush_decoder` has returned last, how many are of each row.
    """

    def __init__(self, model: Codec, batch_size: int, num_codebooks: int, beam: int | None = None):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a stream carries at least one signal")
        self.model, self.batch_size, self.num_codebooks, self.beam = model, batch_size, num_codebooks, beam
        self._restart()

    def _restart(self) -> None:
        self._device = self.model.device
        self._encoding = Cohorts(lambda rows: Encoding(self.model, rows, self.num_codebooks, self.beam), self.batch_size)
        self._decoding = Cohorts(lambda rows: Decoding(self.model, rows), self.batch_size)
        self.lengths = torch.zeros(self.batch_size, dtype=torch.int64)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._restart()

    @torch.no_grad()
    def encode(self, pcm: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Samples (B, 1, n) at the model's rate, n >= 0, to the codes (B, K, m) of the frames that are now full: m is a
        multiple of the frames that the quantizer codes together (1 for most).

        lengths (B,): how many samples, at the end of each row, are its own; all by default. A row of 0 holds still.
        Rows with fewer than m frames have codes of -1 in front.
        Raises ValueError for another shape, integers, and samples that are not finite; the stream then is as it was.
        """
        if pcm.dim() != 3 or pcm.shape[:2] != (self.batch_size, 1):
            raise ValueError(f"pcm has shape {tuple(pcm.shape)}: this stream takes ({self.batch_size}, 1, n)")
        if lengths is not None:
            lengths = [int(length) for length in lengths]
            if len(lengths) != self.batch_size or not all(0 <= length <= pcm.shape[2] for length in lengths):
                raise ValueError(f"lengths must be {self.batch_size} numbers from 0 to {pcm.shape[2]}, the samples of pcm")
        samples = as_samples(pcm).to(self._device)
        return self._encoding.run(Encoding.push, samples, lengths, NO_CODE)[0]

    @torch.no_grad()
    def flush(self) -> Tensor:
        """The codes (B, K, m) of the last frames, filled up with zeros; m is 0 when no samples wait. Rows with fewer than m
        frames have codes of -1 in front. To end one row alone: `stream.take([row]).flush()`, and `reset`."""
        return self._encoding.run(Encoding.finish, self._nothing(1), None, NO_CODE)[0]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, k, m) to the samples (B, 1, n) that are now finished, at `model.output_sample_rate`.

        Frames of -1 in front of a row are none. Rows with fewer than n samples have zeros in front: see `lengths`.
        Raises ValueError for codes of another shape, more codebooks than the model has, or numbers outside them; the stream
        then is as it was.
        """
        if codes.dim() != 3 or codes.shape[0] != self.batch_size:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: this stream takes ({self.batch_size}, k, m)")
        sizes = self.model.codebook_sizes[: self.model.quantizer.check_count(codes.shape[1])]
        lengths, (low, high) = None, map(int, codes.aminmax()) if codes.numel() else (0, -1)
        if low < 0:
            lengths, codes = _own_frames(codes), codes.clamp(min=0)
        if lengths == [] or high >= min(sizes) and (codes.amax((0, 2)).cpu() >= torch.tensor(sizes)).any():
            raise ValueError(f"codes lie outside 0 to {sizes[0] - 1}: take special tokens and offsets out first")
        blocks = [codes] if codes.shape[2] <= BLOCK_FRAMES else codes.split(BLOCK_FRAMES, 2)
        latents = [self.model.quantizer.decode(block.to(self._device)) for block in blocks]
        latents = latents[0] if len(latents) == 1 else torch.cat(latents, 2)
        return self._decoded(*self._decoding.run(Decoding.push, latents, lengths))

    @torch.no_grad()
    def flush_decoder(self) -> Tensor:
        """The last samples (B, 1, n), still inside the decoder, at `model.output_sample_rate`. Rows with fewer than n have
        zeros in front: see `lengths`."""
        return self._decoded(*self._decoding.run(Decoding.finish, self._nothing(self.model.config.dim)))

    def _decoded(self, wav: Tensor, lengths: list[int] | None) -> Tensor:
        self.lengths = torch.full((self.batch_size,), wav.shape[2]) if lengths is None else torch.tensor(lengths)
        return wav

    def _nothing(self, channels: int) -> Tensor:
        return torch.zeros(self.batch_size, channels, 0, device=self._device)

    # Rows that come and go

    def reset(self, mask: Tensor | Sequence[bool] | None = None) -> None:
        """Start the rows anew where mask (B,) is True; all by default. What encoder and decoder held of them is gone, and the
        other rows go on as if nothing had happened. It may come at any moment, in the middle of a frame too.

        After it, the decoder leaves out the row's first `model.decoder.delay` samples again: zeros stand in their place.
        Raises ValueError for a mask of another shape or type.
        """
        mask = torch.ones(self.batch_size, dtype=torch.bool) if mask is None else torch.as_tensor(mask)
        if mask.dtype != torch.bool or mask.shape != (self.batch_size,):
            raise ValueError(f"mask has shape {tuple(mask.shape)}, {mask.dtype}: reset takes ({self.batch_size},) of bool, "
                             "True where a row starts anew")
        rows = mask.nonzero()[:, 0].tolist()
        self._encoding.reset(rows)
        self._decoding.reset(rows)

    def take(self, rows: Sequence[int]) -> Stream:
        """A new stream with copies of these rows, in this order: they go on there as they would here.

        Raises ValueError for no rows, rows that are not there, and rows that are named twice.
        """
        rows = [int(row) for row in rows]
        if not rows or len(set(rows)) < len(rows) or not all(0 <= row < self.batch_size for row in rows):
            raise ValueError(f"take({rows}): name each row once, of 0 to {self.batch_size - 1}")
        taken = Stream(self.model, len(rows), self.num_codebooks, self.beam)
        taken._encoding, taken._decoding = self._encoding.take(rows), self._decoding.take(rows)
        taken.lengths = self.lengths[rows]
        return taken

    def join(self, other: Stream) -> None:
        """Append copies of the rows of another stream of the same model; `batch_size` grows by theirs.

        Raises ValueError for a stream of another model, another number of codebooks or another beam.
        """
        if other.model is not self.model or (other.num_codebooks, other.beam) != (self.num_codebooks, self.beam):
            raise ValueError("join takes a stream of the same model, as many codebooks and the same beam")
        self._encoding.join(other._encoding)
        self._decoding.join(other._decoding)
        self.batch_size += other.batch_size
        self.lengths = torch.cat([self.lengths, other.lengths])

    # State that outlives the process

    def state_dict(self) -> dict[str, Tensor]:
        """All that is needed to go on elsewhere, as a flat dictionary of tensors: for `torch.save` (read it with
        `weights_only=True`), safetensors' `save_file` or a pipe."""
        values = {"fingerprint": self._fingerprint(), "layout": torch.tensor([self.batch_size, self.num_codebooks]),
                  "lengths": self.lengths.clone()}
        for name, part in (("encoder", self._encoding), ("decoder", self._decoding)):
            values |= {f"{name}.{key}": value for key, value in part.dump().items()}
        return values

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where the stream of `state_dict` was, bit by bit on a machine of the same kind.

        Raises ValueError for the state of another model, batch size or number of codebooks, and for what is none; the stream
        then is as it was.
        """
        try:
            if not torch.equal(state["fingerprint"].cpu(), self._fingerprint()):
                raise ValueError("it belongs to another model: load that one, or start with an empty state")
            batch_size, codebooks = state["layout"].tolist()
            if (batch_size, codebooks) != (self.batch_size, self.num_codebooks):
                raise ValueError(f"it holds {batch_size} signals and {codebooks} codebooks, this stream has {self.batch_size} and "
                                 f"{self.num_codebooks}: make one with model.stream({batch_size}, {codebooks})")
            fresh = Stream(self.model, self.batch_size, self.num_codebooks, self.beam)
            for name, part in (("encoder", fresh._encoding), ("decoder", fresh._decoding)):
                own = {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}
                part.load(own, self._device)
            fresh.lengths = state["lengths"].clone()
        except ValueError as error:
            raise ValueError(f"this state cannot be loaded: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no state of a stream ({type(error).__name__}: {error})") from None
        self._encoding, self._decoding, self.lengths = fresh._encoding, fresh._decoding, fresh.lengths

    def _fingerprint(self) -> Tensor:
        """Of the weights and of the configuration, without its name and what streams do not know: (32,) uint8."""
        spec, config = self.model.spec, self.model.config.to_dict()
        for other in ("name", "level", "spectrum"):
            config.pop(other, None)
        text = spec.fingerprint + spec.decoder_fingerprint + json.dumps(config, sort_keys=True)
        return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)


def _own_frames(codes: Tensor) -> list[int]:
    """Of codes (B, k, m), some of which are negative, how many frames at the end of each row are not -1. Empty where there are
    other negative codes, or frames that no row has."""
    leading = (codes == NO_CODE).all(1).cumprod(1).bool()  # (B, m)
    if (codes < 0).any(1).ne(leading).any() or leading.all(0).any():
        return []
    return (~leading).sum(1).tolist()
