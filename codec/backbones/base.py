"""What an encoder or decoder says of itself."""

from __future__ import annotations

from torch import nn


class Network(nn.Module):
    """Base of encoders, (wav (B, 1, n * hop), state) -> (latents (B, dim, n), state), and of decoders, the way back.

    No state means the start of a signal. `codec.coding` runs both over signals that come in parts.
    """

    context: int | None = None  # causal; or the frames that it sees to both sides, without state
    start_frames: int = 1  # frames that the first call of a causal one needs
    ragged: bool = False  # an encoder that is given the last samples as they are
    delay: int = 0  # of a decoder: samples by which its output lags, look-ahead and overlapping synthesis windows
