"""What an encoder or decoder says of itself."""

from __future__ import annotations

from torch import nn

BLOCK_NUMBERS = 4_000_000  # in the widest activation of a block; the layers that make it run in slices: `codec.nn.slices`


class Network(nn.Module):
    """Base of encoders, (wav (B, 1, n * hop), state) -> (latents (B, dim, n), state), and of decoders, the way back.

    No state means the start of a signal. `codec.coding` runs both over signals that come in parts.
    """

    context: int | None = None  # causal; or the frames that it sees to both sides, without state
    window: tuple[int, int] | None = None  # of one that sees all of a signal: frames of a window, frames of overlap
    start_frames: int = 1  # frames that the first call of a causal one needs
    ragged: bool = False  # an encoder that is given the last samples as they are
    block_frames: int = 500  # the most that it is run on at once, so that its memory does not grow with the audio
    delay: int = 0  # of a decoder: samples by which its output lags, look-ahead and overlapping synthesis windows


def block_frames(numbers: int, context: int) -> int:
    """`Network.block_frames` of a network whose widest activation has so many numbers a frame: at least twice what is
    computed for its surroundings."""
    return max(1, 4 * context, min(Network.block_frames, BLOCK_NUMBERS // numbers))
