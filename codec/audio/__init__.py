"""Every sample enters and leaves here: files, pipes, resampling; in blocks, so that length costs no memory."""

from codec.audio.common import BLOCK, MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioError, check_layout  # noqa: F401
from codec.audio.normalizing import Normal, Normalizer, correction  # noqa: F401
from codec.audio.reading import AudioReader  # noqa: F401
from codec.audio.resampling import LostBand, Resampler, resample  # noqa: F401
from codec.audio.writing import AudioWriter  # noqa: F401
