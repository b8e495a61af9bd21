from __future__ import annotations

import math

import pytest
import torch
from streaming import stream

from codec.nn.attention import CausalTransformer, rotate, rotation


def make(window: int = 5, layers: int = 2, **options) -> CausalTransformer:
    torch.manual_seed(0)
    model = CausalTransformer(12, layers, 2, 20, window, layer_scale=0.5, **options)
    return model.requires_grad_(False)


def by_hand(block, x, base: float):
    """One layer, step by step and head by head, with every sum written out."""
    batch, steps, channels = x.shape
    width = channels // block.heads
    normed = torch.nn.functional.layer_norm(x, (channels,), block.norm_attention.weight, block.norm_attention.bias)
    queries, keys, values = (normed @ part.T for part in block.qkv.weight.chunk(3))
    out = torch.zeros_like(x)
    for head in range(block.heads):
        span = slice(head * width, (head + 1) * width)
        for t in range(steps):
            seen = range(max(0, t - block.window + 1), t + 1)
            scores = torch.stack([(turned(queries[:, t, span], t, base) * turned(keys[:, s, span], s, base)).sum(1) for s in seen], 1)
            weights = torch.softmax(scores / math.sqrt(width), 1)  # (B, seen)
            out[:, t, span] = (weights[..., None] * values[:, seen.start : seen.stop, span]).sum(1)
    x = x + block.scale_attention * (out @ block.out.weight.T)
    normed = torch.nn.functional.layer_norm(x, (channels,), block.norm_mlp.weight, block.norm_mlp.bias)
    return x + block.scale_mlp * (torch.nn.functional.gelu(normed @ block.expand.weight.T) @ block.project.weight.T)


def turned(x, position: int, base: float):
    """x (B, width): features i and i + width / 2 are a pair, turned by position * base^(-2 i / width)."""
    half = x.shape[1] // 2
    out = x.clone()
    for i in range(half):
        angle = position * base ** (-2 * i / x.shape[1])
        a, b = x[:, i], x[:, i + half]
        out[:, i], out[:, i + half] = a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)
    return out


@pytest.mark.parametrize("window", [1, 2, 5, 11, 100])
def test_equals_the_sums_written_out(window):
    model, x = make(window, rotary_base=100.0), torch.randn(2, 23, 12)
    expected = x
    for block in model.layers:
        expected = by_hand(block, expected, 100.0)
    torch.testing.assert_close(model(x)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 7, 100])
def test_streams(window):
    model, x = make(window), torch.randn(2, 120, 12)
    torch.testing.assert_close(stream(model, x, 1), model(x)[0], rtol=0, atol=1e-5)


def test_a_step_sees_its_window_and_nothing_else():
    model, x = make(window=5, layers=1), torch.randn(1, 40, 12)
    changed = x.clone()
    changed[:, 20] = torch.randn(12)
    differs = (model(changed)[0] - model(x)[0]).abs().amax((0, 2)) > 1e-6
    assert differs.nonzero()[:, 0].tolist() == [20, 21, 22, 23, 24]


def test_state_is_of_one_size_and_batch_first():
    """So that streams of different age can run in one batch."""
    model, x = make(window=5), torch.randn(3, 9, 12)
    _, young = model(x[:1, :2])
    _, old = model(x[1:2])
    assert young[0].tolist() == [2] and old[0].tolist() == [4]
    assert all(part.shape == (1, 2, 4, 6) for layer in young[1:] for part in layer)
    joined = (torch.cat([young[0], old[0]]), *(
        tuple(torch.cat(parts) for parts in zip(a, b)) for a, b in zip(young[1:], old[1:])
    ))
    together, _ = model(x[2:3].expand(2, -1, -1), joined)
    torch.testing.assert_close(together[:1], model(x[2:3], young)[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(together[1:], model(x[2:3], old)[0], rtol=0, atol=1e-6)


def test_a_stream_of_hours_is_as_exact_as_its_start():
    """Positions count within the window: what was heard before it changes nothing, not even by rounding."""
    model, x = make(window=4, layers=1), torch.randn(1, 6, 12)
    _, state = model(torch.randn(1, 50, 12))
    _, later = model(torch.randn(1, 5000, 12), state)
    first, second = (model(torch.cat([x, x], 1), past)[0][:, 6:] for past in (state, later))
    assert torch.equal(first, second)


def test_rotation_keeps_lengths_and_only_distances_count():
    cos, sin = rotation(2000, 8, 10_000.0, torch.zeros(1))
    x, y = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    near = (rotate(x, cos[5:6], sin[5:6]) * rotate(y, cos[2:3], sin[2:3])).sum()
    far = (rotate(x, cos[1905:1906], sin[1905:1906]) * rotate(y, cos[1902:1903], sin[1902:1903])).sum()
    torch.testing.assert_close(near, far, rtol=0, atol=1e-5)
    torch.testing.assert_close(rotate(x, cos[7:8], sin[7:8]).norm(), x.norm())


def test_gradients_reach_every_weight():
    model = make(window=3).requires_grad_(True)
    model(torch.randn(2, 9, 12))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("channels, heads", [(12, 5), (12, 4)])
def test_widths_that_do_not_fit_are_refused(channels, heads):
    with pytest.raises(ValueError, match="take a fitting number"):
        CausalTransformer(channels, 1, heads, 8, 4)
