"""Codecs that stay outside, behind this project's face: anything with `encode` and `decode` in one of the field's three
conventions becomes a `Codec` for tokens, files, sweeps and language models.

    outside = transformers.MimiModel.from_pretrained(directory)
    model = codec.adapters.adapt(outside)
    tokens = model.encode(wav, sample_rate=44_100)      # Tokens, saved and cut like any others
    audio = model.decode(tokens)

Where a model is named, as for `codec sweep --models`, a function of a Python file gives one: `mine.py:mimi` (see `load`).
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec.backbones.base import Network
from codec.config import CodecConfig, ConfigError
from codec.model import Codec, fingerprint
from codec.tokens import TokenSpec
from quantizers import Quantizer
from quantizers.unchanged import Unchanged

CONVENTIONS = ("transformers", "audiocraft", "speechtokenizer")
PROGRAM = re.compile(r"(.+\.py):([A-Za-z_]\w*)")  # FILE.py:FUNCTION


def load(source: str) -> Codec:
    """What a function of a Python file gives: one of our codecs, or an object for `adapt`.

    The file is run, so name none that you do not trust. Raises ConfigError where there is no such file or function, and for
    what fails in it.
    """
    match = PROGRAM.fullmatch(source)
    if match is None or not Path(match[1]).is_file():
        raise ConfigError(f"{source}: no such file: name a function of a Python file as FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(Path(match[1]).stem, match[1])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = getattr(module, match[2], None)
        if not callable(function):
            raise ConfigError(f"{match[1]} has no function {match[2]}")
        made = function()
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's program raises
        raise ConfigError(f"{source}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    return made if isinstance(made, Codec) else adapt(made)


def adapt(
    outside: Any, convention: str | None = None, *, name: str | None = None, sample_rate: int | None = None,
    frame_size: int | None = None, codebook_sizes: tuple[int, ...] | None = None,
) -> AdaptedCodec:
    """Wrap a codec of another library, in evaluation mode.

    Args:
        outside: the codec. Its conventions are told apart by what they have:
            transformers: `config`, `encode(input_values (B, 1, T)).audio_codes`, `decode(audio_codes).audio_values`
                (Encodec, Dac, Mimi, Xcodec and what follows them);
            audiocraft (also moshi): `frame_rate`, `num_codebooks`, `cardinality`, `encode(x) -> codes (B, K, T)` or
                (codes, scale), `decode(codes[, scale])`;
            speechtokenizer (also DM-Codec): `encode(x) -> codes (K, B, T)`, `decode(codes)`.
        convention: one of these names where that is not enough.
        name: of the model in its tokens.
        sample_rate, frame_size, codebook_sizes: where the object does not say.

    Raises ValueError, with what to give, for an object that fits none of them or does not say enough of itself.
    """
    convention = convention or _guess(outside)
    if convention not in CONVENTIONS:
        raise ValueError(f"no convention is called {convention!r}: there is {', '.join(CONVENTIONS)}")
    facts = _facts(outside, convention)
    facts |= {key: value for key, value in (
        ("sample_rate", sample_rate), ("frame_size", frame_size), ("codebook_sizes", codebook_sizes),
    ) if value is not None}
    missing = [key for key in ("sample_rate", "frame_size", "codebook_sizes") if facts.get(key) is None]
    if missing:
        raise ValueError(f"{type(outside).__name__} does not say its {' and '.join(missing)}: give adapt({missing[0]}=...)")
    return AdaptedCodec(outside, convention, name or type(outside).__name__, **facts)


class AdaptedCodec(Codec):
    """What `adapt` makes. Items and channels are coded one by one, so that padding changes nothing. The first k codebooks
    are those of all: bit rates are chosen by cutting. It cannot stream or be trained here."""

    def __init__(
        self, outside: Any, convention: str, name: str, sample_rate: int, frame_size: int, codebook_sizes: tuple[int, ...],
    ):
        nn.Module.__init__(self)
        self.config = CodecConfig(name=name, sample_rate=sample_rate, frame_size=frame_size, dim=len(codebook_sizes))
        self.outside, self.convention = outside, convention
        self.quantizer = _Books(1, codebook_sizes)
        self.encoder = _Whole(lambda wav: self.encode_frames(wav, self.num_codebooks).float())
        self.decoder = _Whole(lambda codes: self.decode_frames(codes[:, (codes[0, :, 0] >= 0)].long()))
        self._spec, self._released = None, {}
        self.eval()

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self._weights().values()), torch.device("cpu"))

    @property
    def latency(self) -> float:
        """Not known."""
        return math.nan

    @property
    def spec(self) -> TokenSpec:
        weights = self._weights()
        tensors = list(weights.values())
        if self._spec is None or not self._spec[0].of(tensors):
            mark = fingerprint(weights)
            self._spec = Unchanged(tensors), TokenSpec(
                name=self.config.name, sample_rate=self.sample_rate, frame_size=self.frame_size,
                codebook_sizes=self.codebook_sizes, fingerprint=mark, decoder_fingerprint=mark,
            )
        return self._spec[1]

    def release(self, part: str) -> None:
        """Nothing: what belongs to which half is known outside alone."""

    def check_dtype(self) -> None:
        """Whatever the outside codec computes in."""

    @torch.no_grad()
    def encode_frames(
        self, wav: Tensor, num_codebooks: int, lengths: list[int] | None = None, beam: int | None = None, refine: int = 0,
        variable: Any = None, eq_db: Any = (),
    ) -> Tensor:
        """wav (B, 1, T) to codes (B, k, n), every row alone; rows that are shorter end in zeros."""
        rows = [row[None, :, :n] for row, n in zip(wav, lengths or [wav.shape[2]] * len(wav))]
        frames = -(-wav.shape[2] // self.frame_size)
        codes = torch.zeros(len(rows), num_codebooks, frames, dtype=torch.int64, device=wav.device)
        for out, row in zip(codes, rows):
            own = -(-row.shape[2] // self.frame_size)
            # Whole frames: what a codec makes of less than one differs between them.
            row = nn.functional.pad(row, (0, own * self.frame_size - row.shape[2]))
            found = self._encode(row)[0, :num_codebooks]
            if found.shape[1] < own:
                raise ValueError(f"{self.config.name} gave {found.shape[1]} frames for {own} of {self.frame_size} samples: "
                                 "give adapt its true frame_size")
            out[:, :own] = found[:, :own]
        return codes

    @torch.no_grad()
    def decode_frames(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """codes (B, k, n) to samples (B, 1, n * frame_size), every row alone."""
        wav = torch.zeros(len(codes), 1, codes.shape[2] * self.frame_size, device=codes.device)
        counts = [codes.shape[2]] * len(codes) if lengths is None else lengths.tolist()
        for out, row, n in zip(wav, codes, counts):
            if n:
                samples = self._decode(row[None, :, :n]).reshape(-1)[: n * self.frame_size]
                out[0, : len(samples)] = samples
        return wav

    def stream(self, *_: Any, **__: Any):
        raise ValueError(f"{self.config.name} is coded outside and cannot stream here: use codec.load('speech-16k'), say")

    def forward(self, *_: Any, **__: Any):
        raise ValueError(f"{self.config.name} is coded outside and cannot be trained here")

    # The conventions

    def _encode(self, wav: Tensor) -> Tensor:
        """wav (1, 1, T) to all codes (1, K, T')."""
        if self.convention == "transformers":
            codes = self.outside.encode(wav, **_most(self.outside)).audio_codes
            return codes[0] if codes.dim() == 4 else codes  # Encodec: (chunks, B, K, T')
        found = self.outside.encode(wav)
        codes = found[0] if isinstance(found, (tuple, list)) else found
        return codes.transpose(0, 1) if self.convention == "speechtokenizer" else codes

    def _decode(self, codes: Tensor) -> Tensor:
        """codes (1, k, T') to samples, of any shape."""
        if self.convention == "speechtokenizer":
            return self.outside.decode(codes.transpose(0, 1))
        if self.convention == "audiocraft":
            return self.outside.decode(codes)
        parameters = inspect.signature(self.outside.decode).parameters
        if "audio_scales" in parameters:  # Encodec
            return self.outside.decode(codes[None], [None]).audio_values
        found = self.outside.decode(audio_codes=codes)
        return getattr(found, "audio_values", found)

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.outside.state_dict()) if hasattr(self.outside, "state_dict") else {}


class _Whole(Network):
    """What files are coded with: a network that is given all of a signal at once, with codes in the place of latents."""

    window = (2**40, 0)
    ragged = True

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self._function = function

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self._function(x), None


class _Books(Quantizer):
    """Keeps the sizes; quantizing is outside. In what is decoded -1 stands for codebooks that are not there."""

    def encode(self, latents: Tensor, num_codebooks: int | None = None, beam: int | None = None) -> Tensor:
        return latents[:, :num_codebooks].long()

    def decode(self, codes: Tensor) -> Tensor:
        self.check_codes(codes)
        return nn.functional.pad(codes.float(), (0, 0, 0, self.num_codebooks - codes.shape[1]), value=-1)


def _guess(outside: Any) -> str:
    if not all(callable(getattr(outside, method, None)) for method in ("encode", "decode")):
        raise ValueError(f"{type(outside).__name__} has no encode and decode: nothing can be adapted")
    if hasattr(outside, "config") and "input_values" in inspect.signature(outside.encode).parameters:
        return "transformers"
    if hasattr(outside, "cardinality") and hasattr(outside, "frame_rate"):
        return "audiocraft"
    if hasattr(outside, "n_q") and hasattr(outside, "downsample_rate"):
        return "speechtokenizer"
    raise ValueError(f"{type(outside).__name__} looks like none of {', '.join(CONVENTIONS)}: give adapt(convention=...)")


def _facts(outside: Any, convention: str) -> dict[str, Any]:
    """What the object says of itself."""
    if convention == "transformers":
        config = outside.config
        rate = getattr(config, "sampling_rate", None) or getattr(config, "sample_rate", None)
        hop = getattr(config, "hop_length", None)
        if getattr(config, "frame_rate", None) and rate and getattr(config, "model_type", "") == "mimi":
            hop = round(rate / config.frame_rate)  # what the configuration calls a frame is one of the tokens
        count = next((getattr(config, key) for key in ("num_quantizers", "n_codebooks") if hasattr(config, key)), None)
        size = getattr(config, "codebook_size", None)
    elif convention == "audiocraft":
        rate, size, count, frames = (
            getattr(outside, key, None) for key in ("sample_rate", "cardinality", "num_codebooks", "frame_rate")
        )
        hop = rate and frames and round(rate / frames)
    else:
        rate, hop, count = (getattr(outside, key, None) for key in ("sample_rate", "downsample_rate", "n_q"))
        size = getattr(outside, "codebook_size", None) or getattr(getattr(outside, "quantizer", None), "bins", None)
    sizes = (int(size),) * int(count) if size and count else None
    return {"sample_rate": rate and int(rate), "frame_size": hop and int(hop), "codebook_sizes": sizes}


def _most(outside: Any) -> dict[str, Any]:
    """Arguments that ask a transformers codec for all its codebooks."""
    parameters = inspect.signature(outside.encode).parameters
    if "bandwidth" in parameters:
        return {"bandwidth": max(outside.config.target_bandwidths)}
    return {"num_quantizers": outside.config.num_quantizers} if "num_quantizers" in parameters else {}
