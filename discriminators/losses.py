"""Adversarial objectives over :class:`discriminators.DiscriminatorOutput`, reduced in float32.

``kind`` is "hinge" (Lim and Ye, "Geometric GAN", 2017; used by EnCodec) or "least_squares" (Mao et al., "LSGAN", 2017;
used by HiFi-GAN). Every loss is a mean over sub-discriminators, so adding one does not change the scale. All return a
scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor

from discriminators.base import DiscriminatorOutput

KINDS = ("hinge", "least_squares")


def discriminator_loss(real: DiscriminatorOutput, fake: DiscriminatorOutput, kind: str = "hinge") -> Tensor:
    """What the discriminator minimises: real scores up, fake scores down. ``fake`` must come from a detached
    waveform."""
    _check(kind)
    total = torch.zeros((), device=real.logits[0].device)
    for r, f in zip(real.logits, fake.logits):
        r, f = r.float(), f.float()
        if kind == "hinge":
            total = total + (1 - r).relu().mean() + (1 + f).relu().mean()
        else:
            total = total + (1 - r).square().mean() + f.square().mean()
    return total / len(real.logits)


def generator_loss(fake: DiscriminatorOutput, kind: str = "hinge") -> Tensor:
    """What the generator minimises: fake scores up. Hinge: the mean of relu(1 - score), as in EnCodec; bounded below by
    0."""
    _check(kind)
    total = torch.zeros((), device=fake.logits[0].device)
    for f in fake.logits:
        margin = 1 - f.float()
        total = total + (margin.relu() if kind == "hinge" else margin.square()).mean()
    return total / len(fake.logits)


def feature_matching_loss(real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
    """Mean |real - fake| / mean |real| of each feature map, averaged over layers and sub-discriminators (EnCodec, 2022,
    section 3.4).

    Gradients reach ``fake`` only.
    """
    terms = []
    for real_layers, fake_layers in zip(real.features, fake.features):
        for r, f in zip(real_layers, fake_layers):
            r = r.detach()
            scale = r.abs().mean(dtype=torch.float32).clamp_min(1e-5)
            # a norm, not abs().mean(): the gradient of a norm keeps the layout of the maps (channels-last), which
            # halves the backward pass
            terms.append(torch.linalg.vector_norm(f - r, ord=1, dtype=torch.float32) / f.numel() / scale)
    return torch.stack(terms).mean()


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"no adversarial loss is called {kind!r}; choose one of {', '.join(KINDS)}")
