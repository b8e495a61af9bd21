"""A codec with the methods of Mimi in `transformers`."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from codec.hub import Undrawn
from codec.lm.auto.config import NeuralCodecConfig
from codec.lm.auto.files import Files
from codec.lm.vocab import Vocabulary
from codec.model import Codec
from codec.stream import Stream


@dataclass
class NeuralCodecEncoderOutput(ModelOutput):
    """audio_codes (B, K, T') int64, zeros behind an item's frames; padding_cache: the stream to go on with."""

    audio_codes: Tensor | None = None
    audio_scales: list | None = None
    encoder_past_key_values: None = None
    padding_cache: Stream | None = None


@dataclass
class NeuralCodecDecoderOutput(ModelOutput):
    """audio_values (B, 1, T); decoder_past_key_values: the stream to go on with."""

    audio_values: Tensor | None = None
    decoder_past_key_values: Stream | None = None


@dataclass
class NeuralCodecOutput(ModelOutput):
    """audio_codes (B, K, T') and audio_values (B, 1, T)."""

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None


class NeuralCodecModel(Files, PreTrainedAudioTokenizerBase):
    """`model.codec` is the codec itself, with all that it can do. Weights stay float32."""

    config_class = NeuralCodecConfig
    base_model_prefix = "neural_codec"
    main_input_name = "input_values"
    input_modalities = "audio"
    _keys_to_ignore_on_load_unexpected = [r"^codec\.quantizer\.trainer"]

    def __init__(self, config: NeuralCodecConfig):
        super().__init__(config)
        self._empty = torch.get_default_device().type == "meta"  # from_pretrained fills it
        with Undrawn() if self._empty else nullcontext():
            self.codec = Codec(config.parsed)
        self.codec.eval().requires_grad_(False)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """What is computed and not stored, and weights that a checkpoint lacks, once all that it has is here."""
        if not self._empty or any(buffer.is_meta for buffer in self.buffers()):
            return
        self._empty, tensors = False, dict((*self.codec.named_parameters(), *self.codec.named_buffers()))
        lacking = [name for name, value in tensors.items() if not getattr(value, "_is_hf_initialized", False)]
        stored = self.codec.state_dict().keys()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]), nullcontext() if stored & {*lacking} else Undrawn():
            fresh = Codec(self.config.parsed)
        values = dict((*fresh.named_parameters(), *fresh.named_buffers()))
        for name in lacking:
            tensors[name].copy_(values[name])

    # Lengths

    def get_encoded_length(self, input_length: Tensor | int) -> Tensor | int:
        """Frames of so many samples."""
        multiple = self.codec.quantizer.frame_multiple
        return -(-input_length // (self.codec.frame_size * multiple)) * multiple

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """padding_mask (B, T) to (B, T') bool: frames that are an item's own."""
        frames = self.get_encoded_length(padding_mask.long().sum(-1))
        mask = torch.arange(int(frames.max()), device=frames.device) < frames[:, None]
        return mask if padding_side == "right" else mask.flip(-1)

    # Coding

    @can_return_tuple
    @torch.no_grad()
    def encode(
        self, input_values: Tensor, padding_mask: Tensor | None = None, num_quantizers: int | None = None,
        encoder_past_key_values: None = None, padding_cache: Stream | None = None, use_streaming: bool | None = None,
        bandwidth: float | None = None, **kwargs: Any,
    ) -> NeuralCodecEncoderOutput:
        """input_values (B, 1, T) at `config.sampling_rate` to codes.

        Args:
            padding_mask: (B, T) or (B, 1, T), 1 for samples and 0 for padding behind them, which changes nothing.
            num_quantizers: K; all by default. Or bandwidth: kbit/s, as EnCodec has it.
            use_streaming: T samples of a stream that goes on: codes are of the frames that are full, and `padding_cache` of the
                output is given to the next call. Its `flush()` gives the last codes.

        Raises ValueError for another shape, samples that are not finite, padding in front, and a cache of something else.
        """
        wav = _batch(input_values)
        k = self.codec.codebooks_for(num_quantizers, None if bandwidth is None else 1000 * bandwidth)
        if padding_cache is not None or (self.config.use_streaming if use_streaming is None else use_streaming):
            if padding_mask is not None and not padding_mask.bool().all():
                raise ValueError("a stream takes samples without padding: leave padding_mask out")
            stream = self._stream(padding_cache, len(wav), k)
            return self._encoded(stream.encode(wav), stream)
        lengths = self._lengths(padding_mask, wav)
        self.codec.check_dtype()
        codes = torch.zeros(len(wav), k, self.get_encoded_length(wav.shape[2]), dtype=torch.int64, device=wav.device)
        rows = [row for row, n in enumerate(lengths) if n]
        if rows:
            behind = torch.arange(wav.shape[2], device=wav.device) >= torch.tensor(lengths, device=wav.device)[:, None, None]
            found = self.codec.encode_frames(wav.masked_fill(behind, 0.0)[rows], k, [lengths[row] for row in rows])
            codes[rows, :, : found.shape[2]] = found
        frames = torch.tensor([self.get_encoded_length(n) for n in lengths], device=wav.device)
        return self._encoded(codes.masked_fill(torch.arange(codes.shape[2], device=wav.device) >= frames[:, None, None], 0))

    def _encoded(self, codes: Tensor, stream: Stream | None = None) -> NeuralCodecEncoderOutput:
        if self.config.chunk_axis:
            return NeuralCodecEncoderOutput(audio_codes=codes[None], audio_scales=[None], padding_cache=stream)
        return NeuralCodecEncoderOutput(audio_codes=codes, padding_cache=stream)

    @can_return_tuple
    @torch.no_grad()
    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, decoder_past_key_values: Stream | None = None,
        use_cache: bool | None = None, audio_scales: Any = None, **kwargs: Any,
    ) -> NeuralCodecDecoderOutput:
        """audio_codes (B, K, T') of the first K codebooks, also (1, B, K, T'), to audio (B, 1, T).

        Args:
            padding_mask: as `encode` has had it: audio is as long as it, and silent behind an item's samples.
            use_cache: frames of a stream that goes on: `decoder_past_key_values` of the output is given to the next call, and
                its `flush_decoder()` gives the last samples.
            audio_scales: not used; EnCodec has it.

        Raises ValueError for another shape, and for ids that are no codes with their place.
        """
        codes = audio_codes[0] if audio_codes.dim() == 4 and len(audio_codes) == 1 else audio_codes
        Vocabulary(self.codec.codebook_sizes).encode(codes)  # raises for what are no codes
        if decoder_past_key_values is not None or (self.config.use_cache if use_cache is None else use_cache):
            k = None if decoder_past_key_values is None else decoder_past_key_values.num_codebooks
            stream = self._stream(decoder_past_key_values, len(codes), k)
            return NeuralCodecDecoderOutput(audio_values=stream.decode(codes), decoder_past_key_values=stream)
        self.codec.check_dtype()
        self.codec.quantizer.check_count(codes.shape[1])
        if padding_mask is None:
            return NeuralCodecDecoderOutput(audio_values=self.codec.decode_frames(codes))
        samples = self._lengths(padding_mask, codes)
        frames = torch.tensor([min(int(self.get_encoded_length(n)), codes.shape[2]) for n in samples], device=codes.device)
        rate = self.codec.output_sample_rate / self.codec.sample_rate
        wav = self.codec.decode_frames(codes, frames)[..., : math.ceil(padding_mask.shape[-1] * rate)]
        ends = torch.tensor([math.ceil(n * rate) for n in samples], device=wav.device)[:, None, None]
        return NeuralCodecDecoderOutput(audio_values=wav.masked_fill(torch.arange(wav.shape[2], device=wav.device) >= ends, 0.0))

    @can_return_tuple
    def forward(
        self, input_values: Tensor | None = None, padding_mask: Tensor | None = None, num_quantizers: int | None = None,
        audio_codes: Tensor | None = None, **kwargs: Any,
    ) -> NeuralCodecOutput:
        """`encode`, unless there are codes already, and `decode`."""
        if audio_codes is None:
            audio_codes = self.encode(
                input_values, padding_mask, num_quantizers, use_streaming=False, return_dict=True, **kwargs).audio_codes
        values = self.decode(audio_codes, padding_mask, use_cache=False, return_dict=True).audio_values
        return NeuralCodecOutput(audio_codes=audio_codes, audio_values=values)

    # Checks

    def _stream(self, cache: Stream | None, rows: int, k: int | None) -> Stream:
        if cache is None:
            return self.codec.stream(rows, k)
        if not isinstance(cache, Stream) or cache.model is not self.codec:
            raise ValueError(f"the cache is {type(cache).__name__}: give the one that this model returned last, or none at first")
        if (cache.batch_size, cache.num_codebooks) != (rows, cache.num_codebooks if k is None else k):
            raise ValueError(f"the cache is of {cache.batch_size} items and {cache.num_codebooks} codebooks, not {rows} and {k}")
        return cache

    def _lengths(self, padding_mask: Tensor | None, x: Tensor) -> list[int]:
        if padding_mask is None:
            return [x.shape[2]] * len(x)
        mask = (padding_mask[:, 0] if padding_mask.dim() == 3 else padding_mask).bool()
        if mask.dim() != 2 or len(mask) != len(x) or x.is_floating_point() and mask.shape[1] != x.shape[2]:
            raise ValueError(f"padding_mask has shape {tuple(padding_mask.shape)}: it must be ({len(x)}, samples)")
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("padding_mask has padding in front of samples: pad on the right")
        return mask.sum(1).tolist()


def _batch(values: Tensor) -> Tensor:
    if values.dim() != 3 or values.shape[1] != 1 or not values.is_floating_point():
        raise ValueError(f"input_values are {values.dtype} {tuple(values.shape)}: they must be floating-point (B, 1, T), mono")
    if not torch.isfinite(values).all():
        raise ValueError("input_values are NaN or infinite: repair them first, e.g. torch.nan_to_num")
    return values.float()
