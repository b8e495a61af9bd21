"""What recordings meet on their way to a codec: other microphones, rooms, noise, other voices, a level set too high.

A recipe names how often each happens (`data.effects: {noise: 0.2, room: 0.1}`); the target of the training is the crop
with its effects, so a codec learns to carry them, not to remove them. All draws come from the crop's own generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Random = Callable[[], float]  # uniform in [0, 1)

MIX_DB = (5.0, 25.0)  # speech over the other voice
NOISE_DB = (5.0, 40.0)  # speech over noise
NOISE_SLOPE = (0.0, 2.0)  # power falls with frequency to this: white to brown
EQ_DB, EQ_POINTS, EQ_LOWEST = 8.0, 7, 60.0  # gains at points spaced evenly in log frequency from 60 Hz
ROOM_SECONDS = (0.1, 0.7)  # until 60 dB below
ROOM_DB = (-3.0, 15.0)  # direct sound over the room
CLIP_DB = (3.0, 15.0)  # above the level at which nothing clips


class Effects:
    """Applies effects to crops, each with its probability, in the order in which sound meets them: room, mix, noise, eq, clip.

    probabilities   of the names in `NAMES`. Raises ValueError for another name or a number outside [0, 1].
    """

    NAMES = ("room", "mix", "noise", "eq", "clip")

    def __init__(self, probabilities: Mapping[str, float], sample_rate: int) -> None:
        for name, value in probabilities.items():
            if name not in self.NAMES:
                raise ValueError(f"there is no effect {name!r}; there are {', '.join(self.NAMES)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"effect {name}: {value!r} must be a probability from 0 to 1")
        self.probabilities = {name: float(probabilities.get(name, 0.0)) for name in self.NAMES}
        self.sample_rate = sample_rate

    def __call__(self, crop: np.ndarray, another: Callable[[], np.ndarray], random: Random) -> np.ndarray:
        """(n,) float32 -> (n,) float32. another: draws the crop of another voice, (n,)."""
        for name in self.NAMES:
            if self.probabilities[name] and random() < self.probabilities[name]:
                if name == "mix":
                    crop = beside(crop, another(), _between(MIX_DB, random))
                else:
                    crop = getattr(self, f"_{name}")(crop, random)
        return crop

    def _room(self, crop: np.ndarray, random: Random) -> np.ndarray:
        seconds, level = _between(ROOM_SECONDS, random), _between(ROOM_DB, random)
        taps = max(2, int(seconds * self.sample_rate))
        tail = _noise(taps, random) * 10 ** (-3 * np.arange(taps) / taps)
        tail[0] = 0.0
        response = tail * np.sqrt(10 ** (-level / 10) / max(float(tail @ tail), 1e-12))
        response[0] = 1.0
        return _filtered(crop, np.fft.rfft(response, _fft_size(crop.size + taps)), crop.size + taps)

    def _noise(self, crop: np.ndarray, random: Random) -> np.ndarray:
        size = _fft_size(crop.size)
        spectrum = np.fft.rfft(_noise(size, random))
        spectrum *= np.maximum(np.arange(spectrum.size), 1) ** (-_between(NOISE_SLOPE, random) / 2)
        return beside(crop, np.fft.irfft(spectrum, size)[: crop.size], _between(NOISE_DB, random))

    def _eq(self, crop: np.ndarray, random: Random) -> np.ndarray:
        size = _fft_size(2 * crop.size)
        points = np.linspace(np.log(EQ_LOWEST), np.log(self.sample_rate / 2), EQ_POINTS)
        gains = [EQ_DB * (2 * random() - 1) for _ in range(EQ_POINTS)]
        frequencies = np.arange(1, size // 2 + 2) * (self.sample_rate / size)
        return _filtered(crop, 10 ** (np.interp(np.log(frequencies), points, gains) / 20), 2 * crop.size)

    def _clip(self, crop: np.ndarray, random: Random) -> np.ndarray:
        ceiling = float(np.abs(crop).max()) * 10 ** (-_between(CLIP_DB, random) / 20)
        return np.clip(crop, -ceiling, ceiling)


def _between(limits: tuple[float, float], random: Random) -> float:
    return limits[0] + (limits[1] - limits[0]) * random()


def _noise(count: int, random: Random) -> np.ndarray:
    """(count,) white noise, evenly distributed, of a generator that one draw seeds: draws one by one take too long."""
    return 2 * np.random.Generator(np.random.Philox(int(random() * 2**53))).random(count) - 1


def beside(crop: np.ndarray, other: np.ndarray, level: float) -> np.ndarray:
    """The sum, `other` scaled to `level` dB below the crop."""
    power = float(np.mean(np.square(other)))
    if power == 0:
        return crop
    scale = np.sqrt(float(np.mean(np.square(crop))) / power * 10 ** (-level / 10))
    return (crop + scale * other).astype(np.float32)


def _filtered(crop: np.ndarray, response: np.ndarray, size: int) -> np.ndarray:
    """The crop by a response of rfft bins over `size` samples or more; as many samples as it has."""
    size = _fft_size(size)
    return np.fft.irfft(np.fft.rfft(crop, size) * response, size)[: crop.size].astype(np.float32)


def _fft_size(at_least: int) -> int:
    return 1 << max(1, at_least - 1).bit_length()
