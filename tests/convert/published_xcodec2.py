"""What tests of X-Codec 2's and NeuCodec's packages share.

Of what these packages ask for and few have, torchtune's rotary positions are written out here, local_attention, which only
NeuCodec's distilled model needs, is left empty, and newer versions of vector_quantize_pytorch are made to do what 1.17.8 does.
"""

from __future__ import annotations

import math
import sys
import types
from importlib.metadata import version

import pytest
import torch


class Rotary(torch.nn.Module):
    """As torchtune's RotaryPositionalEmbeddings: pairs of numbers of (B, positions, heads, width) turned by their position."""

    def __init__(self, dim: int):
        super().__init__()
        self.rates = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)

    def forward(self, x):
        angle = torch.arange(x.shape[1])[:, None, None] * self.rates  # (positions, 1, width / 2)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], -1)
        return turned.flatten(-2)


def module(name, **content):
    made = types.ModuleType(name)
    made.__dict__.update(content)
    return made


def put_stand_ins(patch: pytest.MonkeyPatch) -> None:
    """For packages that theirs import."""
    nothing = dict.fromkeys(("DynamicPositionBias", "LocalMHA", "FeedForward"), object)
    stand_ins = {
        "torchtune": module("torchtune"), "torchtune.modules": module("torchtune.modules", RotaryPositionalEmbeddings=Rotary),
        "local_attention": module("local_attention"), "local_attention.transformer": module("transformer", **nothing),
    }
    for name, made in stand_ins.items():
        patch.setitem(sys.modules, name, made)


def teacher(transformers):
    """Of w2v-BERT's kind, small."""
    return transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=18, num_attention_heads=2, intermediate_size=48, conv_depthwise_kernel_size=5,
        output_hidden_states=True,
    ))


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Their model with weights such that no layer drowns in its bias, and the quantizer of version 1.17.8."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "alpha", "beta")):
                value.normal_(0, 0.05 if name.endswith("bias") else 0.3)
            elif name.endswith("weight_g"):
                value.uniform_(0.5, 1.0)
            elif value.dim() >= 2:
                value.normal_(0, 0.7 * value[0].numel() ** -0.5)
        model.generator.quantizer.project_in.weight *= 2
    quantizer = model.generator.quantizer
    if version("vector-quantize-pytorch") != "1.17.8":  # which bounds the axes by tanh, and so does its FSQ
        quantizer.project_in.register_forward_hook(lambda layer, inputs, axes: bounded(axes))
        quantizer.soft_clamp_input_value = None
        quantizer.layers[0].bound_hard_clamp = quantizer.layers[0].preserve_symmetry = False
        quantizer.layers[0].implicit_codebook = quantizer.layers[0]._indices_to_codes(torch.arange(4**8))
    return model.eval().requires_grad_(False)


def bounded(axes):
    """To a little beyond the four levels from -2 to 1."""
    half = 1.5 * 1.001
    return torch.tanh(axes + math.atanh(0.5 / half)) * half - 0.5
