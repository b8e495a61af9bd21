"""The loss that teaches a student the multi-codebook codes of a teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class JointCodebookLoss(nn.Module):
    """Cross-entropy of each codebook's index, given the student's state and the indices of the codebooks before it.

    Additive codebooks share one vector between them, so an index says much about the next ones: predicting them one
    after the other models their joint distribution (D. Povey, https://github.com/danpovey/quantization; the distillation of
    https://arxiv.org/abs/2211.00508).

        loss = JointCodebookLoss(student_dim=384, num_codebooks=8, codebook_size=256)
        loss(student(wav), teacher_quantizer.encode(features), mask).backward()

    Args:
        student_dim: width D of the student's hidden states.
        num_codebooks, codebook_size: of the codes; `codebook_size` is the same for all.
    """

    def __init__(self, student_dim: int, num_codebooks: int, codebook_size: int = 256) -> None:
        super().__init__()
        if student_dim < 1:
            raise ValueError(f"student_dim={student_dim}: it must be at least 1")
        if num_codebooks < 1:
            raise ValueError(f"num_codebooks={num_codebooks}: it must be at least 1")
        if codebook_size < 2:
            raise ValueError(f"codebook_size={codebook_size}: it must be at least 2")
        self.student_dim, self.num_codebooks, self.codebook_size = student_dim, num_codebooks, codebook_size
        self.heads = nn.Linear(student_dim, num_codebooks * codebook_size)
        # What is known of the codebooks before is added to the state that the head reads.
        self.embeddings = nn.Parameter(torch.randn(num_codebooks - 1, codebook_size, student_dim) * 0.02)

    def logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (B, T, D) and codes (B, K, T) to logits (B, K, T, codebook_size), each given the codes before its own."""
        states = [hidden]
        for index in range(self.num_codebooks - 1):
            states.append(states[-1] + self.embeddings[index][codes[:, index]])
        state = torch.stack(states, 1)  # (B, K, T, D)
        weight = self.heads.weight.view(self.num_codebooks, self.codebook_size, self.student_dim)
        bias = self.heads.bias.view(self.num_codebooks, 1, self.codebook_size)
        return torch.einsum("bktd,kcd->bktc", state, weight) + bias

    def forward(self, hidden: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats over codebooks and frames, a scalar (0 without any frame).

        hidden (B, T, D) float; codes (B, K, T), uint8 or another integer type; mask (B, T) bool: False is padding.
        Raises ValueError for other shapes and for codes that are out of range.
        """
        expected = (hidden.shape[0], self.num_codebooks, hidden.shape[1]) if hidden.dim() == 3 else None
        if expected is None or hidden.shape[2] != self.student_dim:
            raise ValueError(f"hidden has shape {tuple(hidden.shape)}: it must be (B, T, {self.student_dim})")
        if codes.shape != expected:
            raise ValueError(f"codes have shape {tuple(codes.shape)}: they must be (B, K, T) = {expected}")
        if codes.is_floating_point():
            raise ValueError(f"codes are {codes.dtype}: they must be integers")
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask
        if mask.shape != hidden.shape[:2] or mask.dtype != torch.bool:
            shape = tuple(hidden.shape[:2])
            raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}: it must be bool and of shape {shape}")
        codes = codes.long().masked_fill(~mask[:, None], 0)
        low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
        if low < 0 or high >= self.codebook_size:
            raise ValueError(f"codes are in {low}..{high}: they must be below codebook_size={self.codebook_size}")
        logits = self.logits(hidden.masked_fill(~mask[..., None], 0.0), codes)
        loss = F.cross_entropy(logits.flatten(0, 2).float(), codes.flatten(), reduction="none").view(codes.shape)
        return (loss * mask[:, None]).sum() / (mask.sum() * self.num_codebooks).clamp_min(1)
