"""Teachers: frozen models that turn 16 kHz audio into features at a known rate, behind one interface.

    teacher = load_teacher("facebook/hubert-base-ls960", layer="mean")   # or a folder, or "torchaudio:HUBERT_BASE"
    features = teacher.features(wav)            # wav (T,) at 16 kHz to (F, D) float32, F = ceil(T * frame_rate / 16000)

A teacher is no `nn.Module`: a module that holds one neither trains it nor saves it nor moves it.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Union

import numpy as np
import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30
OVERLAP = 6  # windows overlap by a sixth: 5 of 30 seconds
VERSION = 1  # of all that changes features

Layer = Union[int, str, Sequence[int]]


class TeacherError(ValueError):
    """A teacher cannot be had or used; one line that says why and how to mend it."""


class Teacher(ABC):
    """What all teachers offer. Audio goes in at 16 kHz; row i of the features describes samples [i, i + 1) * 16000 /
    frame_rate.

    Long audio is heard in windows of about 30 s that overlap by a sixth, and of each overlap both windows keep the
    half that lies farther from their edge: memory is bounded, and models that know a fixed length hear just that.

    name         in words, with the layer.
    dim          width of the features.
    native_rate  samples a second that the model itself hears; other than 16 kHz, audio is resampled.
    hop          native samples a row, so that frame_rate = native_rate / hop.
    window       rows that the model hears at a time.
    reach        native samples behind its own that the last row of a window sees.
    mirrored     whether what lies behind the end of a recording is mirrored; else the model itself takes what is short.
    fingerprint  of all that the features depend on: weights, layers, normalisation, windows.
    """

    sample_rate = SAMPLE_RATE
    name: str
    dim: int
    native_rate: int
    hop: int
    window: int
    reach: int = 0
    mirrored: bool = True
    fingerprint: str

    @property
    def frame_rate(self) -> float:
        """Rows a second."""
        return self.native_rate / self.hop

    def features(self, wav: Tensor | np.ndarray) -> Tensor:
        """wav (T,) at 16 kHz, [-1, 1], to (F, D) float32 on the CPU. Raises TeacherError for another shape and no
        samples."""
        wav = torch.as_tensor(wav)
        if wav.dim() != 1:
            raise TeacherError(f"audio has shape {tuple(wav.shape)}: features() takes (T,), calling a teacher (B, T)")
        return self(wav[None])[0].cpu()

    def __call__(self, wav: Tensor) -> Tensor:
        """wav (B, T) at 16 kHz, items of one length, to features (B, F, D) float32 without a gradient, on wav's device.

        Raises TeacherError for another shape, no samples, and a model that does not give the rows that its rate
        promises.
        """
        if wav.dim() != 2 or not wav.shape[1]:
            raise TeacherError(f"audio has shape {tuple(wav.shape)}: it must be (B, T) with at least one sample")
        frames = math.ceil(wav.shape[1] * self.frame_rate / SAMPLE_RATE)
        features = torch.empty(wav.shape[0], frames, self.dim, device=wav.device)
        with torch.inference_mode(), torch.autocast(wav.device.type, enabled=False):
            native = self._heard(wav, frames)
        for window in windows(frames, self.window):
            with torch.inference_mode(), torch.autocast(wav.device.type, enabled=False):
                rows = self._rows(native[:, window.first * self.hop : window.last * self.hop + self.reach])
            rows = self._checked(rows, window.last - window.first)
            features[:, window.keep] = rows[:, window.inside].to(features)
        return features

    def _heard(self, wav: Tensor, frames: int) -> Tensor:
        """wav (B, T) at 16 kHz to all that is heard for so many rows, at the native rate."""
        wav = self._normalized(_resampled(wav.float(), self.native_rate))
        length = frames * self.hop + self.reach
        if wav.shape[1] >= length or not self.mirrored:
            return wav[:, :length]
        missing = np.pad(np.arange(wav.shape[1]), (0, length - wav.shape[1]), mode="reflect")
        return wav[:, torch.from_numpy(missing).to(wav.device)]

    def _normalized(self, wav: Tensor) -> Tensor:
        """What the model wants done to a whole recording (B, n) at its own rate."""
        return wav

    @abstractmethod
    def _rows(self, wav: Tensor) -> Tensor:
        """Native samples (B, n) of at most a window and its reach to rows (B, about n / hop, dim)."""

    def _checked(self, rows: Tensor, frames: int) -> Tensor:
        """A row too many is dropped, and one too few is the last once more."""
        if rows.dim() != 3 or rows.shape[2] != self.dim:
            raise TeacherError(
                f"{self.name} gives features of shape {tuple(rows.shape)}, not (B, F, {self.dim}): state its true width"
            )
        if abs(rows.shape[1] - frames) > 1:
            raise TeacherError(
                f"{self.name} gives {rows.shape[1]} rows for {frames * self.hop / self.native_rate:g} s instead of "
                f"{frames}: its rate is not {self.frame_rate:g} frames/s"
            )
        return torch.cat([rows, rows[:, -1:]], 1)[:, :frames]

    def _probe(self) -> None:
        """Hear a second of sound: the rate and the width are what they are said to be."""
        self.features(0.1 * torch.sin(torch.arange(SAMPLE_RATE) * 0.3))


class CallableTeacher(Teacher):
    """A function as a teacher.

    Args:
        fn: (B, n) float32 at 16 kHz to (B, F, D), one row more or less than n * frame_rate / 16000. A module is put
            into evaluation mode whenever it is called, without gradients.
        frame_rate: rows a second; must divide 16,000.
        dim: D.
        name: in words. It stands for the function in the fingerprint (with the weights of a module), so give another
            one to another function.

    Raises TeacherError for what cannot be, and for a function that gives something else.
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], frame_rate: float, dim: int, name: str = "callable"):
        if frame_rate <= 0 or SAMPLE_RATE % frame_rate:
            raise TeacherError(f"frame_rate={frame_rate}: it must divide {SAMPLE_RATE}, so that rows begin at samples")
        if dim < 1:
            raise TeacherError(f"dim={dim}: it must be at least 1")
        self._fn, self.dim, self.name = fn, dim, name
        self.native_rate, self.hop = SAMPLE_RATE, int(SAMPLE_RATE // frame_rate)
        self.window = max(1, round(WINDOW_SECONDS * frame_rate))
        self.fingerprint = fingerprint_of(self, fn if isinstance(fn, nn.Module) else None)
        self._probe()

    def _rows(self, wav: Tensor) -> Tensor:
        if isinstance(self._fn, nn.Module):
            self._fn.eval()
        return self._fn(wav)


class ModelTeacher(Teacher):
    """A teacher with a network of its own and a choice of its layers. `layers` are those whose mean is taken;
    `bfloat16`: whether products are of that precision."""

    model: nn.Module
    layers: tuple[int, ...]
    bfloat16: bool = False

    def _freeze(self, model: nn.Module, device: str | torch.device) -> None:
        self.model = model.requires_grad_(False).to(device).eval()

    def halve(self) -> None:
        """From now on products are bfloat16."""
        self.bfloat16 = True
        self.fingerprint = hashlib.sha256(f"{self.fingerprint} bfloat16".encode()).hexdigest()[:16]

    def _hidden(self, inputs: Tensor) -> Sequence[Tensor]:
        """All hidden states (B, F, D) of a model of `transformers`."""
        return self.model(inputs, output_hidden_states=True).hidden_states

    def _mean(self, inputs: Tensor) -> Tensor:
        """What the model takes to the mean of the chosen hidden states (B, F, D) float32."""
        self.model.eval()
        device = self.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            return self._choose(self._hidden(inputs.to(device)))

    def _choose(self, states: Sequence[Tensor]) -> Tensor:
        """The mean of the chosen of all hidden states, each (B, F, D), in float32."""
        total = states[self.layers[0]].float()
        for layer in self.layers[1:]:
            total = total + states[layer]
        return total / len(self.layers)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load_teacher(
    name: str, layer: Layer = "mean", device: str | torch.device = "cpu", resample: bool = False,
    bfloat16: bool = False,
) -> Teacher:
    """A pretrained teacher, frozen.

    Args:
        name: a folder with config.json and safetensors, or a hub id (owner/name) of `transformers`: HuBERT, WavLM,
            wav2vec 2.0, data2vec-audio, w2v-BERT 2.0, Whisper (its encoder), AST, MERT; or "torchaudio:HUBERT_BASE"
            and the like.
        layer: 0 is what goes into the first layer, n comes out of the n-th; negative ones count from the last; "mean"
            is the mean of all, a list the mean of those.
        device: where it runs.
        resample: allow a teacher that hears another rate than 16 kHz (MERT: 24 kHz) to be given 16 kHz audio
            resampled, which is empty above 8 kHz.
        bfloat16: faster where the processor has it: Whisper-base takes 0.55 of the time on a CPU, and 0.05 % of the
            features' variance is lost.

    Raises TeacherError for what is not there, not supported or not safe to load.
    """
    name = str(name)
    if name.startswith("torchaudio:"):
        from codec.semantic.torchaudio_teacher import TorchaudioTeacher

        return TorchaudioTeacher(name.partition(":")[2], layer, device, resample, bfloat16)
    from codec.semantic.transformers_teachers import load

    return load(name, layer, device, resample, bfloat16)


class Window(NamedTuple):
    """Rows first to last - 1 are heard; `keep` of the whole are taken from there, `inside` of the window."""

    first: int
    last: int
    keep: slice
    inside: slice


def windows(frames: int, window: int) -> Iterator[Window]:
    """Windows over so many rows, on a fixed grid from the first, and what is kept of each: the middles, and both
    ends."""
    overlap = window // OVERLAP
    first = 0
    while True:
        last = min(first + window, frames)
        keep_from = first + (overlap // 2 if first else 0)
        keep_to = last if last == frames else last - (overlap - overlap // 2)
        yield Window(first, last, slice(keep_from, keep_to), slice(keep_from - first, keep_to - first))
        if last == frames:
            return
        first += window - overlap


def chosen(layer: Layer, count: int, first: int = 0) -> tuple[int, ...]:
    """Numbers of the chosen layers, of first to count - 1. Raises TeacherError for one that is not there."""
    if layer == "mean":
        return tuple(range(first, count))
    wanted = [layer] if isinstance(layer, int) and not isinstance(layer, bool) else layer
    if isinstance(wanted, str) or not wanted or not all(type(one) is int for one in wanted):
        raise TeacherError(f'layer={layer!r}: it is a number, a list of numbers or "mean"')
    found = [one + count if one < 0 else one for one in wanted]
    for one, said in zip(found, wanted):
        if not first <= one < count:
            raise TeacherError(f"layer={said}: this teacher has layers {first} to {count - 1}")
    if len(set(found)) < len(found):
        raise TeacherError(f"layer={layer!r} names a layer twice")
    return tuple(sorted(found))


def layer_name(layer: Layer, layers: tuple[int, ...]) -> str:
    return "mean" if layer == "mean" else "+".join(map(str, layers))


def strides_of(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Convolutions one behind the other: samples a row, and how many more than these a row sees."""
    hop = sees = 1
    for kernel, stride in zip(kernels, strides):
        sees, hop = sees + (kernel - 1) * hop, hop * stride
    return hop, sees - hop


def check_rate(name: str, rate: int, resample: bool) -> None:
    if rate != SAMPLE_RATE and not resample:
        raise TeacherError(
            f"{name} hears {rate / 1000:g} kHz audio, and features are made of 16 kHz: allow resampling "
            "(resample=True, --resample)"
        )


def fingerprint_of(teacher: Teacher, model: nn.Module | None, *more: object) -> str:
    """16 hexadecimal digits of all that a teacher's features depend on."""
    from codec.model import fingerprint

    weights = fingerprint(model.state_dict()) if model is not None else teacher.name
    sizes = (teacher.native_rate, teacher.hop, teacher.window, teacher.dim)
    facts = (VERSION, type(teacher).__name__, *sizes, weights, *more)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _resampled(wav: Tensor, rate: int) -> Tensor:
    """(B, T) at 16 kHz to (B, n) at `rate`."""
    if rate == SAMPLE_RATE:
        return wav
    import soxr

    parts = [soxr.resample(item.cpu().numpy(), SAMPLE_RATE, rate, quality="HQ") for item in wav]
    return torch.from_numpy(np.stack(parts)).to(wav)
