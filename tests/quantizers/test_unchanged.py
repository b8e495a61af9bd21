from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch.nn import functional as F

import quantizers
from codec.nn.linear import Linear
from quantizers.unchanged import Unchanged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_what_goes_past_the_count_of_changes_is_seen(dtype):
    for shape in ((), (1,), (7,), (5, 9), (2, 16, 3)):
        tensor = torch.zeros(shape, dtype=dtype)
        unchanged = Unchanged([tensor, None])
        assert unchanged.of([tensor, None])
        tensor.data.fill_(1)
        assert not unchanged.of([tensor, None])


def test_other_tensors_are_not_what_was_there():
    one, other = torch.ones(3), torch.ones(3)
    unchanged = Unchanged([one])
    assert not unchanged.of([other]) and not unchanged.of([None]) and not unchanged.of([]) and not unchanged.of([one, one])
    one.add_(0)
    assert not unchanged.of([one])
    with torch.inference_mode():
        made = torch.ones(3)
        assert Unchanged([made]).of([made])
    empty = torch.zeros(0, 4)
    assert Unchanged([empty]).of([empty])
    missing = torch.zeros(4, device="meta")
    assert Unchanged([missing]).of([missing])


def test_not_a_number_is_itself():
    tensor = torch.full((4,), float("nan"))
    assert Unchanged([tensor]).of([tensor])


def test_copies_hold_no_weights():
    weight = torch.zeros(100_000)
    assert len(pickle.dumps(Unchanged([weight]))) < 200
    assert not copy.deepcopy(Unchanged([weight])).of([weight])


@torch.no_grad()
def test_a_layer_multiplies_by_the_weights_that_it_has():
    torch.manual_seed(0)
    layer, x = Linear(64, 48), torch.randn(3, 64)
    layer.half().float()
    layer(x)
    for change in (
        lambda: layer.weight.data.mul_(2), lambda: layer.bias.data.add_(1), lambda: layer.weight.detach().numpy().fill(0.5),
        lambda: torch._foreach_mul_([layer.weight.data], 2), lambda: layer.bfloat16().float(),
    ):
        layer.weight.copy_(torch.randn(48, 64).half())
        layer(x)
        change()
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_memory_that_is_used_again_does_not_pass_for_what_was_there():
    torch.manual_seed(0)
    layer, x = Linear(256, 256, bias=False), torch.randn(2, 256)
    layer.weight.data = torch.randn(256, 256).half().float()
    layer(x)
    for _ in range(20):  # without the layer in between: the first memory is given back, and may be taken again
        layer.weight.data = torch.randn(256, 256).half().float()
        layer.weight.data = torch.randn(256, 256).half().float()
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight), atol=1e-4, rtol=1e-5)


def test_a_layer_that_is_moved_gives_its_old_weights_back():
    layer = Linear(8, 8).half().float()
    with torch.no_grad():
        layer(torch.randn(2, 8))
    assert layer._half._kept is not None
    assert layer.to("meta")._half._kept is None


@pytest.mark.parametrize("name", ["rvq", "factorized_rvq", "simvq", "fsq"])
@torch.no_grad()
def test_quantizers_search_in_the_codebooks_that_they_have(name):
    torch.manual_seed(0)
    settings = {"num_codebooks": 2, "codebook_size": 64 if name == "fsq" else 32}
    one, latents = quantizers.build(name=name, dim=8, **settings).eval(), torch.randn(2, 8, 20)
    before = one.encode(latents)
    for value in one.state_dict().values():
        if value.is_floating_point():
            value.data.copy_(torch.randn_like(value).abs() + 0.1)
    other = quantizers.build(name=name, dim=8, **settings).eval()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.encode(latents), other.encode(latents)) and not torch.equal(one.encode(latents), before)


@torch.no_grad()
def test_threads_at_once_never_get_old_products():
    torch.manual_seed(0)
    layer, x, wrong = Linear(64, 64, bias=False).half().float(), torch.randn(2, 64), []

    def run(barrier: threading.Barrier) -> None:
        with torch.no_grad():
            for round in range(30):
                if barrier.wait() == 0:
                    layer.weight.fill_(round)
                barrier.wait()
                if not torch.allclose(layer(x), x.sum(1, keepdim=True).expand(2, 64) * round, atol=1e-2):
                    wrong.append(round)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=run, args=(barrier,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_part_of_a_stack_is_looked_into():
    stack = torch.zeros(8, 4, 6)
    unchanged = Unchanged([stack], stack.unbind())
    assert unchanged.of([stack])
    for part in stack:
        part.data.add_(1)
        assert not unchanged.of([stack])
        unchanged = Unchanged([stack], stack.unbind())
    assert not unchanged.of([stack.clone()])


@torch.no_grad()
def test_one_codebook_that_changed_is_seen():
    torch.manual_seed(0)
    one, latents = quantizers.build(name="rvq", dim=8, num_codebooks=4, codebook_size=32).eval(), torch.randn(2, 8, 20)
    for index in range(4):
        one.encode(latents)
        one.codebooks.data[index] = torch.randn(32, 8)
        assert torch.equal(one.encode(latents), copy.deepcopy(one).encode(latents))
