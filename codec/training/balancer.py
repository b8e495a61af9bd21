"""Gradient balancing: the weight of an adversarial loss is a share of the reconstruction's gradient, whatever its own scale.

Défossez et al. 2022, "High Fidelity Neural Audio Compression", section 3.4 (https://arxiv.org/abs/2210.13438), balance
all losses against a fixed norm with a moving average. Here the reconstruction keeps its own scale, which is what the
commitment of the quantizer is weighed against, and norms are those of the step, so that nothing needs to be resumed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_gradient(reconstruction: Tensor, others: dict[str, Tensor], shares: dict[str, float], audio: Tensor) -> Tensor:
    """Gradient with respect to `audio` (B, 1, T): that of `reconstruction`, plus each other one at its share of its norm.

    Norms are means over the items of a batch. Pass the result to `audio.backward`.
    """
    (total,) = torch.autograd.grad(reconstruction, audio, retain_graph=True)
    reference = _norm(total)
    for name, loss in others.items():
        (gradient,) = torch.autograd.grad(loss, audio, retain_graph=True)
        total = total + shares[name] * reference / _norm(gradient).clamp_min(1e-12) * gradient
    return total


def _norm(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).norm(dim=1).mean()
