"""Lyra v2 (SoundStream) from its TFLite files."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from codec.audio import resample
from codec.evaluation.metrics.base import Coded
from codec.evaluation.sound import Sound, fit
from codec.evaluation.systems.base import Clock, Setting, kbps, nearest

RATE, HOP, STAGE_BITS = 16_000, 320, 4
FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
SOURCE = "https://github.com/google/lyra"


class Lyra:
    """Lyra v2: 50 frames a second, 16, 30 or 46 stages of 4 bits. It has no delay but the frame.

    folder: holds soundstream_encoder.tflite, quantizer.tflite and lyragan.tflite of https://github.com/google/lyra.
    """

    name = "lyra"
    stages = {3200: 16, 6000: 30, 9200: 46}

    def __init__(self, folder: str):
        self.folder = Path(folder) if folder else None

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(b"".join((self.folder / file).read_bytes() for file in FILES)).hexdigest()[:16]

    def missing(self) -> str:
        if self.folder is None:
            return f"give --lyra DIR, a folder with the .tflite files of {SOURCE} (lyra/model_coeffs)"
        absent = [file for file in FILES if not (self.folder / file).is_file()]
        if absent:
            return f"put {', '.join(absent)} of {SOURCE} into {self.folder}"
        return "" if importlib.util.find_spec("ai_edge_litert") else "pip install ai-edge-litert"

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        return nearest([Setting(kbps(rate), rate) for rate in self.stages], wanted)

    def code(self, sound: Sound, setting: Setting) -> Coded:
        stages = self.stages[round(setting.bitrate)]
        encoding, decoding = Clock(), Clock()
        wav = sound.at(RATE)
        frames = np.pad(wav, (0, -len(wav) % HOP)).reshape(-1, 1, HOP)
        encoder, quantizer, decoder = self._load()
        encode, decode = (quantizer.get_signature_runner(one) for one in ("encode", "decode"))
        with encoding.running():
            codes = [
                encode(input_frames=_step(encoder, frame), num_quantizers=np.int32(stages))["output_0"] for frame in frames
            ]  # (46, 1, 1) each, -1 where unused
        with decoding.running():
            decoded = np.concatenate([_step(decoder, decode(encoding_indices=each)["output_0"])[0] for each in codes])
        decoded = resample(fit(decoded, len(wav))[None], RATE, sound.rate)[0]
        bits = STAGE_BITS * stages * len(frames)
        return Coded(Sound(fit(decoded, len(sound.wav)), sound.rate), bits, encoding.seconds, decoding.seconds)

    def _load(self) -> list:
        """The three networks anew: `reset_all_variables` leaves some of the last recording in them."""
        from ai_edge_litert.interpreter import Interpreter

        nets = [Interpreter(str(self.folder / file), num_threads=1) for file in FILES]
        for net in nets:
            net.allocate_tensors()
        return nets


def _step(net, frame: np.ndarray) -> np.ndarray:
    """One frame through a TFLite network with a state."""
    net.set_tensor(net.get_input_details()[0]["index"], frame)
    net.invoke()
    return net.get_tensor(net.get_output_details()[0]["index"])
