from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from codec.nn.linear import Linear
from quantizers import half_weights
from quantizers.half_weights import HalfWeights, Packed, inferring, pack, product

pytestmark = pytest.mark.skipif(pack(torch.ones(2, 2), None) is None, reason="this torch has no FBGEMM")


def halves(*shape: int) -> torch.Tensor:
    return torch.randn(shape).half().float()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inputs, outputs", [(10, 3), (50, 1), (33, 17), (64, 1024), (384, 1152), (963, 384)])
def test_rows_alone_are_rows_among_many_bit_by_bit(inputs, outputs, threads):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, packed = torch.randn(700, inputs), pack(halves(outputs, inputs), torch.randn(outputs))
        whole = product(x, packed)
        for start in (0, 1, 6, 37):
            for rows in [*range(1, 42), 63, 100, 255, 256, 257, 511, 650]:
                assert torch.equal(product(x[start : start + rows], packed), whole[start : start + rows]), (start, rows)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_is_a_linear_layer_in_any_shape_and_layout():
    torch.manual_seed(0)
    layer = Linear(10, 6)
    layer.weight.copy_(halves(6, 10))
    assert layer._half.of(layer.weight, layer.bias) is not None
    for x in (torch.randn(10), torch.randn(3, 10), torch.randn(2, 5, 10), torch.randn(2, 0, 10), torch.randn(2, 10, 5).mT):
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@torch.no_grad()
def test_weights_that_fp16_would_round_stay_as_they_are():
    torch.manual_seed(0)
    layer = Linear(8, 4)  # of random float32 numbers
    assert layer._half.of(layer.weight, layer.bias) is None
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x).double(), F.linear(x.double(), layer.weight.double(), layer.bias.double()), atol=1e-6, rtol=0)
    assert pack(torch.full((2, 2), 1e6), None) is None  # beyond fp16


@torch.no_grad()
def test_changed_weights_are_noticed():
    torch.manual_seed(0)
    layer, x = Linear(8, 4), torch.randn(3, 8)
    layer.weight.copy_(halves(4, 8))
    layer(x)
    for change in (
        lambda: layer.weight.mul_(2), lambda: layer.bias.add_(1), lambda: layer.load_state_dict(Linear(8, 4).half().state_dict()),
        lambda: setattr(layer.weight, "data", halves(4, 8)), lambda: layer.weight.copy_(torch.randn(4, 8)),
    ):
        change()
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@torch.no_grad()
def test_copies_have_their_own():
    torch.manual_seed(0)
    layer, x = Linear(8, 4), torch.randn(3, 8)
    layer.weight.copy_(halves(4, 8))
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), y)
        other.weight.zero_()
        assert torch.equal(other(x), layer.bias.expand(3, 4)) and torch.equal(layer(x), y)


def test_gradients_take_the_ordinary_way():
    x, kept = torch.randn(2, 4), HalfWeights()
    assert not inferring(x)
    with torch.no_grad():
        assert inferring(x) and not inferring(x.double()) and not inferring(x[:0])
        with torch.autocast("cpu"):
            assert not inferring(x)
    layer = Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(halves(4, 4))
    layer(x).sum().backward()
    assert layer.weight.grad is not None and kept.of(layer.weight, None) is not None
    with torch.inference_mode():
        made = halves(4, 4)
        assert kept.of(made, None) is None


@pytest.mark.parametrize("rows", [1, 3, 200])
def test_both_ways_to_the_kernels_give_the_same_bits(rows, monkeypatch):
    torch.manual_seed(0)
    x, packed = torch.randn(rows, 96), pack(halves(80, 96), torch.randn(80))
    one = product(x, packed)
    monkeypatch.setattr(half_weights, "_DIRECT", None)
    assert torch.equal(product(x, Packed(packed.weight, packed.bias)), one)
    torch.testing.assert_close(one, F.linear(x, packed.weight, packed.bias), atol=1e-4, rtol=1e-5)


def test_copies_of_what_is_packed_are_packed_anew():
    torch.manual_seed(0)
    x, packed = torch.randn(2, 4), pack(halves(8, 4), None)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(product(x, other), product(x, packed))
