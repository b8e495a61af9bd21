"""Exponential moving average of a module's weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """A second set of weights that trails the trained ones.

    Floating-point parameters are averaged; buffers (codebook statistics) and other parameters are copied as they are.
    The decay at step s is min(decay, (1 + s) / (10 + s)), so the average forgets the random start quickly.

        ema = EMA(model, decay=0.999)
        ema.update(model, step)            # after every update of the generator, step = 0, 1, ...
        with ema.swapped(model): ...       # the model holds the average inside, its own weights again outside
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average lies in [0, 1), not {decay}")
        self.decay = decay
        averaged, copied = _split(module)
        self.averaged = {name: tensor.detach().clone() for name, tensor in averaged.items()}
        self.copied = {name: tensor.detach().clone() for name, tensor in copied.items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's weights; follows the module to its device."""
        averaged, copied = self._matching(module)
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averaged.values()), averaged, 1 - decay)
        if copied:
            torch._foreach_copy_(list(self.copied.values()), copied)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[nn.Module]:
        """The module with averaged weights inside the block; what it held before comes back bit for bit, also after an
        exception."""
        live = sum(self._matching(module), [])
        kept = [tensor.detach().clone() for tensor in live]
        mean = [*self.averaged.values(), *self.copied.values()]
        try:
            _copy(live, mean)
            yield module
        finally:
            _copy(live, kept)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """References, as torch's own: clone before going on if it is to be kept in memory."""
        return {"averaged": dict(self.averaged), "copied": dict(self.copied)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError, and changes nothing, when names or shapes are not those of this module."""
        for part in ("averaged", "copied"):
            mine, given = getattr(self, part), state.get(part, {})
            wrong = sorted(
                name
                for name in mine.keys() | given.keys()
                if name not in mine or name not in given or mine[name].shape != given[name].shape
            )
            if wrong:
                raise ValueError(
                    f"the averaged weights are of another model: {wrong[0]} and {len(wrong) - 1} more differ; "
                    "resume with the configuration that they were trained with"
                )
        for part in ("averaged", "copied"):
            for name, tensor in getattr(self, part).items():
                tensor.copy_(state[part][name])

    def _matching(self, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The module's tensors in the order of ours; ours are moved to where they are."""
        lists = []
        for mine, theirs in zip((self.averaged, self.copied), _split(module)):
            if mine.keys() != theirs.keys():
                raise ValueError(
                    "this moving average was made for another module; make it after the module is complete"
                )
            for name, tensor in theirs.items():
                if mine[name].device != tensor.device:
                    mine[name] = mine[name].to(tensor.device)
            lists.append([theirs[name].detach() for name in mine])
        return lists[0], lists[1]


def _split(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is averaged and what is copied, by name."""
    averaged = {name: p for name, p in module.named_parameters() if p.is_floating_point()}
    copied = {name: p for name, p in module.named_parameters() if not p.is_floating_point()}
    return averaged, copied | dict(module.named_buffers())


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
