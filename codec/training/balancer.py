"""Gradient balancing: a loss weighs what its share says, whatever its own scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Balancer:
    """Adds up the gradients of several losses with respect to the decoded audio, each brought to its share of a norm.

        balancer = Balancer({"waveform": 0.1, "mel": 2.0, "adversarial": 4.0, "feature_matching": 4.0})  # EnCodec's
        audio.backward(balancer.gradient({"waveform": l1, "mel": mel}, audio))

    Source: Défossez et al., "High Fidelity Neural Audio Compression", 2022, section 3.4
    (https://arxiv.org/abs/2210.13438): the gradient is the sum over losses i of

        total_norm * weights[i] / sum(weights) * g_i / <|g_i|>

    with g_i the gradient of loss i, |g_i| the mean over items of its norms, and <.> its moving average over steps. The
    sum of weights is over the losses of the call, so that a loss that is not there, as the adversary's before its
    start, leaves its share to the others.

    weights     by the name of a loss, not negative.
    total_norm  of the whole, about.
    decay       of the moving averages (EnCodec: 0.999), which start from the first norm; 0: the norms are those of the
                step, and there is nothing to resume.
    reference   a loss that keeps its own gradient as it is. Those of the others are relative to it: in place of a share
                of total_norm each gets weights[i] / weights[reference] * <|g_reference|>, and one that is absent leaves
                nothing. recipes/speech_16k.yaml is trained so, with decay 0.

    With a decay and several processes, norms are means over them, so that all have the same averages. A norm that is
    not finite does not enter the averages.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        total_norm: float = 1.0,
        decay: float = 0.999,
        reference: str | None = None,
    ) -> None:
        if not all(0 <= weight < float("inf") for weight in weights.values()) or not any(weights.values()):
            raise ValueError(f"weights of a balancer are {dict(weights)}; give numbers from 0, at least one above it")
        if not 0 <= decay < 1:
            raise ValueError(f"decay of a balancer is {decay}; give 0 (no memory) or more, below 1")
        if not 0 < total_norm < float("inf"):
            raise ValueError(f"total_norm of a balancer is {total_norm}; give a number above 0")
        if reference is not None and not weights.get(reference):
            raise ValueError(f"the balancer's reference {reference!r} has no weight; give it one above 0")
        self.weights, self.total_norm, self.decay, self.reference = dict(weights), total_norm, decay, reference
        # Sums of norms and of their weights in the moving averages, by the name of a loss; scalars
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def gradient(self, losses: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        """The balanced gradient, of the shape of `audio` (B, ...): pass it to ``audio.backward``.

        losses: scalars with a weight each, in any order. Their graphs are kept.
        Raises ValueError for a loss without a weight or one that does not depend on `audio`.
        """
        if not losses or (self.reference is not None and self.reference not in losses):
            raise ValueError(f"the balancer got the losses {list(losses)}; give it {self.reference or 'at least one'}")
        gradients = {name: self._gradient_of(name, loss, audio) for name, loss in losses.items()}
        norms = self._averaged({name: _norm(gradient) for name, gradient in gradients.items()})
        if self.reference is not None:
            total = gradients.pop(self.reference)
            for name, gradient in gradients.items():
                share = self.weights[name] / self.weights[self.reference]
                total = total + share * norms[self.reference] / norms[name].clamp_min(1e-12) * gradient
            return total
        weights = sum(self.weights[name] for name in gradients) or 1.0
        total = torch.zeros_like(audio)
        for name, gradient in gradients.items():
            total = total + self.total_norm * self.weights[name] / weights / norms[name].clamp_min(1e-12) * gradient
        return total

    def _gradient_of(self, name: str, loss: Tensor, audio: Tensor) -> Tensor:
        if name not in self.weights:
            raise ValueError(f"the balancer has no weight for the loss {name!r}; it has {', '.join(self.weights)}")
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, audio, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(f"the loss {name!r} does not depend on the decoded audio; add it outside of the balancer")
        return gradient

    def _averaged(self, norms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Moving averages of `norms`, which they enter."""
        if not self.decay:
            return norms
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            together = torch.stack(list(norms.values()))
            torch.distributed.all_reduce(together)
            norms = dict(zip(norms, together / torch.distributed.get_world_size()))
        for name, norm in norms.items():
            zero = torch.zeros_like(norm)
            total, count = self._sums.get(name, zero).to(norm), self._counts.get(name, zero).to(norm)
            finite = torch.isfinite(norm)
            self._sums[name] = torch.where(finite, total * self.decay + norm, total)
            self._counts[name] = torch.where(finite, count * self.decay + 1, count)
        return {name: self._sums[name] / self._counts[name] for name in norms}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the moving averages."""
        return {
            "sums": {name: value.detach().clone() for name, value in self._sums.items()},
            "counts": {name: value.detach().clone() for name, value in self._counts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; averages of losses without a weight are left out."""
        self._sums, self._counts = (
            {name: value.detach().clone() for name, value in state[part].items() if name in self.weights}
            for part in ("sums", "counts")
        )


def _norm(gradient: Tensor) -> Tensor:
    """Mean over items of the norms of `gradient` (B, ...)."""
    return gradient.flatten(1).norm(dim=1).mean()
