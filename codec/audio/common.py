"""What reading, writing and resampling share: limits and the one exception."""

from __future__ import annotations

MIN_RATE, MAX_RATE = 1000, 768_000  # Hz
MAX_CHANNELS = 64
BLOCK = 1 << 16  # samples of each channel


class AudioError(ValueError):
    """Audio that cannot be read or written, and what to do about it, on one line."""


def check_layout(sample_rate: int, channels: int, name: str) -> None:
    """Raises AudioError for a sample rate or a number of channels that this toolkit does not take."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {sample_rate} Hz is outside {MIN_RATE} to {MAX_RATE}: resample it first")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; 1 to {MAX_CHANNELS} are taken: split it first")


def reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".:")
