"""A ConvNeXt block laid out for coding: besides its products, a step of a stream waits for the way through modules, each of
which costs as much as a small operation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.depthwise import CausalDepthwiseConv, added
from codec.nn.linear import Linear
from quantizers.half_weights import pack, product
from quantizers.unchanged import Unchanged


class Laid:
    """A `codec.nn.convnext.ConvNeXtBlock` as plain tensors: the same operations on them, for inference alone.

    usable: whether there is such a form: fp16 holds all weights of its products, and nobody listens to the modules inside.
    """

    def __init__(self, block: nn.Module) -> None:
        parts = depthwise, norm, expand, project = block.depthwise, block.norm, block.expand, block.project
        self._modules = dict(block._modules)
        self._hooks = [hooks for part in parts for hooks in (part._forward_pre_hooks, part._forward_hooks)]
        self._stored = [part._parameters for part in (*parts, block)]
        tensors = self._tensors()
        self._heard, self.usable = any(self._hooks), False
        plain = [type(part) for part in parts] == [CausalDepthwiseConv, nn.LayerNorm, Linear, Linear] and not self._heard
        if not plain or any(tensor is None or tensor.is_inference() for tensor in tensors):
            self._unchanged = Unchanged(tensors, ())
            return
        copied = depthwise.weight, expand.weight, expand.bias, project.weight, project.bias
        self._unchanged = Unchanged(tensors, copied)  # before the weights are read: what changes meanwhile is seen
        self._expand, self._project = pack(expand.weight, expand.bias), pack(project.weight, project.bias)
        self.usable = self._expand is not None and self._project is not None
        self._weight, self._flipped, self._bias = depthwise.weight, depthwise.weight.detach().flip(0), depthwise.bias
        self._norm, self._scale = (norm.normalized_shape, norm.weight, norm.bias, norm.eps), block.scale

    def __reduce__(self):
        return type(None), ()  # a copy of a block lays out its own

    def fits(self, block: nn.Module) -> bool:
        """Whether the block is still what it was."""
        return block._modules == self._modules and any(self._hooks) is self._heard and self._unchanged.of(self._tensors())

    def _tensors(self) -> list[Tensor | None]:
        return [tensor for stored in self._stored for tensor in stored.values()]

    def __call__(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        frames, history = x.shape[1], self._weight.shape[0] - 1
        state = x.new_zeros(x.shape[0], history, x.shape[2]) if state is None else state
        sums = added(x, state, self._weight, self._flipped)
        y = torch.layer_norm(sums.narrow(1, 0, frames) + self._bias, *self._norm)
        y = product(F.gelu(product(y, self._expand)), self._project)
        return torch.addcmul(x, self._scale, y), sums.narrow(1, frames, history)
