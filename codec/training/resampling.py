"""Resampling inside a network: of crops at the decoder's rate to the encoder's, where these differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CROSSINGS = 32  # of the sinc to both sides
PASSED = 0.94  # of the narrower band; what lies above it fades away
BETA = 10.0  # of the Kaiser window: 100 dB of attenuation


class Resampling(nn.Module):
    """(B, 1, n) at one rate to (B, 1, ceil(n * to_rate / from_rate)) at another, by a windowed sinc; equal rates pass through.
    Sample 0 of both is at the same time."""

    def __init__(self, from_rate: int, to_rate: int):
        super().__init__()
        divisor = math.gcd(from_rate, to_rate)
        self.old, self.new = from_rate // divisor, to_rate // divisor
        band = PASSED * min(1.0, self.new / self.old)  # relative to the old rate's
        self.reach = math.ceil(CROSSINGS / band)
        # Output i of every `new` lies i * old / new samples behind the first tap that is not before it.
        steps = torch.arange(-self.reach, self.reach + self.old, dtype=torch.float64, device="cpu")
        time = steps - torch.arange(self.new, dtype=torch.float64, device="cpu")[:, None] * self.old / self.new
        inside = (1 - (time / self.reach).square()).clamp(min=0).sqrt()
        window = torch.special.i0(BETA * inside) / torch.special.i0(torch.tensor(BETA, dtype=torch.float64, device="cpu"))
        taps = band * torch.sinc(band * time) * torch.where(time.abs() <= self.reach, window, 0.0)
        self.register_buffer("taps", taps[:, None].float().to(torch.get_default_device()), persistent=False)  # (new, 1, width)

    def forward(self, wav: Tensor) -> Tensor:
        if self.old == self.new:
            return wav
        with torch.autocast(wav.device.type, enabled=False):
            phases = F.conv1d(F.pad(wav.float(), (self.reach, self.reach + self.old)), self.taps, stride=self.old)  # (B, new, m)
            return phases.transpose(1, 2).reshape(len(wav), 1, -1)[..., : -(-wav.shape[2] * self.new // self.old)]
