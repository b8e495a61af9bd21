"""AMR-WB by VisualOn's encoder and OpenCORE's decoder, shared libraries that Linux distributions have."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from codec.audio import resample
from codec.evaluation.metrics.base import Coded
from codec.evaluation.sound import Sound, fit
from codec.evaluation.systems.base import Clock, Setting, kbps, nearest, pcm16

RATE, FRAME = 16_000, 320  # samples
MOST = 64  # bytes of a coded frame, and some


class AmrWb:
    """AMR-WB (3GPP TS 26.190), without discontinuous transmission, 6.6 to 23.85 kbit/s."""

    name = "amr-wb"
    delay = 95  # samples: where waveforms correlate best, in every mode
    frame_bits = (132, 177, 253, 285, 317, 365, 397, 461, 477)

    @property
    def key(self) -> str:
        return f"delay {self.delay}"

    @cached_property
    def _encoder(self) -> str | None:
        return ctypes.util.find_library("vo-amrwbenc")

    @cached_property
    def _decoder(self) -> str | None:
        return ctypes.util.find_library("opencore-amrwb")

    def missing(self) -> str:
        return "" if self._encoder and self._decoder else "apt install libvo-amrwbenc0 libopencore-amrwb0"

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        return nearest([Setting(kbps(50 * bits), 50 * bits) for bits in self.frame_bits], wanted)

    def code(self, sound: Sound, setting: Setting) -> Coded:
        mode = self.frame_bits.index(round(setting.bitrate / 50))
        encoding, decoding = Clock(), Clock()
        wav = sound.at(RATE)
        pcm = pcm16(np.pad(wav, (0, self.delay + -(len(wav) + self.delay) % FRAME))).reshape(-1, FRAME)
        with encoding.running():
            packets = self._encode(pcm, mode)
        with decoding.running():
            decoded = self._decode(packets)
        decoded = fit(decoded[self.delay :].astype(np.float32) / 32768, len(wav))
        bits = self.frame_bits[mode] * -(-len(wav) // FRAME)
        return Coded(Sound(fit(resample(decoded[None], RATE, sound.rate)[0], len(sound.wav)), sound.rate), bits,
                     encoding.seconds, decoding.seconds)

    def _encode(self, frames: np.ndarray, mode: int) -> list[bytes]:
        """int16 (n, FRAME) to n coded frames."""
        library = ctypes.CDLL(self._encoder)
        library.E_IF_init.restype = ctypes.c_void_p
        state = ctypes.c_void_p(library.E_IF_init())
        coded, packets = ctypes.create_string_buffer(MOST), []
        try:
            for frame in frames:
                size = library.E_IF_encode(state, ctypes.c_int(mode), ctypes.c_void_p(frame.ctypes.data), coded, ctypes.c_int(0))
                packets.append(coded.raw[:size])
        finally:
            library.E_IF_exit(state)
        return packets

    def _decode(self, packets: Sequence[bytes]) -> np.ndarray:
        """Coded frames to int16 (n * FRAME,)."""
        library = ctypes.CDLL(self._decoder)
        library.D_IF_init.restype = ctypes.c_void_p
        state = ctypes.c_void_p(library.D_IF_init())
        frames = np.zeros((len(packets), FRAME), np.int16)
        try:
            for frame, packet in zip(frames, packets):
                library.D_IF_decode(state, ctypes.c_char_p(packet), ctypes.c_void_p(frame.ctypes.data), ctypes.c_int(0))
        finally:
            library.D_IF_exit(state)
        return frames.reshape(-1)
