"""SnakeBeta without aliasing, as BigVGAN has it (Lee et al. 2023, https://arxiv.org/abs/2206.04658)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 12  # of the filters at twice the rate
REACH = 3  # samples to both sides that each filter sees


def halfband() -> Tensor:
    """A low-pass filter (12,) for half of the band: a sinc under a Kaiser window, of unit sum."""
    attenuation = 2.285 * (KERNEL // 2 - 1) * math.pi * 4 * 0.3 + 7.95
    beta = 0.1102 * (attenuation - 8.7)
    steps = torch.arange(KERNEL, dtype=torch.float64, device="cpu") - (KERNEL - 1) / 2
    window = torch.kaiser_window(KERNEL, periodic=False, beta=beta, dtype=torch.float64, device="cpu")
    taps = window * torch.sinc(steps / 2)
    return taps / taps.sum()


class SnakeBeta(nn.Module):
    """x + sin(exp(alpha) x)^2 / exp(beta) on (B, C, T) at twice the rate, with filters on the way there and back.

    The doubled signal is kept as its even and its odd samples, so that every filter is one of width 7 at the signal's own
    rate. What lies beyond the ends is as the sample there.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        taps, none = halfband(), torch.zeros(1, dtype=torch.float64, device="cpu")
        even, odd = taps[0::2], taps[1::2]
        filters = torch.stack([
            2 * torch.cat([odd.flip(0), none]), 2 * torch.cat([none, even.flip(0)]),  # to the even samples, to the odd ones
            torch.cat([none, odd]), torch.cat([even, none]),  # and back
        ])
        self.register_buffer("filters", filters.float().to(torch.get_default_device()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        to_even, to_odd, from_even, from_odd = self.filters[:, None, None].expand(-1, x.shape[1], -1, -1)  # (C, 1, 7) each
        frequency, scale = self.alpha.exp()[:, None], (self.beta.exp()[:, None] + 1e-9).reciprocal()
        x = F.pad(x, (REACH, REACH), "replicate")
        even, odd = (_snake(F.conv1d(x, taps, groups=x.shape[1]), frequency, scale) for taps in (to_even, to_odd))
        first, last = even[..., :1].expand(-1, -1, REACH), odd[..., -1:].expand(-1, -1, REACH)
        even, odd = (torch.cat([first, half, last], 2) for half in (even, odd))
        return F.conv1d(even, from_even, groups=x.shape[1]) + F.conv1d(odd, from_odd, groups=x.shape[1])


def _snake(x: Tensor, frequency: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(x, scale, torch.sin(x * frequency).square())
