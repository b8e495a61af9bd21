"""Causal transformer layers that stream: rotary positions, layer scale, a sliding window. On (B, T, C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.products import Linear
from codec.nn.state import State


def rotation(steps: int, width: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (steps, width) that turn the two halves of a head's features by its position (rotary positions, Su
    et al. 2021, https://arxiv.org/abs/2104.09864). Angles in double precision: far steps are as exact as near ones."""
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64, device=like.device) / width)
    angles = torch.arange(steps, dtype=torch.float64, device=like.device)[:, None] * frequencies
    angles = torch.cat([angles, angles], 1)
    return torch.cos(angles).to(like.dtype), torch.sin(angles).to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, heads, T, width) turned by cos, sin (T, width)."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-second, first], dim=-1), sin)


class Block(nn.Module):
    """One layer: normalisation, attention, normalisation, two linear layers with GELU, each branch with a layer scale
    (Touvron et al. 2021, https://arxiv.org/abs/2103.17239). No biases but those of the normalisations."""

    def __init__(self, channels: int, heads: int, hidden: int, window: int, layer_scale: float):
        super().__init__()
        self.heads, self.window = heads, window
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = Linear(channels, 3 * channels, bias=False), Linear(channels, channels, bias=False)
        self.expand, self.project = Linear(channels, hidden, bias=False), Linear(hidden, channels, bias=False)
        self.scale_attention = nn.Parameter(torch.full((channels,), layer_scale))
        self.scale_mlp = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], turns: tuple[Tensor, Tensor], unseen: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, C); past: keys and values (B, heads, P, width) before x, not yet rotated; turns: of all P + T steps;
        unseen (B, 1, 1, P): which of the past are no steps of the signal. Returns the output and the new past."""
        batch, steps, channels = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, steps, 3, self.heads, channels // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, width) each
        if past[0].shape[2]:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        y = self._attend(queries, keys, values, turns, unseen)  # (B, heads, T, width)
        x = torch.addcmul(x, self.out(y.transpose(1, 2).reshape(batch, steps, channels)), self.scale_attention)
        x = torch.addcmul(x, self.project(F.gelu(self.expand(self.norm_mlp(x)))), self.scale_mlp)
        return x, (self._latest(keys), self._latest(values))

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, turns: tuple[Tensor, Tensor], unseen: Tensor | None
    ) -> Tensor:
        """In spans of a window's length, each with the keys that its windows reach: the cost is linear in T. In graphs, whose T is
        not known, in one."""
        cos, sin = turns
        past = keys.shape[2] - queries.shape[2]
        queries, keys = rotate(queries, cos[past:], sin[past:]), rotate(keys, cos, sin)
        spans = []
        size = queries.shape[2] if torch.compiler.is_exporting() else self.window
        for start in (0,) if torch.compiler.is_exporting() else range(0, queries.shape[2], size):
            stop = min(start + size, queries.shape[2])
            first, last = max(0, past + start - self.window + 1), past + stop
            distance = (torch.arange(past + start, last, device=keys.device)[:, None]
                        - torch.arange(first, last, device=keys.device))  # (queries, keys), in steps
            mask = (distance >= 0) & (distance < self.window)
            if unseen is not None and first < past:
                mask = mask & ~F.pad(unseen[..., first:], (0, last - past))  # (B, 1, queries, keys)
            spans.append(F.scaled_dot_product_attention(
                queries[:, :, start:stop], keys[:, :, first:last], values[:, :, first:last], attn_mask=mask
            ))
        return spans[0] if len(spans) == 1 else torch.cat(spans, 2)

    def _latest(self, steps: Tensor) -> Tensor:
        """The last `window - 1` of keys or values (B, heads, P + T, width), zeros before the first."""
        keep = self.window - 1
        missing = keep if torch.compiler.is_exporting() else max(0, keep - steps.shape[2])
        steps = F.pad(steps, (0, 0, missing, 0))
        return steps[:, :, steps.shape[2] - keep :].clone()


class CausalTransformer(nn.Module):
    """(B, T, channels) to the same; a step sees itself and the `window - 1` steps before it.

    State: how many of the kept steps are the signal's (B,), and for each layer keys and values (B, heads, window - 1, width).
    Keys are kept as they are and rotated by where they stand in the window, so that streams of any length stay exact.

    Args:
        layers, heads, hidden: `hidden` is the width between the two linear layers.
        window: of the attention, in steps.
        rotary_base: the longest wavelength of the rotary positions, over 2 pi.
        layer_scale: at the start of training.
    """

    def __init__(
        self, channels: int, layers: int, heads: int, hidden: int, window: int, rotary_base: float = 10_000.0,
        layer_scale: float = 0.01,
    ):
        super().__init__()
        if channels % heads or channels // heads % 2:
            raise ValueError(f"{channels} channels do not give {heads} heads of an even width: take a fitting number")
        self.width, self.window, self.rotary_base = channels // heads, window, rotary_base
        self.layers = nn.ModuleList(Block(channels, heads, hidden, window, layer_scale) for _ in range(layers))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        batch, steps, _ = x.shape
        keep = self.window - 1
        if state is None:
            empty = x.new_zeros(batch, self.layers[0].heads, 0, self.width) if len(self.layers) else x
            seen, pasts, unseen = torch.zeros(batch, dtype=torch.int64, device=x.device), [(empty, empty)] * len(self.layers), None
        else:
            seen, *pasts = state
            unseen = (torch.arange(keep, device=x.device) < keep - seen[:, None])[:, None, None]  # (B, 1, 1, keep)
        turns = rotation(steps + (0 if state is None else keep), self.width, self.rotary_base, x)
        latest = []
        for layer, past in zip(self.layers, pasts):
            x, past = layer(x, past, turns, unseen)
            latest.append(past)
        return x, (torch.clamp(seen + steps, max=keep), *latest)
