"""Opus by opus-tools or ffmpeg, and Speex by its own tools."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile

from codec.audio import resample
from codec.evaluation.metrics.base import Coded
from codec.evaluation.sound import Sound, fit
from codec.evaluation.systems.base import NEAR, Clock, Setting, kbps, nearest, pcm16, run
from codec.evaluation.systems.ogg import audio_bytes


class Opus:
    """Opus (RFC 6716): variable bitrate, 20 ms frames, default complexity, for a mono signal of the recording's rate.

    opusenc and opusdec where they are installed, otherwise ffmpeg with libopus. Both take the delay out. Bits are of the
    packets, without the Ogg container, so that actual rates lie below nominal ones for speech with pauses.
    """

    name = "opus"
    least, most = 6000, 256_000
    usual = (6000, 8000, 12_000, 16_000, 24_000, 32_000, 64_000)

    @cached_property
    def key(self) -> str:
        if self.tools:
            return run("opusenc", "--version").splitlines()[0]
        return run("ffmpeg", "-version").splitlines()[0]

    @property
    def tools(self) -> bool:
        return bool(shutil.which("opusenc") and shutil.which("opusdec"))

    def missing(self) -> str:
        if self.tools or (shutil.which("ffmpeg") and "libopus" in run("ffmpeg", "-hide_banner", "-encoders")):
            return ""
        return "apt install opus-tools"

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        if wanted is None:
            wanted = self.usual
        rates = {min(max(round(rate), self.least), self.most) for rate in wanted if self.least / NEAR <= rate <= self.most * NEAR}
        return [Setting(kbps(rate), rate) for rate in sorted(rates)]

    def code(self, sound: Sound, setting: Setting) -> Coded:
        encoding, decoding = Clock(), Clock()
        with tempfile.TemporaryDirectory() as folder:
            source, packets, out = (Path(folder) / file for file in ("in.wav", "a.opus", "out.wav"))
            soundfile.write(source, pcm16(sound.wav), sound.rate)
            with encoding.running():
                if self.tools:
                    run("opusenc", "--quiet", "--bitrate", setting.bitrate / 1000, "--framesize", 20, source, packets)
                else:
                    run("ffmpeg", "-v", "error", "-i", source, "-c:a", "libopus", "-b:a", round(setting.bitrate), packets)
            with decoding.running():
                if self.tools:
                    run("opusdec", "--quiet", "--rate", sound.rate, packets, out)
                else:
                    run("ffmpeg", "-v", "error", "-i", packets, "-ar", sound.rate, out)
            decoded, bits = soundfile.read(out, dtype="float32")[0], 8 * audio_bytes(packets)
        return Coded(Sound(fit(decoded, len(sound.wav)), sound.rate), bits, encoding.seconds, decoding.seconds)


class Speex:
    """Speex (Xiph.Org), wide band, 20 ms frames, constant bitrate."""

    name = "speex"
    rate = 16_000
    delay = 0  # samples at 16 kHz: speexenc notes its look-ahead in the file, and speexdec leaves it out
    qualities = {0: 3950, 1: 5750, 2: 7750, 3: 9800, 4: 12_800, 5: 16_800, 6: 20_600, 7: 23_800, 8: 27_800, 9: 34_400, 10: 42_400}

    @cached_property
    def key(self) -> str:
        return f"{run('speexenc', '--version').splitlines()[0]}, delay {self.delay}"

    def missing(self) -> str:
        return "" if shutil.which("speexenc") and shutil.which("speexdec") else "apt install speex"

    def settings(self, wanted: Sequence[float] | None) -> list[Setting]:
        return nearest([Setting(kbps(rate), rate) for rate in self.qualities.values()], wanted)

    def code(self, sound: Sound, setting: Setting) -> Coded:
        quality = next(quality for quality, rate in self.qualities.items() if rate == setting.bitrate)
        encoding, decoding = Clock(), Clock()
        wav = sound.at(self.rate)
        with tempfile.TemporaryDirectory() as folder:
            source, packets, out = (Path(folder) / file for file in ("in.wav", "a.spx", "out.wav"))
            soundfile.write(source, pcm16(np.pad(wav, (0, self.delay))), self.rate)
            with encoding.running():
                run("speexenc", "-w", "--quality", quality, source, packets)
            with decoding.running():
                run("speexdec", packets, out)
            decoded, bits = soundfile.read(out, dtype="float32")[0][self.delay :], 8 * audio_bytes(packets)
        decoded = resample(fit(decoded, len(wav))[None], self.rate, sound.rate)[0]
        return Coded(Sound(fit(decoded, len(sound.wav)), sound.rate), bits, encoding.seconds, decoding.seconds)
