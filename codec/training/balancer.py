"""Gradient balancing: the weight of a loss is its share of the gradient, whatever the loss's own scale.

Défossez et al. 2022, "High Fidelity Neural Audio Compression", section 3.4 (https://arxiv.org/abs/2210.13438), without
their moving average of the norms: here the norms are taken for each item, so that a step depends on its batch alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_gradient(losses: dict[str, Tensor], shares: dict[str, float], audio: Tensor) -> Tensor:
    """Gradient with respect to `audio` (B, 1, T) in which every loss has the norm of its share.

    Each loss's gradient is divided by its norm (the mean over items) and multiplied by its share; the shares are taken
    as they are, so the result has about the norm of their sum when the gradients agree. Pass it to `audio.backward`.
    """
    total = torch.zeros_like(audio)
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, audio, retain_graph=True)
        norm = gradient.flatten(1).norm(dim=1).mean().clamp_min(1e-12)
        total += shares[name] * gradient / norm
    return total
