"""Recurrent layers that stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.heap import trim
from codec.nn.state import State

LONG = 500  # frames: giving free memory back takes no time beside them


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
        """As the LSTM, (B, T, C): a direction of a layer at a time, as oneDNN rearranges all weights of a call in copies."""
        if x.shape[1] >= LONG:
            trim(0)  # the most memory of all is taken here
        none = x.new_zeros(1, len(x), self.lstm.hidden_size)
        for forth, back in zip(self.lstm.all_weights[::2], self.lstm.all_weights[1::2]):
            y = x.new_empty(*x.shape[:2], 2 * self.lstm.hidden_size)
            y[..., : self.lstm.hidden_size] = _direction(x, none, forth)
            y[..., self.lstm.hidden_size :] = _direction(x.flip(1), none, back).flip(1)
            x = y
        return x


def _direction(x: Tensor, none: Tensor, weights: list[Tensor]) -> Tensor:
    return torch.lstm(
        x, (none, none), weights, has_biases=True, num_layers=1, dropout=0.0, train=False, bidirectional=False, batch_first=True
    )[0]
