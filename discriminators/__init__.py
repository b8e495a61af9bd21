"""Discriminators for adversarial training: one interface, one file per family.

Every discriminator maps ``wav (B, 1, T)`` float in [-1, 1] to a :class:`DiscriminatorOutput` with one entry per
sub-discriminator. The package needs torch alone ("whisper" besides: transformers) and knows nothing of the codec that it judges; the adversarial
objectives are in :mod:`discriminators.losses`.

    judge = discriminators.build("msstft", channels=16)
    judges = discriminators.build_all([{"name": "msstft", "options": {"channels": 16}}, {"name": "mpd"}])
    logits, features = judges(wav)
"""

from __future__ import annotations

from discriminators.base import Discriminator, DiscriminatorOutput, DiscriminatorSet
from discriminators.registry import available, build, build_all

__all__ = ["Discriminator", "DiscriminatorOutput", "DiscriminatorSet", "available", "build", "build_all"]
