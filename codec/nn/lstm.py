"""Recurrent layers that stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.heap import trim
from codec.nn.state import State

PART = 250  # frames that one call of an LSTM gets: it keeps the gates of all of them at once


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
        y = self.lstm(x)[0] if torch.is_grad_enabled() or not x.is_cpu else self._one_by_one(x)
        return (y + x.repeat(1, 1, 2)).transpose(1, 2)

    def _one_by_one(self, x: Tensor) -> Tensor:
        """As the LSTM, (B, T, C), with little memory: oneDNN rearranges all weights of a call in copies, so a direction of a layer
        at a time, and keeps the gates of all frames, so some frames at a time."""
        size, starts = self.lstm.hidden_size, range(0, x.shape[1], PART)
        if x.shape[1] >= PART:
            trim(0)  # the most memory of all is taken here
        for forth, back in zip(self.lstm.all_weights[::2], self.lstm.all_weights[1::2]):
            y = x.new_empty(*x.shape[:2], 2 * size)
            state = (x.new_zeros(1, len(x), size),) * 2
            for start in starts:
                part = slice(start, start + PART)
                y[:, part, :size], state = _direction(x[:, part], state, forth)
            state = (x.new_zeros(1, len(x), size),) * 2
            for start in reversed(starts):
                part = slice(start, start + PART)
                turned, state = _direction(x[:, part].flip(1), state, back)
                y[:, part, size:] = turned.flip(1)
            x = y
        return x


def _direction(x: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    y, hidden, cell = torch.lstm(
        x, state, weights, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False, batch_first=True
    )
    return y, (hidden, cell)
