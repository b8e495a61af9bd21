"""Other speech codecs behind one face: 16 kHz speech in, what it decodes to and the bits it took out.

Each class stands for one codec at several bitrates. `missing()` names the command that installs what it needs.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from codec.audio import resample

RATE = 16_000


class Peer(Protocol):
    """A codec at one or several bitrates."""

    names: list[str]

    def missing(self) -> str | None:
        """What has to be done before it can be used, or None."""

    def code(self, name: str, wav: np.ndarray) -> tuple[np.ndarray, float]:
        """wav (T,) float32 at 16 kHz to what is decoded (T,), its delay taken out, and the number of bits."""


class Codec2:
    """Codec2 at 3.2 kbit/s, a parametric vocoder for 8 kHz speech (https://www.rowetel.com/codec2.html).

    It keeps no phases, so that waveforms correlate anywhere within a pitch period. Its delay of 20 ms is where STOI is
    best: 0.861 over 25 utterances, 0.860 at 18.75 and at 21.25 ms.
    """

    names = ["codec2 3.2k"]
    delay = RATE * 20 // 1000

    def missing(self) -> str | None:
        return None if shutil.which("c2enc") and shutil.which("c2dec") else "apt install codec2"

    def code(self, name: str, wav: np.ndarray) -> tuple[np.ndarray, float]:
        narrow = resample(wav[None], RATE, 8000)[0]
        with tempfile.TemporaryDirectory() as folder:
            raw, bits, out = (Path(folder) / file for file in ("in.raw", "bits", "out.raw"))
            _pcm16(np.pad(narrow, (0, 640))).tofile(raw)  # whole frames only, and the delay
            _run("c2enc", "3200", raw, bits)
            _run("c2dec", "3200", bits, out)
            decoded = np.fromfile(out, "<i2").astype(np.float32) / 32768
        return _fit(resample(decoded[None], 8000, RATE)[0][self.delay :], len(wav)), 3200 * len(wav) / RATE


class Opus:
    """Opus (RFC 6716) by opusenc: default complexity, variable bitrate, 20 ms frames; opusdec takes the delay out.

    Bits are without the Ogg container.
    """

    names = ["opus 6k", "opus 9k", "opus 12k"]

    def missing(self) -> str | None:
        return None if shutil.which("opusenc") and shutil.which("opusdec") else "apt install opus-tools"

    def code(self, name: str, wav: np.ndarray) -> tuple[np.ndarray, float]:
        kbps = re.fullmatch(r"opus (\d+)k", name)[1]
        with tempfile.TemporaryDirectory() as folder:
            source, packets, out = (Path(folder) / file for file in ("in.wav", "a.opus", "out.wav"))
            soundfile.write(source, _pcm16(wav), RATE)
            log = _run("opusenc", "--bitrate", kbps, "--framesize", "20", source, packets)
            _run("opusdec", "--rate", str(RATE), packets, out)
            decoded = soundfile.read(out, dtype="float32")[0]
        measured = re.search(r"([\d.]+) kbit/s \(without overhead\)", log)
        rate = float(measured[1]) if measured else float(kbps)
        return _fit(decoded, len(wav)), 1000 * rate * len(wav) / RATE


class Lyra:
    """Lyra v2 (SoundStream) from its TFLite files: 50 frames a second, 16, 30 or 46 stages of 4 bits.

    It has no delay but the frame.

    folder: holds soundstream_encoder.tflite, quantizer.tflite and lyragan.tflite of https://github.com/google/lyra.
    """

    stages = {"lyra 3.2k": 16, "lyra 6k": 30, "lyra 9.2k": 46}
    names = list(stages)
    hop = 320

    def __init__(self, folder: Path | None):
        self.folder = folder

    def missing(self) -> str | None:
        if self.folder is None:
            return "give --lyra FOLDER with the .tflite files of https://github.com/google/lyra (lyra/model_coeffs)"
        files = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
        absent = [file for file in files if not (self.folder / file).is_file()]
        if absent:
            return f"put {', '.join(absent)} of https://github.com/google/lyra into {self.folder}"
        return None if importlib.util.find_spec("ai_edge_litert") else "pip install ai-edge-litert"

    def code(self, name: str, wav: np.ndarray) -> tuple[np.ndarray, float]:
        encoder, quantizer, decoder = self._load()
        encode, decode = (quantizer.get_signature_runner(one) for one in ("encode", "decode"))
        stages = self.stages[name]
        padded = np.pad(wav, (0, -len(wav) % self.hop)).astype(np.float32)
        out = []
        for frame in padded.reshape(-1, 1, self.hop):
            features = _step(encoder, frame)  # (1, 1, 64)
            result = encode(input_frames=features, num_quantizers=np.int32(stages))
            codes = result["output_0"]  # (46, 1, 1), -1 where unused
            out.append(_step(decoder, decode(encoding_indices=codes)["output_0"])[0])
        return _fit(np.concatenate(out), len(wav)), 4 * stages * len(wav) / self.hop

    def _load(self) -> list:
        """The three networks anew: `reset_all_variables` leaves some of the last file in them."""
        from ai_edge_litert.interpreter import Interpreter

        nets = [
            Interpreter(str(self.folder / f"{part}.tflite"), num_threads=1)
            for part in ("soundstream_encoder", "quantizer", "lyragan")
        ]
        for net in nets:
            net.allocate_tensors()
        return nets


def _fit(decoded: np.ndarray, length: int) -> np.ndarray:
    """Cut, or fill with silence, to `length` samples."""
    return np.pad(decoded[:length], (0, max(0, length - len(decoded)))).astype(np.float32)


def _step(net, frame: np.ndarray) -> np.ndarray:
    """One frame through a TFLite network with a state."""
    net.set_tensor(net.get_input_details()[0]["index"], frame)
    net.invoke()
    return net.get_tensor(net.get_output_details()[0]["index"])


def _pcm16(wav: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wav * 32767), -32768, 32767).astype("<i2")


def _run(*command: object) -> str:
    """Run a program and return what it says."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout + done.stderr
