"""Codec2, a parametric vocoder for speech of 8 kHz."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codec.audio import resample
from codec.evaluation.metrics.base import Coded
from codec.evaluation.sound import Sound, fit
from codec.evaluation.systems.base import Clock, Setting, kbps, nearest, pcm16, run

RATE = 8000


class Codec2:
    """Codec2 by c2enc and c2dec (https://www.rowetel.com/codec2.html), 0.7 to 3.2 kbit/s.

    It keeps no phases, so that waveforms correlate anywhere within a pitch period. Its delay is where STOI is best: 20 ms, and
    30 ms at 0.7 kbit/s, over utterances of LibriSpeech in steps of 5 ms.
    """

    name = "codec2"
    modes = {"700C": 700, "1200": 1200, "1300": 1300, "1400": 1400, "1600": 1600, "2400": 2400, "3200": 3200}
    delays = {"700C": 0.03}  # seconds; of the other modes:
    delay = 0.02

    @property
    def key(self) -> str:
        return f"delays {sorted(self.delays.items())} {self.delay}"

    def missing(self) -> str:
        return "" if shutil.which("c2enc") and shutil.which("c2dec") else "apt install codec2"

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        return nearest([Setting(kbps(rate), rate) for rate in self.modes.values()], wanted)

    def code(self, sound: Sound, setting: Setting) -> Coded:
        mode = next(mode for mode, rate in self.modes.items() if rate == setting.bitrate)
        skip = round(self.delays.get(mode, self.delay) * RATE)
        encoding, decoding = Clock(), Clock()
        narrow = sound.at(RATE)
        with tempfile.TemporaryDirectory() as folder:
            raw, packed, out = (Path(folder) / file for file in ("in.raw", "bits", "out.raw"))
            pcm16(np.pad(narrow, (0, 320 + skip))).tofile(raw)  # whole frames only, and the delay
            with encoding.running():
                run("c2enc", mode, raw, packed)
            with decoding.running():
                run("c2dec", mode, packed, out)
            decoded = np.fromfile(out, "<i2").astype(np.float32) / 32768
        decoded = resample(fit(decoded[skip:], len(narrow))[None], RATE, sound.rate)[0]
        bits = setting.bitrate * sound.seconds
        return Coded(Sound(fit(decoded, len(sound.wav)), sound.rate), bits, encoding.seconds, decoding.seconds)
