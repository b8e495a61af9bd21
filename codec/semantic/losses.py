"""How far a student's features are from a teacher's.

    loss = d_axis_distillation_loss(student, teacher, valid)     # (B, T, D), (B, T, D), (B, T) bool; a scalar

The student is already of the teacher's width and rate. `valid` marks the frames that have a target: the others
(padding, pauses of a text teacher) take no part, and neither values nor gradients depend on them. Gradients reach the
student alone. Everything is computed in float32, also under autocast. One of the two may have one frame more, which
is dropped: convolutions and rates disagree by that; more is an error. Where no frame is left the loss is zero, and so
is its gradient. `ctc_loss` has a text in the place of a teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.semantic.letters import SYMBOLS

SMALLEST_NORM = 1e-6  # what is shorter has no direction


def d_axis_distillation_loss(
    student: Tensor, teacher: Tensor, valid: Tensor | None = None, min_frames: int = 2
) -> Tensor:
    """-log sigmoid of the cosine over time, of each feature dimension: 0.3133 where all agree, 0.6931 where nothing
    does.

    The mean over the dimensions, then over the items. Source: SpeechTokenizer (Zhang et al. 2023,
    https://arxiv.org/abs/2308.16692) and DM-Codec (Ahasan et al. 2024, https://arxiv.org/abs/2410.15017). One
    dimension of one second is a short vector, whose cosine is mostly chance and mean: give 2 s or more of valid
    frames.

    Args:
        student, teacher: (B, T, D).
        valid: (B, T) bool; all frames by default.
        min_frames: items with fewer valid frames are left out.

    Raises ValueError for shapes that do not fit together.
    """
    if min_frames < 1:
        raise ValueError(f"min_frames={min_frames}: it must be at least 1")
    with torch.autocast(student.device.type, enabled=False):
        student, teacher, mask = _aligned(student, teacher, valid)
        losses = F.softplus(-_cosine(student, teacher, dim=1)).mean(1)  # (B,)
        return _mean(losses, mask.sum(1) >= min_frames)


def t_axis_distillation_loss(
    student: Tensor, teacher: Tensor, valid: Tensor | None = None, cosine_weight: float = 1.0
) -> Tensor:
    """L1 distance (mean over the dimensions) plus `cosine_weight` times -log sigmoid of the cosine over the
    dimensions, of each frame; the mean over the valid frames. 0.3133 where all agree.

    Source: DistilHuBERT (Chang et al. 2021, https://arxiv.org/abs/2110.01900), as SpeechTokenizer and DM-Codec take
    it over. It says nothing of how a feature moves in time, so it does for short crops.

    Args: as `d_axis_distillation_loss`. Raises ValueError for shapes that do not fit together.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher, mask = _aligned(student, teacher, valid)
        distance = (student - teacher).abs().mean(2)
        return _mean(distance + cosine_weight * F.softplus(-_cosine(student, teacher, dim=2)), mask)


def cosine_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - cosine over the dimensions, of each frame; the mean over the valid frames: 0 where all agree, 1 where
    nothing does.

    The form of Mimi (Défossez et al. 2024, https://arxiv.org/abs/2410.00037). Every frame counts on its own, so crops
    may be short.

    Args: as `d_axis_distillation_loss`. Raises ValueError for shapes that do not fit together.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher, mask = _aligned(student, teacher, valid)
        return _mean(1 - _cosine(student, teacher, dim=2), mask)


def masked_mse(reconstructed: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error over the valid frames and the dimensions.

    X-Codec's for its semantic decoder (Ye et al. 2024, https://arxiv.org/abs/2408.17175).

    Args: as `d_axis_distillation_loss`. Raises ValueError for shapes that do not fit together.
    """
    with torch.autocast(reconstructed.device.type, enabled=False):
        reconstructed, teacher, mask = _aligned(reconstructed, teacher, valid)
        return _mean((reconstructed - teacher).square().mean(2), mask)


def ctc_loss(student: Tensor, letters: Tensor, valid: Tensor | None = None, symbols: int = SYMBOLS) -> Tensor:
    """-log probability of a text under all ways in which it may lie over the frames (connectionist temporal classification,
    Graves et al. 2006), for each letter; the mean over the items.

    On characters of the transcripts as in PAST (Har-Tuv et al. 2025, https://arxiv.org/abs/2505.14470), the cheap alternative
    to a teacher.

    Args:
        student: (B, T, n * symbols), n places for symbols in each frame; not normalised.
        letters: (B, L) int64 from 1, followed by zeros; 0 is the blank.
        valid: (B, T) bool, the frames in which they are said; all by default. The others are taken out.

    Items without a letter, or with more than there is room for, are left out; where none is left the loss is zero. Raises
    ValueError for shapes that do not fit together.
    """
    if student.dim() != 3 or student.shape[2] % symbols or letters.dim() != 2 or len(letters) != len(student):
        raise ValueError(
            f"student {tuple(student.shape)} must be (B, T, n * {symbols}) and letters {tuple(letters.shape)} (B, L)"
        )
    if valid is None:
        valid = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    if valid.dtype != torch.bool or len(valid) != len(student) or abs(valid.shape[1] - student.shape[1]) > 1:
        raise ValueError(
            f"valid is {valid.dtype} {tuple(valid.shape)}: it must be bool of shape {tuple(student.shape[:2])}, (B, T)"
        )
    frames, places = min(student.shape[1], valid.shape[1]), student.shape[2] // symbols
    valid = valid[:, :frames]
    first = torch.argsort(~valid, dim=1, stable=True)[..., None]  # valid frames first, in order
    student = student[:, :frames].gather(1, first.expand(-1, -1, student.shape[2]))
    with torch.autocast(student.device.type, enabled=False):
        log_probs = student.float().unflatten(2, (places, symbols)).flatten(1, 2).log_softmax(2)  # (B, T * n, symbols)
        room, sizes = valid.sum(1) * places, (letters > 0).sum(1)
        doubled = ((letters[:, 1:] == letters[:, :-1]) & (letters[:, 1:] > 0)).sum(1)
        counted = (sizes > 0) & (sizes + doubled <= room)
        sizes = sizes * counted
        losses = F.ctc_loss(log_probs.transpose(0, 1), letters, room.clamp_min(1), sizes, reduction="none")
        return _mean(losses / sizes.clamp_min(1), counted)


def _aligned(student: Tensor, teacher: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both as float32 (B, T, D) of the shorter length, zero where not valid, and valid (B, T)."""
    if student.dim() != 3 or teacher.dim() != 3:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must both be (B, T, D)")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"the student has {student.shape[0]} items and the teacher {teacher.shape[0]}: give features of one batch"
        )
    if student.shape[2] != teacher.shape[2]:
        raise ValueError(
            f"the student is {student.shape[2]} wide and the teacher {teacher.shape[2]}: project the student to the "
            "teacher's width"
        )
    if abs(student.shape[1] - teacher.shape[1]) > 1:
        raise ValueError(
            f"the student has {student.shape[1]} frames and the teacher {teacher.shape[1]}: bring both to one frame "
            "rate"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape not in (student.shape[:2], teacher.shape[:2])):
        raise ValueError(
            f"valid is {valid.dtype} {tuple(valid.shape)}: it must be bool of shape {tuple(teacher.shape[:2])}, (B, T)"
        )
    frames = min(student.shape[1], teacher.shape[1])
    if valid is None:
        valid = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    valid = valid[:, :frames]
    student, teacher = student[:, :frames], teacher.detach()[:, :frames]
    hidden = ~valid[..., None]
    return student.float().masked_fill(hidden, 0.0), teacher.float().masked_fill(hidden, 0.0), valid


def _cosine(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    return (_direction(student, dim) * _direction(teacher, dim)).sum(dim)


def _direction(vectors: Tensor, dim: int) -> Tensor:
    return vectors / torch.linalg.vector_norm(vectors, dim=dim, keepdim=True).clamp_min(SMALLEST_NORM)


def _mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Over those that count; zero without gradient where none does."""
    return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp_min(1)
