"""A codec as audiocraft and moshi know one: their CompressionModel, by its methods and properties."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from codec import latents
from codec.model import Codec
from codec.stream import NO_CODE, Stream


@dataclass
class QuantizedResult:
    """x (B, 1, T) decoded audio, codes (B, K, T'), bandwidth in kbit/s of each item."""

    x: Tensor
    codes: Tensor
    bandwidth: Tensor
    penalty: Tensor | None = None
    metrics: dict = field(default_factory=dict)


class CompressionModel(nn.Module):
    """For code that is written for Mimi of `moshi` or EnCodec of `audiocraft`:

        mimi = CompressionModel(codec.load("speech-16k"))
        mimi.set_num_codebooks(4)
        codes = mimi.encode(wav)                        # (B, 1, T) to (B, 4, T')
        with mimi.streaming(batch_size=2):              # frames that come one by one: the same codes and samples
            pcm = mimi.decode(codes[:, :, :1])

    Chunks may be of any length. The first samples of a stream come `model.decoder.delay` samples late, so that they are
    aligned with the input; `flush` gives the last.
    """

    channels = 1

    def __init__(self, model: Codec):
        super().__init__()
        if model.output_sample_rate != model.sample_rate:
            raise ValueError(f"{model.config.name} decodes to {model.output_sample_rate} Hz what has {model.sample_rate} Hz: a "
                             "CompressionModel has one rate")
        self.model, self._codebooks = model, model.num_codebooks
        self._stream: Stream | None = None
        self._running: Tensor | None = None  # (B,) bool: rows that go on

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.model.frame_rate

    @property
    def frame_size(self) -> int:
        return self.model.frame_size

    @property
    def cardinality(self) -> int:
        """Entries of the largest codebook."""
        return self.model.codebook_size

    @property
    def num_codebooks(self) -> int:
        """Codebooks that `encode` gives."""
        return self._codebooks

    @property
    def total_codebooks(self) -> int:
        return self.model.num_codebooks

    def set_num_codebooks(self, n: int) -> None:
        """Raises ValueError where the first n do not decode on their own, and while streaming."""
        if self._stream is not None:
            raise ValueError("set_num_codebooks comes before streaming: a stream keeps its codebooks")
        self._codebooks = self.model.codebooks_for(n)

    # Coding

    def forward(self, x: Tensor) -> QuantizedResult:
        """x (B, 1, T) through the codec; without gradients, and apart from any stream."""
        codes = self.model.encode_frames(self._mono(x), self._codebooks)
        rate = torch.full((len(x),), self.model.bitrate(self._codebooks) / 1000, device=x.device)
        return QuantizedResult(self.model.decode_frames(codes)[..., : x.shape[2]], codes, rate)

    def encode(self, x: Tensor) -> Tensor:
        """x (B, 1, T) to codes (B, K, T'); while streaming, those of the frames that are full, -1 in front where an item has
        fewer than others."""
        if self._stream is None:
            return self.model.encode_frames(self._mono(x), self._codebooks)
        return self._stream.encode(self._mono(x), None if self._running is None else (self._running * x.shape[2]).tolist())

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, K, T') to samples (B, 1, T); while streaming, those that are finished, zeros in front where an item has
        fewer than others."""
        if self._stream is None:
            self.model.check_dtype()
            return self.model.decode_frames(codes)
        if self._running is not None:
            if not self._running.any():
                return torch.zeros(len(codes), 1, 0, device=codes.device)
            codes = codes.masked_fill(~self._running[:, None, None].to(codes.device), NO_CODE)
        return self._stream.decode(codes)

    def decode_latent(self, codes: Tensor) -> Tensor:
        """codes (B, K, T') to latents (B, dim, T')."""
        return self.model.quantizer.decode(codes)

    def encode_to_latent(self, x: Tensor, quantize: bool = True) -> Tensor:
        """x (B, 1, T), a whole signal, to latents (B, dim, T'), quantized or as they were before."""
        if self._stream is not None:
            raise ValueError("encode_to_latent takes whole signals: leave the stream first")
        return self.decode_latent(self.encode(x)) if quantize else latents.encode(self.model, self._mono(x))

    # Streaming

    @property
    def is_streaming(self) -> bool:
        return self._stream is not None

    @contextmanager
    def streaming(self, batch_size: int) -> Iterator[None]:
        """`encode` and `decode` go on where they were, for as long as it lasts."""
        self.streaming_forever(batch_size)
        try:
            yield
        finally:
            self._stream = self._running = None

    def streaming_forever(self, batch_size: int) -> None:
        if self._stream is not None:
            raise ValueError("this model is streaming already: leave that stream first, or reset_streaming")
        self._stream = self.model.stream(batch_size, self._codebooks)

    def reset_streaming(self, reset_mask: Tensor | None = None) -> None:
        """Items start anew where reset_mask (B,) is True; all by default."""
        self._live().reset(reset_mask)

    def set_exec_mask(self, exec_mask: Tensor) -> None:
        """Items hold still where exec_mask (B,) is False, until it is set again."""
        if exec_mask.shape != (self._live().batch_size,):
            raise ValueError(f"exec_mask has shape {tuple(exec_mask.shape)}: it must be ({self._live().batch_size},)")
        self._running = None if exec_mask.bool().all() else exec_mask.bool().cpu()

    def get_streaming_state(self) -> dict[str, Tensor]:
        return self._live().state_dict()

    def set_streaming_state(self, state: dict[str, Tensor]) -> None:
        self._live().load_state_dict(state)

    def flush(self) -> tuple[Tensor, Tensor]:
        """At the end of a stream: the codes (B, K, m) of the last samples, and the last samples (B, 1, n) of what was decoded."""
        return self._live().flush(), self._live().flush_decoder()

    def _live(self) -> Stream:
        if self._stream is None:
            raise ValueError("this model is not streaming: use `with model.streaming(batch_size):`")
        return self._stream

    def _mono(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1] != 1 or not x.is_floating_point():
            raise ValueError(f"x is {x.dtype} {tuple(x.shape)}: it must be floating-point (B, 1, T)")
        self.model.check_dtype()
        return x
