"""The codec: encoder -> quantizer -> decoder. Audio in, tokens out, and back."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quantizers
from codec import refinement
from codec.allocation import Variable, variable_of
from codec.audio import Normal, Normalizer, correction, resample
from codec.backbones import build_decoder, build_encoder
from codec.backbones.base import Network
from codec.backbones.fused import FusedEncoder
from codec.config import CodecConfig, ConfigError
from codec.coding import Decoding, push_frames
from codec.correction import Correction, joined
from codec.stream import Stream, as_samples
from codec.entropy import Prior
from codec.tokens import Tokens, TokenSpec, frames_for
from quantizers.unchanged import Unchanged


HASHED = 1_000_000  # numbers at a time
CAUSAL = "speech-16k (in the box), or the recipes encodec_24k and mimi"


@dataclass
class CodecOutput:
    """What training needs: audio (B, 1, T) as decoded, latents (B, dim, T') before and after quantization, and what an encoder
    that has a student for a teacher makes of the content (B, content_dim, T')."""

    audio: Tensor
    latents: Tensor
    quantized: Tensor
    codes: Tensor | None
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]
    content: Tensor | None = None


class Codec(nn.Module):
    """A neural audio codec for mono audio; every channel of a recording is coded on its own."""

    channels = 1

    def __init__(self, config: CodecConfig):
        super().__init__()
        if config.sample_rate < 1 or config.frame_size < 1:
            raise ConfigError(f"sample_rate={config.sample_rate} and frame_size={config.frame_size} must be positive")
        self.config = config
        self.encoder = build_encoder(config.encoder, config.dim, config.frame_size)
        self.quantizer = _quantizer(config)
        self.decoder = build_decoder(config.decoder, config.dim, config.output_frame_size)
        self._spec: tuple[Unchanged, TokenSpec] | None = None  # with the weights it is of
        self._released: dict[str, str] = {}  # fingerprints

    # What a pipeline reads

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples a frame, of the audio that is encoded."""
        return self.config.frame_size

    @property
    def output_sample_rate(self) -> int:
        """Of the decoder in Hz: that of the encoder for most. `decode` brings its audio to the rate of what was encoded."""
        return self.config.output_rate

    @property
    def output_frame_size(self) -> int:
        """Samples a frame that the decoder makes, at `output_sample_rate`."""
        return self.config.output_frame_size

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.frame_size

    @property
    def num_codebooks(self) -> int:
        return self.quantizer.num_codebooks

    @property
    def codebook_size(self) -> int:
        return max(self.quantizer.codebook_sizes)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.quantizer.codebook_sizes

    @property
    def normal(self) -> Normal | None:
        """What recordings are brought to before they are encoded with `normalize`; None where that is not known."""
        config = self.config
        return None if config.level is None else Normal(config.level, config.spectrum or (), self.sample_rate)

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: the frames that are coded together must be full, those that follow must be there
        as far as encoder and decoder see them, and the decoder's output lags by `delay`. A network that mirrors the start of a
        signal needs enough frames for it, and one that sees all of a signal a full window."""
        together, networks = self.quantizer.frame_multiple, (self.encoder, self.decoder)
        frames = -(-max(network.start_frames for network in networks) // together) * together
        for network in networks:
            frames += network.window[0] if network.window else network.context or 0
        return self.frame_size * frames / self.sample_rate + self.decoder.delay / self.output_sample_rate

    @property
    def device(self) -> torch.device:
        weights = chain(self.parameters(), self.buffers())
        return next(weight.device for weight in weights if not weight.is_meta)  # of what was not released

    def bitrate(self, num_codebooks: int | None = None) -> float:
        """Nominal bit/s of one channel coded with that many codebooks."""
        return self.frame_rate * self.quantizer.bits_per_frame(num_codebooks)

    def codebooks_for(self, num_codebooks: int | None = None, bitrate: float | None = None) -> int:
        """The number of codebooks that is asked for, directly or as bit/s of one channel (rounded down, with a warning).

        Raises ValueError when the model has not as many, when they do not decode on their own, or when not even one fits.
        """
        if num_codebooks is not None and bitrate is not None:
            raise ValueError("give num_codebooks or bitrate, not both")
        if bitrate is not None:
            counts = self.quantizer.counts
            fitting = [k for k in counts if self.bitrate(k) <= bitrate * (1 + 1e-9)]
            if not fitting:
                raise ValueError(f"{bitrate:g} bit/s is too low: the least is {self.bitrate(counts[0]):g} bit/s, "
                                 f"{counts[0]} codebook{'s' * (counts[0] > 1)}")
            if bitrate > self.bitrate() * (1 + 1e-9):
                raise ValueError(f"{bitrate:g} bit/s is more than this model has: the most is {self.bitrate():g} bit/s")
            if abs(self.bitrate(fitting[-1]) - bitrate) > 1e-6 * bitrate:
                warnings.warn(f"{bitrate:g} bit/s rounds down to {self.bitrate(fitting[-1]):g} bit/s "
                              f"({fitting[-1]} codebooks)", stacklevel=3)
            return fitting[-1]
        return self.quantizer.check_count(num_codebooks)

    @property
    def spec(self) -> TokenSpec:
        """What tokens of this model carry with them. Weights are hashed again only after they have changed."""
        weights = self._tensors()
        if self._spec is None or not self._spec[0].of(weights):
            self._spec = Unchanged(weights), TokenSpec(
                name=self.config.name, sample_rate=self.sample_rate, frame_size=self.frame_size,
                codebook_sizes=self.codebook_sizes, fingerprint=self._fingerprint("encoder"),
                decoder_fingerprint=self._fingerprint("decoder"), counts=self.quantizer.counts,
                strides=self.quantizer.strides,
            )
        return self._spec[1]

    def _tensors(self) -> list[Tensor]:
        parts = self.encoder.state_dict(), self.decoder.state_dict(), self.quantizer.inference_state()
        return [weight for part in parts for weight in part.values()]

    def _fingerprint(self, part: str) -> str:
        if part in self._released:
            return self._released[part]
        prefix = "encoder." if part == "encoder" else ""
        weights = {prefix + name: value for name, value in getattr(self, part).state_dict().items()}
        return fingerprint(weights | self.quantizer.inference_state())

    def release(self, part: str, stored: Mapping[str, Tensor] | None = None) -> None:
        """Give the weights of the "encoder" or the "decoder" back, for a process that only decodes or only encodes: up to half
        of the memory. Tokens still carry both fingerprints. Using the part afterwards raises ValueError.

        stored: the weights, under the names that `fingerprint` is given, where they have never been read into the part.
        """
        if part not in ("encoder", "decoder"):
            raise ValueError(f"part={part!r}: there is encoder and decoder")
        if part in self._released:
            return
        self._released[part] = (
            fingerprint(ChainMap(stored, self.quantizer.inference_state())) if stored else self._fingerprint(part)
        )
        self._spec = None  # which holds the weights
        getattr(self, part).to("meta").register_forward_pre_hook(partial(_refuse, part))

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Codec:
        self._spec = None  # moved or converted
        stored, exact = self.state_dict().keys(), self.__dict__.setdefault("_exact", {})
        before = {name: value for name, value in self.named_buffers() if name not in stored}  # windows and the like
        super()._apply(partial(_applied, function) if self._released else function, recurse)
        for name, value in before.items():  # half precision rounds them, and the way back must not leave them so
            now = self.get_buffer(name)
            if value.dtype == torch.float32 != now.dtype:
                exact[name] = value
            elif now.dtype == torch.float32 and name in exact:
                now.copy_(exact.pop(name))
        return self

    def check_dtype(self) -> None:
        """Raise ValueError unless the weights are float32: in half precision the tokens would be others."""
        dtype = next(self.parameters()).dtype
        if dtype != torch.float32:
            raise ValueError(f"the weights are {dtype}: call model.float() before coding")

    # Audio to tokens and back

    @torch.no_grad()
    def encode(
        self,
        wav: Tensor | np.ndarray,
        sample_rate: int | None = None,
        num_codebooks: int | None = None,
        bitrate: float | None = None,
        lengths: Tensor | list[int] | None = None,
        beam: int | None = None,
        refine: int = 0,
        variable: Prior | None = None,
        normalize: bool = False,
    ) -> Tokens:
        """Encode audio.

        Args:
            wav: (T,), (channels, T) or (batch, channels, T), full scale at 1.
            sample_rate: of `wav` in Hz; the model's by default. Other rates are resampled.
            num_codebooks, bitrate: quality; all codebooks by default. `bitrate` in bit/s for each channel.
            lengths: (batch,) valid samples of each item; what lies behind them is padding and changes nothing.
            beam: how many choices of codes are followed at once, where codebooks are residual (docs/quantizers.md); the
                quantizer's own number by default, 1 for most. More take longer and come nearer to the audio; any
                decoder takes the tokens.
            refine: steps of analysis by synthesis (docs/refinement.md): codes are changed until what they decode to is nearer to
                the recording. 30 take longer than the audio lasts, on one core. For models with a causal decoder, for speech.
            variable: a prior of the model (`codec.entropy.prior_of(NAME, variable=True)`), to spend bits where they are heard: codes
                of all codebooks that take `bitrate` on average once they are saved with this prior. Wants `bitrate`; with `refine`
                it knows better where that is.
            normalize: bring each channel to the level, and half-way to the spectrum, that the model codes best, where it names them
                (`config.level`, `config.spectrum`); tokens say how, and decoding takes it off again. `codec encode` does so. Codes of a stream are those without it.

        Returns tokens with codes (batch * channels, K, frames), frames = ceil(T / frame_size), in whole groups where codes are
        held for several frames.
        Raises ValueError for audio that is empty, not finite or of another shape.
        """
        rate = self.sample_rate if sample_rate is None else sample_rate
        if not 1 <= rate < 2**31 or int(rate) != rate:
            raise ValueError(f"sample_rate={sample_rate} must be a positive whole number of Hz")
        rate = int(rate)
        spent = variable_of(self, num_codebooks, bitrate, variable)
        k = self.num_codebooks if spent else self.codebooks_for(num_codebooks, bitrate)
        self.quantizer.check_beam(beam)
        if refine:
            refinement.check(self, refine)
        self.check_dtype()
        wav = torch.as_tensor(wav)
        if wav.dim() not in (1, 2, 3):
            raise ValueError(f"wav has shape {tuple(wav.shape)}: it must be (T,), (channels, T) or (batch, channels, T)")
        if wav.numel() == 0:
            raise ValueError(f"wav has shape {tuple(wav.shape)}: there is no audio in it, at least one sample is needed")
        wav = wav.reshape((1,) * (3 - wav.dim()) + tuple(wav.shape))
        batch, channels, samples = wav.shape
        lengths = [samples] * batch if lengths is None else [int(n) for n in lengths]
        if len(lengths) != batch or not all(0 < n <= samples for n in lengths):
            raise ValueError(f"lengths must be {batch} numbers from 1 to {samples}: the audio of an item is not empty")
        items, done = [as_samples(item[:, :n]) for item, n in zip(wav, lengths)], []
        if normalize and self.normal is not None:
            items = [item.cpu() for item in items]
            done = [correction([item.numpy()], rate, channels, self.normal) for item in items]
        items = [self._at_model_rate(item, rate) for item in items]
        if done:
            items = [torch.from_numpy(Normalizer(each, self.sample_rate).process(item.numpy())) for item, each in zip(items, done)]
        spec = self.spec
        frames = [frames_for(n, rate, spec) for n in lengths]
        samples = [item.shape[-1] for item in items for _ in range(channels)]
        padded = items[0]
        if batch > 1:
            padded = torch.zeros(batch, channels, max(samples))
            for row, item in zip(padded, items):
                row[:, : item.shape[-1]] = item
        corrected = joined(done)
        codes = self.encode_frames(
            padded.reshape(batch * channels, 1, -1).to(self.device), k, samples, beam, refine, spent, corrected.eq_db
        )
        return Tokens(
            codes=codes, spec=spec, sample_rate=rate, num_samples=tuple(lengths), channels=channels,
            lengths=torch.tensor(frames).repeat_interleave(channels).to(codes.device), correction=corrected,
        )

    @torch.no_grad()
    def encode_frames(
        self, wav: Tensor, num_codebooks: int, lengths: list[int] | None = None, beam: int | None = None, refine: int = 0,
        variable: Variable | None = None, eq_db: Sequence[Sequence[float]] = (),
    ) -> Tensor:
        """wav (B, 1, T) at the model's rate to codes (B, k, ceil(T / frame_size)), in whole groups of the frames that
        the quantizer codes together. The whole of a long one is never copied.

        lengths (B,): valid samples of each row, zeros behind them. Valid frames are those that the row has alone.
        beam: of the quantizer's search, its own by default. refine: steps, as in `encode`. variable: where bits are distributed,
        with all codebooks. eq_db: of each row, an equalizer that it has been through and that refinement hears it without.
        """
        if lengths is None or set(lengths) == {wav.shape[2]} or _indifferent(self.encoder) and not refine and variable is None:
            return self._encode_together(wav, num_codebooks, beam, refine, variable, eq_db)
        together = self.quantizer.frame_multiple
        frames = [-(-n // (self.frame_size * together)) * together for n in lengths]
        codes = torch.zeros(wav.shape[0], num_codebooks, max(frames), dtype=torch.int64, device=wav.device)
        alike = lengths if self.encoder.ragged else [n * self.frame_size for n in frames]
        for length, rows in _groups(alike).items():
            own = [eq_db[row] for row in rows] if eq_db else ()
            part = self._encode_together(wav[rows, :, :length], num_codebooks, beam, refine, variable, own)
            codes[rows, :, : part.shape[2]] = part
        return codes

    def _encode_together(
        self, wav: Tensor, num_codebooks: int, beam: int | None, refine: int, variable: Variable | None,
        eq_db: Sequence[Sequence[float]],
    ) -> Tensor:
        coding = refinement.encoding(self, wav.shape[0], num_codebooks, beam, refine, variable, eq_db)
        *first, last = wav.split(push_frames(self.encoder) * self.frame_size, 2)
        return torch.cat([*map(coding.push, first), coding.finish(last)], 2)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Decode tokens to audio (batch, channels, T), float32 on the CPU, at the rate and length of what was encoded.

        Items that are shorter than the longest end in zeros. Raises ValueError for tokens of another model.
        """
        self.check_dtype()
        self.check(tokens.spec)
        wav = self.decode_frames(tokens.codes.to(self.device), tokens.lengths.to(self.device)).cpu()
        if tokens.correction != Correction():
            Normalizer(tokens.correction, self.output_sample_rate, undo=True).process(wav[:, 0].numpy(), out=wav[:, 0].numpy())
        wav = wav.reshape(tokens.batch_size, tokens.channels, -1)  # (batch, channels, n * output_frame_size)
        rate, size = self.output_sample_rate, self.output_frame_size
        for start, stop in tokens.lost:
            wav[..., start * size : stop * size] = 0
        if tokens.batch_size == 1 and rate == tokens.sample_rate:  # as it is: a long one is never there twice
            return wav[..., : tokens.num_samples[0]]
        out = torch.zeros(tokens.batch_size, tokens.channels, max(tokens.num_samples))
        for row, item, n in zip(out, wav, tokens.num_samples):
            if n == 0:
                continue
            length = -(-n * rate // tokens.sample_rate)  # rounded up, in whole numbers
            item = torch.from_numpy(resample(item[:, :length].numpy(), rate, tokens.sample_rate))
            row[:, : min(n, item.shape[-1])] = item[:, :n]
        return out

    @torch.no_grad()
    def decode_frames(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """codes (B, k, n) to samples (B, 1, n * output_frame_size) at `output_sample_rate`, aligned with the input.

        lengths (B,): valid frames of each row. What lies behind them is silence, as it is for the row alone.
        """
        if lengths is None or _indifferent(self.decoder):
            return self._decode_together(codes, lengths)
        size = self.output_frame_size
        wav = torch.zeros(codes.shape[0], 1, codes.shape[2] * size, device=codes.device)
        for length, rows in _groups(lengths.tolist()).items():
            if length:
                wav[rows, :, : length * size] = self._decode_together(codes[rows, :, :length], None)
        return wav

    def _decode_together(self, codes: Tensor, lengths: Tensor | None) -> Tensor:
        coding, size, done = Decoding(self, codes.shape[0]), push_frames(self.decoder), 0
        wav = torch.zeros(codes.shape[0], 1, codes.shape[2] * self.output_frame_size, device=codes.device)
        for start in range(0, codes.shape[2], size):
            block = codes[..., start : start + size]
            latents = self.quantizer.decode(block)
            if lengths is not None:
                behind = torch.arange(start, start + block.shape[2], device=codes.device) >= lengths[:, None]  # (B, n)
                latents = latents.masked_fill(behind[:, None], 0.0)
            last = start + size >= codes.shape[2]
            part = (coding.finish(latents) if last else coding.push(latents))[..., : wav.shape[2] - done]
            wav[..., done : done + part.shape[2]] = part
            done += part.shape[2]
        return wav

    def stream(self, batch_size: int = 1, num_codebooks: int | None = None, beam: int | None = None) -> Stream:
        """A live encoder and decoder for `batch_size` parallel mono signals at the model's rate. beam: as in `encode`.

        Raises ValueError for a model that sees all of a signal at once (`encoder.window` or `decoder.window`): that is coded
        in windows of many seconds, which `encode` and files do, but nobody can hear live.
        """
        if self.encoder.window or self.decoder.window:
            raise ValueError(
                f"{self.config.name} sees all of a signal at once, so it cannot run live: encode whole recordings with it, or "
                f"take a causal model: {CAUSAL}"
            )
        self.check_dtype()
        self.quantizer.check_beam(beam)
        return Stream(self, batch_size, self.codebooks_for(num_codebooks), beam)

    def check(self, spec: TokenSpec) -> None:
        """Raise ValueError unless tokens of `spec` can be decoded here: the codebooks must be the very same."""
        own = self.spec
        if spec.fingerprint == own.fingerprint and (spec.sample_rate, spec.frame_size) != (own.sample_rate, own.frame_size):
            raise ValueError(f"these tokens say that {spec.name!r} has {spec.sample_rate} Hz and {spec.frame_size} samples a frame, and it has "
                             f"{own.sample_rate} and {own.frame_size}: what wrote them is wrong, encode the recording again")
        if spec.fingerprint != own.fingerprint:
            raise ValueError(
                f"these tokens were made by model {spec.name!r} with encoder and codebooks {spec.fingerprint}, "
                f"but this is {own.name!r} with {own.fingerprint}: load the model that made them"
            )

    def _at_model_rate(self, wav: Tensor, rate: int) -> Tensor:
        return wav if rate == self.sample_rate else torch.from_numpy(resample(wav.cpu().numpy(), rate, self.sample_rate))

    # Training

    def forward(self, wav: Tensor, active: Tensor | None = None, quantize: bool = True) -> CodecOutput:
        """wav (B, 1, n * frame_size) through the whole codec with gradients, to audio (B, 1, n * output_frame_size).
        active (B,): codebooks of each item."""
        content = None
        if isinstance(self.encoder, FusedEncoder):
            latents, content, _ = self.encoder.with_content(wav)
        else:
            latents, _ = self.encoder(wav)
        with torch.autocast(wav.device.type, enabled=False):
            latents = latents.float()
            result = self.quantizer(latents, active) if quantize else None
            quantized = result.quantized if quantize else latents
        delay, length = self.decoder.delay, wav.shape[-1] // self.frame_size * self.output_frame_size
        audio, _ = self.decoder(F.pad(quantized, (0, math.ceil(delay / self.output_frame_size))))
        return CodecOutput(
            audio=audio[..., delay : delay + length].float(), latents=latents, quantized=quantized,
            codes=result.codes if quantize else None, losses=result.losses if quantize else {},
            stats=result.stats if quantize else {}, content=content,
        )


def _quantizer(config: CodecConfig) -> quantizers.Quantizer:
    try:
        quantizer = quantizers.build(dim=config.dim, **config.quantizer.to_dict())
    except ValueError as error:
        raise ConfigError(f"quantizer: {error}") from None
    if not quantizer.decodes:
        raise ConfigError(f"quantizer: {config.quantizer.name} has no decode, so no codec can be built with it")
    return quantizer


def _indifferent(network: Network) -> bool:
    """Whether valid outputs of a network are the same whatever follows: not where it looks ahead, fills up the end of a
    signal for itself, or mirrors its start, which may be shorter than that."""
    return network.context is None and network.window is None and not network.ragged and network.start_frames == 1


def _refuse(part: str, network: Network, inputs: tuple) -> None:
    raise ValueError(f"the weights of the {part} were released: load the model again")


def _applied(function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """What was released moves nowhere, but is converted with the rest."""
    return weight.to(function(torch.empty(0, dtype=weight.dtype)).dtype) if weight.is_meta else function(weight)


def _groups(lengths: list[int]) -> dict[int, list[int]]:
    """The rows of each length."""
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length, []).append(row)
    return groups


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of the SHA-256 of named tensors, which are asked for one by one."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        rows = value.reshape(1) if value.dim() == 0 else value
        for part in rows.split(max(1, HASHED * len(rows) // max(1, rows.numel()))):  # a large one is never there twice
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
