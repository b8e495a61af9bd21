"""DAC's and SNAC's networks: what they see, and how long their outputs are."""

from __future__ import annotations

import math

import pytest
import torch

from codec.backbones.dac import DACDecoder, DACEncoder
from codec.backbones.snac import SNACDecoder, SNACEncoder
from codec.nn.snake import TILE, Snake

STRIDES = [(2, 4, 8, 8), (2, 4, 5), (3, 3, 7), (2,), (9,)]


def encoder(family: str, strides: tuple[int, ...]):
    hop = math.prod(strides)
    if family == "dac":
        return DACEncoder(6, hop, 4, strides)
    return SNACEncoder(4 * 2 ** len(strides), hop, 4, strides, depthwise=family == "snac")


def decoder(family: str, strides: tuple[int, ...]):
    hop, channels = math.prod(strides), 2 * 2 ** len(strides)
    if family == "dac":
        return DACDecoder(6, hop, channels, strides, whole=True, tanh=True)
    if family == "dac short":
        return DACDecoder(6, hop, channels, strides, whole=False, tanh=False)
    return SNACDecoder(6, hop, channels, strides, depthwise=family == "snac", noise=True).eval()


def moved(before: torch.Tensor, after: torch.Tensor, unit: int) -> list[int]:
    """The frames of (1, C, n * unit) that are not the same."""
    changed = (before != after).any(1)[0]
    return changed.reshape(-1, unit).any(1).nonzero().flatten().tolist()


def amplify(network: torch.nn.Module) -> torch.nn.Module:
    """Weights such that nothing drowns in rounding: all of them positive and large, Snake's waves small. In float64."""
    for name, value in network.double().named_parameters():
        value.data.abs_().mul_(2) if name.endswith("weight") else value.data.fill_(0.1)
    return network


@torch.no_grad()
@pytest.mark.parametrize("strides", STRIDES, ids=str)
@pytest.mark.parametrize("family", ["dac", "snac", "snac dense"])
def test_an_encoder_sees_its_context_and_no_more(family, strides):
    network = amplify(encoder(family, strides))
    hop, context = math.prod(strides), network.context
    frames = 2 * context + 7
    wav = torch.randn(1, 1, frames * hop, dtype=torch.float64)
    before, seen = network(wav)[0], set()
    assert before.shape == (1, before.shape[1], frames)
    middle = frames // 2
    for sample in {0, hop // 2, hop - 1}:  # of one frame; its edges are seen the farthest
        changed = wav.clone()
        changed[..., middle * hop + sample] += 10
        seen |= {frame - middle for frame in moved(before, network(changed)[0], 1)}
    assert max(-min(seen), max(seen)) == context


@torch.no_grad()
@pytest.mark.parametrize("strides", STRIDES, ids=str)
@pytest.mark.parametrize("family", ["dac", "dac short", "snac", "snac dense"])
def test_a_decoder_sees_its_context_and_no_more(family, strides):
    strides = strides[::-1]
    network = amplify(decoder(family, strides))
    hop, context = math.prod(strides), network.context
    frames = 2 * context + 7
    latents = torch.randn(1, 6, frames, dtype=torch.float64) / 100
    loud = []
    network.conv2.register_forward_hook(lambda layer, inputs, output: loud.append(output.abs().max()))
    network(latents)
    network.conv2.weight /= loud[0]  # tanh would flatten what is far above 1
    before = network(latents)[0]
    assert before.shape == (1, 1, frames * hop)
    middle = frames // 2
    changed = latents.clone()
    changed[..., middle] += 1
    seen = [frame - middle for frame in moved(before, network(changed)[0], hop)]
    assert max(-min(seen), max(seen)) == context


@pytest.mark.parametrize("rates, expected", [((2, 4, 8, 8), (8, 10)), ((2, 4, 5, 8), (8, 10))])
def test_the_published_ones_see_so_many_frames(rates, expected):
    hop = math.prod(rates)
    with torch.device("meta"):
        networks = DACEncoder(1024, hop, 64, rates), DACDecoder(1024, hop, 1536, rates[::-1], whole=False, tanh=True)
    assert tuple(network.context for network in networks) == expected
    for network, width in zip(networks, (64, 96)):  # the widest activation is made in slices; no more surroundings than signal
        assert network.block_frames * width * hop <= 8_000_000 and network.block_frames >= 4 * network.context


@torch.no_grad()
@pytest.mark.parametrize("strides, missing", [((8, 5, 4, 2), 8), ((5, 3), 4), ((8, 8), 0)])
def test_what_dac_leaves_out_is_silence_at_the_end_alone(strides, missing):
    torch.manual_seed(0)
    hop = math.prod(strides)
    short = DACDecoder(6, hop, 32, strides, whole=False, tanh=True)
    whole = DACDecoder(6, hop, 32, strides, whole=True, tanh=True)
    whole.load_state_dict(short.state_dict())
    latents = torch.randn(1, 6, 40)
    a, b = short(latents)[0], whole(latents)[0]
    assert a.shape == b.shape == (1, 1, 40 * hop)
    if missing:
        assert (a[..., -missing:] == 0).all() and (a[..., -missing - 1] != 0).all() and (b[..., -missing:] != 0).all()
    inside = (40 - short.context) * hop
    torch.testing.assert_close(a[..., :inside], b[..., :inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda: DACEncoder(6, 8, 4, (2, 5)), lambda: DACEncoder(6, 1, 4, ()), lambda: DACEncoder(6, 1, 4, (1,)),
    lambda: DACDecoder(6, 8, 6, (2, 4), True, True), lambda: SNACEncoder(6, 8, 4, (2, 4), True),
    lambda: SNACDecoder(6, 8, 6, (2, 4), True, True),
])
def test_sizes_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match="strides|halved|wide"):
        make()


# Snake


def formula(x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 7, TILE // 3), (1, 2, TILE + 1), (2, 5, 0), (0, 5, 3)])
def test_snake_by_tiles_is_the_formula(shape):
    torch.manual_seed(0)
    snake, x = Snake(shape[1]), torch.randn(shape)
    snake.alpha.data.uniform_(0, 3)[0] = 0
    with torch.no_grad():
        tiled = snake(x)
    torch.testing.assert_close(tiled, formula(x, snake.alpha.detach()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(snake(x).detach(), tiled, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(snake(x, reuse=True), tiled) and torch.equal(x, tiled)


@torch.no_grad()
def test_snake_takes_any_layout():
    x = torch.randn(2, 40, 6).mT
    assert torch.equal(Snake(6)(x), Snake(6)(x.contiguous()))
    assert torch.equal(Snake(6)(x[..., ::3]), Snake(6)(x[..., ::3].contiguous()))


def test_snake_learns():
    snake = Snake(3).double()
    snake.alpha.data.uniform_(0.5, 2)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, alpha: torch.func.functional_call(snake, {"alpha": alpha}, (x,)), (x, snake.alpha))
