"""Recurrent layers that stream."""

from __future__ import annotations

from torch import Tensor, nn

from codec.nn.state import State


class ResidualLSTM(nn.Module):
    """Layers of LSTM with one skip connection around them all, on (B, C, T), as in SEANet with an LSTM bottleneck.

    State: hidden and cell values, (B, layers, C) each.
    """

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        # torch keeps the layers first: (layers, B, C)
        inner = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)
        y, inner = self.lstm(x.transpose(1, 2), inner)
        return x + y.transpose(1, 2), tuple(part.transpose(0, 1) for part in inner)


class BidirectionalLSTM(nn.Module):
    """Layers of LSTM in both directions on (B, C, T), with the input added to each: (B, 2 * C, T), as in SpeechTokenizer.

    It sees all of a signal, so it cannot stream.
    """

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        return (self.lstm(x)[0] + x.repeat(1, 1, 2)).transpose(1, 2)
