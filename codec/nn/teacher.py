"""Frozen speech models whose features a codec is built on, as `transformers` has them: HuBERT, WavLM and w2v-BERT 2.0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from codec.nn.fast_linear import make_fast

KINDS = ("hubert", "wavlm")
QUIET = {
    "hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0,
    "layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0,
}
_leaving_out: ContextVar[bool] = ContextVar("leaving_out", default=False)


class LeftOut(nn.Module):
    """In the place of a speech model that nobody is going to listen through."""


@contextmanager
def left_out() -> Iterator[None]:
    """Codecs that are built within have no speech model, whose package takes 250 MB and seconds to import, but `LeftOut`."""
    token = _leaving_out.set(True)
    try:
        yield
    finally:
        _leaving_out.reset(token)


class Teacher(nn.Module):
    """Never trained: without dropout and gradients, in evaluation mode whatever its parents are put into."""

    def _freeze(self) -> None:
        make_fast(self)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)


class SpeechTeacher(Teacher):
    """Samples (B, T) to the mean of all hidden states (B, n, dim), the inputs of the first layer among them.

    HuBERT (Hsu et al. 2021, https://arxiv.org/abs/2106.07447) or WavLM (Chen et al. 2021, https://arxiv.org/abs/2110.13900).
    It attends over the whole signal, and with norm="group" normalises over it.

    Args:
        kind: hubert or wavlm.
        dim, layers, heads, hidden: of the transformer.
        conv_channels, conv_kernels, conv_strides, conv_bias: of the convolutions at its entry.
        norm: "group" behind the first convolution, or "layer" behind each.
        stable: normalise before attention and linear layers instead of behind them.
        position_kernel, position_groups: of the convolution that adds positions.
        buckets, max_distance: of WavLM's relative positions; HuBERT has none.

    Raises ValueError for other kinds, sizes that do not fit, and without the package `transformers`.
    """

    def __init__(
        self, kind: str, dim: int, layers: int, heads: int, hidden: int, conv_channels: Sequence[int],
        conv_kernels: Sequence[int], conv_strides: Sequence[int], conv_bias: bool, norm: str, stable: bool,
        position_kernel: int, position_groups: int, buckets: int, max_distance: int,
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"teacher={kind!r}: there is {' and '.join(KINDS)}")
        if norm not in ("group", "layer"):
            raise ValueError(f"norm={norm!r} of a teacher: there is group and layer")
        if not len(conv_channels) == len(conv_kernels) == len(conv_strides) > 0:
            raise ValueError("the channels, kernels and strides of a teacher's convolutions must be lists of one length")
        self.kernels, self.strides = tuple(conv_kernels), tuple(conv_strides)
        settings = {
            "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": hidden,
            "conv_dim": list(conv_channels), "conv_kernel": list(conv_kernels), "conv_stride": list(conv_strides),
            "conv_bias": conv_bias, "feat_extract_norm": norm, "do_stable_layer_norm": stable,
            "num_conv_pos_embeddings": position_kernel, "num_conv_pos_embedding_groups": position_groups,
            **QUIET,
        }
        if kind == "wavlm":
            settings |= {"num_buckets": buckets, "max_bucket_distance": max_distance}
        self.model = _build(kind, settings)
        if not isinstance(self.model, LeftOut):
            nn.utils.parametrize.remove_parametrizations(self.model.encoder.pos_conv_embed.conv, "weight")
        self._freeze()

    def frames(self, samples: int) -> int:
        """How many frames it makes of so many samples."""
        for kernel, stride in zip(self.kernels, self.strides):
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    @torch.no_grad()
    def forward(self, wav: Tensor) -> Tensor:
        states = self.model(wav, output_hidden_states=True).hidden_states
        total = states[0]
        for state in states[1:]:
            total = total + state
        return total / len(states)


class FilterbankTeacher(Teacher):
    """Log mel energies (B, n, bands) to features (B, n, dim): the first layers of w2v-BERT 2.0 (Barrault et al. 2023,
    https://arxiv.org/abs/2312.05187). It attends over the whole signal.

    Args:
        bands: of the energies.
        dim, layers, heads, hidden: of the conformer.
        kernel_size: of its convolutions.
        left, right: the farthest distance of relative positions to both sides.

    Raises ValueError for sizes that do not fit and without the package `transformers`.
    """

    def __init__(
        self, bands: int, dim: int, layers: int, heads: int, hidden: int, kernel_size: int, left: int, right: int
    ):
        super().__init__()
        self.model = _build("w2v-bert", {
            "feature_projection_input_dim": bands, "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": hidden, "conv_depthwise_kernel_size": kernel_size, "left_max_position_embeddings": left,
            "right_max_position_embeddings": right, "conformer_conv_dropout": 0.0, **QUIET,
        })
        self._freeze()

    @torch.no_grad()
    def forward(self, energies: Tensor) -> Tensor:
        return self.model(energies).last_hidden_state


def _build(kind: str, settings: dict) -> nn.Module:
    if _leaving_out.get():
        return LeftOut()
    try:
        import transformers
    except ImportError:
        raise ValueError('this codec hears through a speech model of another package: pip install "neural-codec-toolkit[teachers]"') from None
    config, model = {
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
        "w2v-bert": (transformers.Wav2Vec2BertConfig, transformers.Wav2Vec2BertModel),
    }[kind]
    return model(config(**settings))
