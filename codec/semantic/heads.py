"""What makes tokens semantic in training: heads that predict a teacher's features from the codes, or from the student that
stands for a teacher. Heads belong to training; no saved codec has them.

SpeechTokenizer and Mimi distil a speech teacher into the first codebook, DM-Codec a language teacher into the first and a
speech teacher into the sum of all, X-Codec reconstructs the teacher's features from all codes, PAST spells the text from the
first codebook: settings of one target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quantizers
from codec.model import CodecOutput
from codec.semantic import losses
from codec.semantic.target import SemanticTarget

LOSSES = {
    "d_axis": losses.d_axis_distillation_loss,
    "t_axis": losses.t_axis_distillation_loss,
    "cosine": losses.cosine_loss,
    "mse": losses.masked_mse,
    "ctc": losses.ctc_loss,
}


CTC_WIDTH = 64  # inside a head of convolutions, of which the last makes scores of letters


class SemanticHeads(nn.Module):
    """Predictions of the teachers' features, or of letters, one entry of `targets` each, and how far off they are.

    widths: of the teachers' features, or of scores for letters, one for each target. quantizer, content_dim: of the codec
    that is trained; content_dim None where its encoder has no student. Raises ValueError for targets that this codec cannot have.
    """

    def __init__(
        self, targets: Sequence[SemanticTarget], widths: Sequence[int], quantizer: quantizers.Quantizer,
        content_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.heads = nn.ModuleList()
        for target, width in zip(self.targets, widths):
            if target.source == "content":
                if content_dim != width:
                    has = "has no student" if content_dim is None else f"has a student {content_dim} wide"
                    raise ValueError(f"{target.teacher} is {width} wide, but the encoder {has}: take the encoder `fused` "
                                     f"with content_dim={width}")
                self.heads.append(nn.ModuleList())
                continue
            needed = {k for index in target.codebooks for k in (index, index - 1) if k}
            if not needed <= set(quantizer.counts):
                raise ValueError(f"codebooks={list(target.codebooks)}: this quantizer's first k decode alone for k of "
                                 f"{list(quantizer.counts)} only, so others cannot be distilled into")
            count = len(target.codebooks) if target.combine == "each" else 1
            inside = CTC_WIDTH if target.loss == "ctc" else width
            self.heads.append(nn.ModuleList(_head(target.head, quantizer.dim, inside, width) for _ in range(count)))

    def forward(
        self, output: CodecOutput, quantizer: quantizers.Quantizer, active: Tensor | None,
        features: Sequence[tuple[Tensor, Tensor]],
    ) -> dict[str, Tensor]:
        """Losses by name, unweighted. active (B,): codebooks of each item, None before there are any.

        features: for each target (B, T', D), or letters (B, L), and which frames are valid (B, T').
        """
        found = {}
        for number, (target, heads, (teacher, valid)) in enumerate(zip(self.targets, self.heads, features), 1):
            function, name = LOSSES[target.loss], f"semantic_{number}"
            if target.source == "content":
                found[name] = function(output.content.float().mT, teacher, valid)
            elif output.codes is not None:
                parts = contributions(output, quantizer, active, target.codebooks)  # each (B, dim, T')
                rows = [valid] * len(heads)
                if target.combine == "each":
                    rows = [valid & (active >= index)[:, None] for index in target.codebooks]
                else:
                    parts = [sum(parts) / (len(parts) if target.combine == "mean" else 1)]
                through = output.latents - output.latents.detach()  # 0, with the straight-through gradient
                found[name] = sum(
                    function(head((part + through).mT), teacher, used) for head, part, used in zip(heads, parts, rows)
                ) / len(heads)
        return found


def contributions(
    output: CodecOutput, quantizer: quantizers.Quantizer, active: Tensor, codebooks: Sequence[int]
) -> list[Tensor]:
    """What each of the codebooks adds to the quantized latents, (B, dim, T') each, 0 for items that do not use it.

    Codebooks and projections that have a gradient get theirs through `decode`.
    """
    partial = {0: torch.zeros_like(output.latents)}
    for k in sorted({k for index in codebooks for k in (index, index - 1)} - {0}):
        partial[k] = quantizer.decode(output.codes[:, :k])
    return [(partial[k] - partial[k - 1]) * (active >= k)[:, None, None] for k in codebooks]


def _head(kind: str, dim: int, inside: int, width: int) -> nn.Module:
    """(B, T, dim) to (B, T, width)."""
    if kind == "linear":
        return nn.Linear(dim, width)
    units = [nn.Linear(dim, inside), _ConvUnit(inside), _ConvUnit(inside)]
    return nn.Sequential(*units, *([nn.Linear(inside, width)] if inside != width else ()))


class _ConvUnit(nn.Module):
    """Residual unit over time, (B, T, C) to (B, T, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(channels, channels, 3, padding=1)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.elu(self.near(F.elu(x.mT)))).mT
