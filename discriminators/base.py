"""What every discriminator takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class DiscriminatorOutput(NamedTuple):
    """One entry per sub-discriminator.

    ``logits[i]``: (B, 1, ...) unbounded scores, high for real. ``features[i]``: the hidden activations (B, C, ...) of
    sub-discriminator i, shallow to deep, for the feature-matching loss. Under autocast both come in the low precision;
    the losses reduce in float32.
    """

    logits: list[Tensor]
    features: list[list[Tensor]]


class Discriminator(nn.Module):
    """Base of the families: ``forward(wav)`` with wav (B, 1, T) gives a :class:`DiscriminatorOutput`.

    A family sets ``min_samples`` (the shortest T that it can judge), ``max_samples`` where there is a longest, and implements ``judge``. ``PUBLISHED`` has, by
    system, the options that give the sizes of its paper; the defaults are smaller, for training on a CPU.
    """

    PUBLISHED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    min_samples: int = 1
    max_samples: int | None = None

    def forward(self, wav: Tensor) -> DiscriminatorOutput:
        """Judge wav (B, 1, T). Raises ValueError for another shape or for T outside ``min_samples`` and ``max_samples``."""
        if wav.dim() != 3 or wav.shape[1] != 1:
            raise ValueError(
                f"a discriminator takes wav of shape (B, 1, T), not {tuple(wav.shape)}; "
                "add a channel axis or fold channels into B"
            )
        if wav.shape[-1] < self.min_samples:
            raise ValueError(
                f"{wav.shape[-1]} samples are too few for this discriminator; give it at least {self.min_samples}"
            )
        if self.max_samples is not None and wav.shape[-1] > self.max_samples:
            raise ValueError(f"{wav.shape[-1]} samples are too many for this discriminator; give it at most {self.max_samples}")
        return self.judge(wav)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        raise NotImplementedError


class DiscriminatorSet(Discriminator):
    """Several discriminators as one: their outputs one after the other, in the order of ``members``."""

    def __init__(self, members: list[Discriminator]) -> None:
        super().__init__()
        if not members:
            raise ValueError("a DiscriminatorSet needs at least one discriminator")
        self.members = nn.ModuleList(members)
        self.min_samples = max(member.min_samples for member in members)
        self.max_samples = min((member.max_samples for member in members if member.max_samples is not None), default=None)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        logits, features = [], []
        for member in self.members:
            output = member(wav)
            logits += output.logits
            features += output.features
        return DiscriminatorOutput(logits, features)


def judge_all(judges: nn.ModuleList, wav: Tensor) -> DiscriminatorOutput:
    """Each sub-discriminator, which gives (logits, features), on the same input."""
    outputs = [judge(wav) for judge in judges]
    return DiscriminatorOutput([logits for logits, _ in outputs], [features for _, features in outputs])


def check_positive(family: str, **options: int | Sequence[int]) -> None:
    """Raise ValueError for an option that is not a positive whole number, or not a list of at least one of them."""
    for name, value in options.items():
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        numbers = value if listed else [value]
        if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
            wanted = "a list of whole numbers above 0" if listed else "a whole number above 0"
            raise ValueError(f"discriminator {family!r}: {name} is {value!r}; give {wanted}")


def conv1d(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A 1-D convolution with weight norm (Salimans and Kingma 2016) and 'same' padding before the stride; odd kernels
    only."""
    layer = nn.Conv1d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return torch.nn.utils.parametrizations.weight_norm(layer)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    """A 2-D convolution with weight norm (Salimans and Kingma 2016) and 'same' padding before the stride; odd kernels
    only."""
    padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation))
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, dilation=dilation, padding=padding)
    return torch.nn.utils.parametrizations.weight_norm(layer)
