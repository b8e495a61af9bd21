"""What becomes of recordings at other levels, of other microphones, with noise, rooms and other voices; and what bringing them to a model's
level and spectrum is worth there.

    python benchmarks/conditions.py speech-16k a.flac b.flac c.flac --codebooks 8        needs: pip install pesq pystoi

Prints PESQ-wb and STOI, means over the recordings, of what is decoded against what was encoded: coded as it is (`--no-normalize`), at the
model's level, and near its spectrum, too, as `codec encode` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import soundfile
import soxr

import codec
from codec.audio.equalizer import Equalizer, design
from codec.evaluation.metrics import judges
from codec.evaluation.metrics.base import Coded, Options
from codec.evaluation.sound import Sound
from codec.training.effects import beside

PEAK = 0.5  # of a recording in every condition but the levels
PEAKS = (-60, -50, -40, -30, -20, 0, 6, 12)  # dBFS
COLOURS = {  # dB in octaves from 125 Hz on
    "bass": (12, 9, 5, 0, -2, -3, -3), "thin": (-12, -9, -4, 0, 1, 2, 2), "dark": (0, 0, 0, -3, -6, -12, -12),
    "bright": (-3, -3, -3, 0, 4, 8, 10), "boxy": (-6, 0, 6, 6, 0, -6, -9),
}
RATIO = 10.0  # dB, of speech over noise or another voice, and of the peaks over where they are clipped
ROOM = 0.4  # seconds until 60 dB below

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # of a recording (n,), with another one as long


def coloured(gains: tuple[int, ...], rate: int) -> Change:
    return lambda wav, other, random: Equalizer([design(gains, rate)], rate).process(wav[None])[0]


def in_a_room(wav: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
    """By noise that decays, of half the power of the direct sound."""
    tail = random.standard_normal(round(ROOM * rate)) * 10 ** (-3 * np.linspace(0, 1, round(ROOM * rate)))
    size = len(wav) + len(tail)
    response = np.fft.rfft(tail / np.sqrt(2 * tail @ tail), size) + 1
    return np.fft.irfft(np.fft.rfft(wav, size) * response, size)[: len(wav)]


def band(wav: np.ndarray, rate: int, low: float, high: float) -> np.ndarray:
    spectrum, frequencies = np.fft.rfft(wav), np.fft.rfftfreq(len(wav), 1 / rate)
    return np.fft.irfft(np.where((frequencies >= low) & (frequencies <= high), spectrum, 0), len(wav))


def conditions(rate: int) -> dict[str, Change]:
    return {
        "as it is": lambda wav, other, random: wav,
        **{name: coloured(gains, rate) for name, gains in COLOURS.items()},
        "below 4 kHz": lambda wav, other, random: band(wav, rate, 0, 4000),
        "300 to 3400 Hz": lambda wav, other, random: band(wav, rate, 300, 3400),
        "white noise": lambda wav, other, random: beside(wav, random.standard_normal(len(wav)), RATIO),
        "another voice": lambda wav, other, random: beside(wav, other, RATIO),
        "a room": lambda wav, other, random: in_a_room(wav, rate, random),
        "clipped": lambda wav, other, random: np.clip(wav, *(np.abs(wav).max() * 10 ** (-RATIO / 20) * np.array([-1, 1]))),
    }


def at_peak(wav: np.ndarray, peak: float) -> np.ndarray:
    return (wav * (peak / np.abs(wav).max())).astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--codebooks", type=int)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each recording")
    options = parser.parse_args(arguments)
    model = codec.load(options.model)
    rate, config = model.sample_rate, model.config
    if config.spectrum is None:
        parser.error(f"{options.model} names no spectrum in its config.json: there is nothing to compare")
    listeners = judges(["pesq-wb", "stoi"], Options())
    recordings = [sound(path, rate, options.seconds) for path in options.recordings]

    def judged(wavs: list[np.ndarray]) -> str:
        """Figures for the three ways of coding; recordings are compared at a peak of `PEAK`."""
        cells = []
        for spectrum, normalize in ((config.spectrum, False), (None, True), (config.spectrum, True)):
            model.config = replace(config, spectrum=spectrum)
            values = []
            for wav in wavs:
                decoded = model.decode(model.encode(wav, num_codebooks=options.codebooks, normalize=normalize))[0, 0].numpy()
                scale = PEAK / np.abs(wav).max()
                original, coded = Sound(wav * scale, rate), Coded(Sound(decoded * scale, rate), 0, 0, 0)
                values.append([value for judge in listeners for value in judge(original, coded).values()])
            cells.append("{:.2f}, {:.3f}".format(*np.mean(values, axis=0)))
        model.config = config
        return " | ".join(cells)

    print("| PESQ-wb, STOI | as it is | level | level and spectrum |\n|---|---|---|---|")
    for name, change in conditions(rate).items():
        wavs = [at_peak(change(wav, np.resize(recordings[at - 1], len(wav)), np.random.default_rng(at)), PEAK) for at, wav in enumerate(recordings)]
        print(f"| {name} | {judged(wavs)} |", flush=True)
    for peak in PEAKS:
        print(f"| peaks at {peak} dBFS | {judged([at_peak(wav, 10 ** (peak / 20)) for wav in recordings])} |", flush=True)


def sound(path: str, rate: int, seconds: float) -> np.ndarray:
    wav, own = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(wav[: round(seconds * own)].mean(1), own, rate)


if __name__ == "__main__":
    main()
