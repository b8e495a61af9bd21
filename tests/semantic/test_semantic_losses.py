"""Distillation losses: the papers' values, masks, and whom gradients reach."""

from __future__ import annotations

import math

import pytest
import torch

import codec
from codec.semantic.losses import (
    d_axis_distillation_loss,
    cosine_loss,
    masked_mse,
    t_axis_distillation_loss,
)

AGREE, NOTHING, OPPOSED = (math.log1p(math.exp(-cosine)) for cosine in (1, 0, -1))
LOSSES = (d_axis_distillation_loss, t_axis_distillation_loss, cosine_loss, masked_mse)


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(3, 120, 16)


def test_values_of_the_d_axis(features):
    assert (round(AGREE, 4), round(NOTHING, 4), round(OPPOSED, 4)) == (0.3133, 0.6931, 1.3133)
    assert d_axis_distillation_loss(features, features).item() == pytest.approx(AGREE, abs=1e-6)
    assert d_axis_distillation_loss(features * 7, features).item() == pytest.approx(AGREE, abs=1e-6)
    assert d_axis_distillation_loss(-features, features).item() == pytest.approx(OPPOSED, abs=1e-6)
    time = torch.arange(120) * 2 * math.pi / 120
    assert d_axis_distillation_loss(
        time.sin().expand(2, 4, 120).mT, time.cos().expand(2, 4, 120).mT
    ).item() == pytest.approx(NOTHING, abs=1e-6)


def test_the_d_axis_is_the_papers_cosine_over_time(features):
    torch.manual_seed(1)
    student = torch.randn(3, 120, 16)
    expected = [
        -math.log(torch.sigmoid(torch.cosine_similarity(student[b, :, d], features[b, :, d], dim=0)).item())
        for b in range(3) for d in range(16)
    ]
    assert d_axis_distillation_loss(student, features).item() == pytest.approx(sum(expected) / 48, abs=1e-6)


def test_the_d_axis_rises_when_time_is_shuffled(features):
    student = features + 0.1 * torch.randn_like(features)
    near = d_axis_distillation_loss(student, features)
    far = d_axis_distillation_loss(student[:, torch.randperm(120)], features)
    assert near < 0.33 and far > 0.6


def test_the_t_axis_is_l1_and_cosine_over_the_dimensions(features):
    torch.manual_seed(1)
    student = torch.randn(3, 120, 16)
    cosine = torch.cosine_similarity(student, features, dim=2)
    distance, direction = (student - features).abs().mean(), -torch.sigmoid(cosine).log().mean()
    assert torch.allclose(t_axis_distillation_loss(student, features), distance + direction, atol=1e-6)
    half = t_axis_distillation_loss(student, features, cosine_weight=0.5)
    assert torch.allclose(half, distance + direction / 2, atol=1e-6)
    assert t_axis_distillation_loss(features, features).item() == pytest.approx(AGREE, abs=1e-6)


def test_per_frame_cosine_and_reconstruction(features):
    assert cosine_loss(features * 3, features).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(-features, features).item() == pytest.approx(2, abs=1e-6)
    assert masked_mse(features, features) == 0
    assert masked_mse(features + 2, features).item() == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_frames_that_are_not_valid_take_no_part(loss, features):
    torch.manual_seed(2)
    student = torch.randn(3, 120, 16, requires_grad=True)
    valid = torch.ones(3, 120, dtype=torch.bool)
    valid[:, 100:] = False
    cut = loss(student[:, :100], features[:, :100])
    spoilt = features.clone()
    spoilt[:, 100:] = math.nan  # rows that were never filled
    masked = loss(student, spoilt, valid)
    assert torch.allclose(masked, cut, atol=1e-6)
    masked.backward()
    assert student.grad[:, 100:].eq(0).all() and student.grad[:, :100].ne(0).all(2).any(1).all()
    assert not torch.allclose(loss(student, features), cut, atol=1e-5)


def test_items_with_too_few_frames_are_left_out_of_the_d_axis(features):
    student = torch.randn(3, 120, 16, requires_grad=True)
    valid = torch.zeros(3, 120, dtype=torch.bool)
    valid[0], valid[1, :99], valid[2, 5] = True, True, True
    d_axis_distillation_loss(student, features, valid, min_frames=100).backward()
    alone = d_axis_distillation_loss(student[:1], features[:1])
    assert torch.allclose(d_axis_distillation_loss(student, features, valid, min_frames=100), alone)
    assert student.grad[0].ne(0).any() and student.grad[1:].eq(0).all()
    both = d_axis_distillation_loss(student[:2], features[:2], valid[:2])
    assert torch.allclose(d_axis_distillation_loss(student, features, valid), both)  # a single frame has no course


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_valid_is_zero_with_zero_gradient(loss, features):
    student = torch.randn(3, 120, 16, requires_grad=True)
    value = loss(student, features, torch.zeros(3, 120, dtype=torch.bool))
    assert value == 0
    value.backward()
    assert student.grad.eq(0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_reach_the_student_alone(loss, features):
    student = torch.randn(3, 120, 16, requires_grad=True)
    teacher = features.clone().requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.isfinite().all() and student.grad.ne(0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_of_zeros_has_a_finite_loss_and_gradient(loss, features):
    student = torch.zeros(3, 120, 16, requires_grad=True)
    value = loss(student, features)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_one_frame_more_is_dropped_and_two_are_an_error(loss, features):
    student = torch.randn(3, 120, 16)
    valid = torch.rand(3, 120) < 0.5
    for side in (119, 120):
        same = loss(student[:, :119], features[:, :119], valid[:, :119])
        assert torch.equal(loss(student[:, :side], features[:, : 239 - side], valid), same)
        assert torch.equal(loss(student[:, :side], features[:, : 239 - side], valid[:, :119]), same)
    with pytest.raises(ValueError, match="118 frames and the teacher 120.*one frame rate"):
        loss(student[:, :118], features)


@pytest.mark.parametrize("loss", LOSSES)
def test_shapes_that_do_not_fit_are_named(loss, features):
    with pytest.raises(ValueError, match="8 wide and the teacher 16: project the student"):
        loss(features[..., :8], features)
    with pytest.raises(ValueError, match=r"must both be \(B, T, D\)"):
        loss(features, features[None])  # (1, B, T, D), as the public extraction scripts save them
    with pytest.raises(ValueError, match="2 items and the teacher 3"):
        loss(features[:2], features)
    with pytest.raises(ValueError, match="must be bool"):
        loss(features, features, torch.ones(3, 120))
    with pytest.raises(ValueError, match="must be bool"):
        loss(features, features, torch.ones(3, 60, dtype=torch.bool))


@pytest.mark.parametrize("loss", LOSSES)
def test_computed_in_float32_under_autocast(loss, features):
    student = torch.randn(3, 120, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(student, features)
    assert inside.dtype == torch.float32 and torch.equal(inside, loss(student, features))
    assert loss(student.half(), features.bfloat16()).dtype == torch.float32


def test_minimum_of_frames_is_checked(features):
    with pytest.raises(ValueError, match="min_frames=0"):
        d_axis_distillation_loss(features, features, min_frames=0)


def test_the_room_is_reached_from_the_package():
    assert codec.semantic.d_axis_distillation_loss is d_axis_distillation_loss
    assert codec.semantic.t_axis_distillation_loss is t_axis_distillation_loss
    assert "load_teacher" in dir(codec.semantic)
    with pytest.raises(AttributeError, match="it offers"):
        codec.semantic.no_such_thing  # noqa: B018
