from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

import quantizers
from quantizers.base import Quantizer
from quantizers.beam_search import largest

DIM = 6
FAMILIES = {
    "rvq": ("rvq", {}),
    "kmeans": ("kmeans", {}),
    "simvq": ("simvq", {}),
    "grouped": ("grouped_rvq", {"groups": 2}),
    "factorized": ("factorized_rvq", {"codebook_dim": 5}),
    "factorized_multiscale": ("factorized_rvq", {"codebook_dim": 5, "strides": (4, 2, 2, 1)}),
    "multiscale": ("multiscale_rvq", {"strides": (4, 2, 1, 1)}),
    "split": ("split_rvq", {}),
    "split-narrow": ("split_rvq", {"codebook_dim": 6}),
    "split-parallel": ("split_rvq", {"codebook_dim": 6, "parallel": True}),
    "mvq": ("mvq", {"stages": (2, 1, 1)}),
}
TRAINED_BY_BEAM = ("rvq", "kmeans")
every_family = pytest.mark.parametrize("name", FAMILIES)


def latents_of(frames: int, seed: int = 0, batch: int = 1) -> Tensor:
    """(B, DIM, T), far from zero."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, DIM, frames, generator=random) * torch.logspace(0, -0.7, DIM)[:, None] + 2


def make(name: str, books: int = 4, size: int = 16, **options) -> Quantizer:
    """Started from data."""
    torch.manual_seed(0)
    family, own = FAMILIES[name]
    if "strides" in own:
        own = own | {"strides": own["strides"][-books:]}
    if "stages" in own:
        own = own | {"stages": (2, 1, 1) if books == 4 else (1,) * books}
    quantizer = quantizers.build(family, DIM, books, size, **own | options)
    quantizer.initialize(latents_of(600, seed=1))
    return quantizer.eval()


def error(quantizer: Quantizer, latents: Tensor, codes: Tensor) -> float:
    with torch.no_grad():
        return float((quantizer.decode(codes) - latents).square().mean())


@pytest.mark.parametrize("length", (5, 64, 96, 1024, 8192, 30_000, 65_536))
def test_the_largest_are_those_of_topk(length):
    random = torch.Generator().manual_seed(length)
    for values in (torch.randn(9, length, generator=random), torch.randint(3, (9, length), generator=random).float()):
        for count in (1, 2, 3, 8, 32, min(length, 1024)):
            if count <= length:
                found, where = largest(values, count)
                assert torch.equal(found, values.topk(count, dim=1).values)
                assert torch.equal(values.gather(1, where), found)
                assert all(len(set(row.tolist())) == count for row in where)


@torch.no_grad()
@pytest.mark.parametrize("name", ["rvq", "kmeans", "simvq", "factorized", "factorized_multiscale", "multiscale", "mvq"])
def test_a_beam_as_wide_as_all_choices_finds_the_best_codes(name):
    quantizer, latents = make(name, books=2, size=8), latents_of(40, seed=2)
    codes = quantizer.encode(latents, beam=64)
    group = quantizer.frame_multiple
    turns = sum(group // stride for stride in quantizer.strides)
    every = torch.tensor(list(itertools.product(range(8), repeat=turns)))  # (8^turns, turns)
    holding = [[0] * 2, [1, 2]] if group == 2 else [[0], [1]]
    decoded = quantizer.decode(every[:, holding])  # (8^turns, DIM, group)
    for start in range(0, 40, group):
        part = slice(start, start + group)
        errors = (decoded - latents[..., part]).square().sum((1, 2))
        best = (quantizer.decode(codes[..., part]) - latents[..., part]).square().sum()
        torch.testing.assert_close(best, errors.min(), rtol=1e-4, atol=1e-6)


@every_family
def test_a_frame_alone_has_the_codes_of_a_frame_among_many(name):
    quantizer, latents = make(name, size=33), latents_of(300, seed=2)
    if hasattr(quantizer, "trainer_started"):
        with torch.no_grad():
            quantizer.frozen[:, 1::2] = quantizer.frozen[:, ::2][:, :16] * (1 + 1e-7)
    elif hasattr(quantizer, "codebooks"):  # twins so near that rounding alone decides: it must be the same one
        quantizer.codebooks[:, 1::2] = quantizer.codebooks[:, ::2][:, :16] * (1 + 1e-7)
    for beam in (3, 16):
        codes = quantizer.encode(latents, beam=beam)
        assert torch.equal(quantizer.encode(latents.reshape(1, DIM, 3, 100).transpose(1, 2)[0], beam=beam),
                           codes.reshape(4, 3, 100).transpose(0, 1))
        for start in (0, 4, 132):
            for frames in (4, 8, 20, 100, 168):
                alone = quantizer.encode(latents[..., start : start + frames], beam=beam)
                assert torch.equal(alone, codes[..., start : start + frames]), (beam, start, frames)
        if quantizer.frame_multiple == 1:
            for frame in (0, 7, 299):
                one = slice(frame, frame + 1)
                assert torch.equal(quantizer.encode(latents[..., one], beam=beam), codes[..., one])


@every_family
def test_wider_beams_lower_the_error_and_one_is_greedy(name):
    quantizer, latents = make(name), latents_of(300, seed=2)
    codes = {beam: quantizer.encode(latents, beam=beam) for beam in (1, 4, 32)}
    assert torch.equal(codes[1], quantizer.encode(latents)) and quantizer.beam == 1
    errors = [error(quantizer, latents, code) for code in codes.values()]
    parallel = "parallel" in name  # what is best for each half alone need not be for their sum
    assert errors[2] < errors[1] * 1.01 and (errors[2] < 0.9 * errors[0] or parallel), errors
    quantizer.beam = 4
    assert torch.equal(quantizer.encode(latents), codes[4]) and torch.equal(quantizer.encode(latents, beam=1), codes[1])
    assert torch.equal(make(name, beam=4).encode(latents), codes[4])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "split-parallel"])
def test_rounding_far_from_zero_does_not_blind_a_beam(name):
    torch.manual_seed(0)
    family, own = FAMILIES[name]
    quantizer = quantizers.build(family, DIM, 4, 16, **own)
    quantizer.initialize(latents_of(600, seed=1) * 0.01 + 5)
    quantizer.eval()
    latents = latents_of(300, seed=2) * 0.01 + 5
    greedy, beam = (error(quantizer, latents, quantizer.encode(latents, beam=beam)) for beam in (1, 16))
    assert beam < greedy


@every_family
def test_what_a_beam_codes_survives_decoding_and_encoding(name):
    quantizer, latents = make(name, books=4), latents_of(400, seed=2)
    kept, rise = {}, {}
    for beam in (1, 8):
        codes = quantizer.encode(latents, beam=beam)
        again = quantizer.encode(quantizer.decode(codes), beam=beam)
        kept[beam] = float((codes == again).float().mean())
        rise[beam] = error(quantizer, latents, again) / error(quantizer, latents, codes) - 1
    assert kept[1] < 0.97 and rise[1] > 0.01  # greedily it does not
    assert kept[8] > 0.99 and rise[8] < 0.01, (kept, rise)


@every_family
def test_every_codebook_more_lowers_the_error(name):
    quantizer, latents = make(name), latents_of(300, seed=2)
    codes = quantizer.encode(latents, beam=8)
    errors = [error(quantizer, latents, codes[:, :k]) for k in quantizer.counts]
    if "parallel" not in name:
        assert errors == sorted(errors, reverse=True), errors
    # A search of k codebooks knows of no others, and is better than the first k of all. But a half of a parallel quantizer
    # must see the codes of the other half in what few codebooks decode to.
    most = 1.06 if "parallel" in name else 1.01
    for k in quantizer.counts[:-1]:
        fewer = quantizer.encode(latents, k, beam=8)
        assert fewer.shape == (1, k, 300)
        assert error(quantizer, latents, fewer) <= error(quantizer, latents, codes[:, :k]) * most


def test_semantic_codes_do_not_depend_on_how_many_acoustic_ones_there_are():
    quantizer, latents = make("split-parallel"), latents_of(100, seed=2)
    semantic = quantizer.encode(latents, 1)
    for k in range(1, 5):
        assert torch.equal(quantizer.encode(latents, k, beam=8)[:, :1], semantic)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TRAINED_BY_BEAM])
def test_training_is_greedy(name):
    outputs = []
    for beam in (1, 8):
        torch.manual_seed(3)
        quantizer = make(name, beam=beam).train()
        torch.manual_seed(3)
        outputs.append(quantizer(latents_of(50, seed=2)))
    assert torch.equal(outputs[0].codes, outputs[1].codes) and torch.equal(outputs[0].quantized, outputs[1].quantized)


@pytest.mark.parametrize("name", TRAINED_BY_BEAM)
def test_training_takes_the_codes_that_a_beam_finds(name):
    quantizer, latents = make(name, beam=8), latents_of(300, seed=2)
    quantizer.settle = False
    codes = quantizer.encode(latents)
    output = quantizer(latents)
    assert torch.equal(output.codes, codes) and torch.allclose(output.quantized, quantizer.decode(codes), atol=1e-5)
    assert not torch.equal(codes, quantizer.encode(latents, beam=1))
    fewer = quantizer(latents, active=torch.tensor([2]))  # of the same codes the first
    assert torch.equal(fewer.codes, codes) and torch.allclose(fewer.quantized, quantizer.decode(codes[:, :2]), atol=1e-5)


@pytest.mark.parametrize("name", TRAINED_BY_BEAM)
def test_codebooks_follow_the_rows_that_a_beam_gives_them(name):
    quantizer, latents = make(name, beam=8, decay=0.0), latents_of(600, seed=2)
    quantizer.settle = False
    codes = quantizer.encode(latents)
    left = latents[0].T
    means = []
    for index in range(4):
        vectors = quantizer.codebooks[index].clone()
        means.append({int(code): left[codes[0, index] == code].mean(0) for code in codes[0, index].unique()})
        left = left - vectors[codes[0, index]]
    quantizer.train()(latents)
    for index in range(4):
        for code, mean in means[index].items():
            if (codes[0, index] == code).sum() > 20:  # rare ones may restart
                torch.testing.assert_close(quantizer.codebooks[index, code], mean, atol=1e-3, rtol=1e-3)


def test_a_beam_that_need_not_settle_has_less_error_and_the_same_codes_for_a_frame_alone():
    settled, latents = make("rvq", beam=4), latents_of(300, seed=2)
    free = make("rvq", beam=4, settle=False)
    codes = free.encode(latents)
    assert error(free, latents, codes) < error(settled, latents, settled.encode(latents))
    assert (codes != settled.encode(latents)).any()
    for frame in range(0, 300, 7):
        assert torch.equal(free.encode(latents[..., frame : frame + 1]), codes[..., frame : frame + 1])
    with pytest.raises(ValueError, match="settle=1"):
        make("rvq", settle=1)


@every_family
def test_ends_of_signals_small_codebooks_and_bad_numbers(name):
    quantizer = make(name, size=2)
    for frames in (0, 1, 3, 5):  # also no whole group of frames
        codes = quantizer.encode(latents_of(frames, seed=2, batch=2), beam=64)  # more than there are choices
        assert codes.shape == (2, 4, frames) and codes.dtype == torch.int64
        for stride, held in zip(quantizer.strides, codes.unbind(1)):
            assert torch.equal(held, held[:, torch.arange(frames) // stride * stride])
    codes = quantizer.encode(torch.full((1, DIM, 4), float("nan")), beam=4)
    assert codes.min() >= 0 and codes.max() < 2


@torch.no_grad()
@every_family
def test_changed_codebooks_are_searched(name):
    quantizer, latents = make(name), latents_of(50, seed=2)
    before = quantizer.encode(latents, beam=4)
    for tensor in quantizer.inference_state().values():
        if tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)))
    after = quantizer.encode(latents, beam=4)
    assert torch.equal(copy.deepcopy(quantizer).encode(latents, beam=4), after) and not torch.equal(before, after)


def test_what_has_no_beam_says_so():
    for beam in (0, -1, 1025, 2.0, True):
        with pytest.raises(ValueError, match="beam=.* (at least 1|a whole number)"):
            quantizers.build("rvq", 4, 2, 8, beam=beam)
        with pytest.raises(ValueError, match="beam=.* at least 1"):
            make("rvq").encode(latents_of(3), beam=beam)
    without = (("fsq", 1, 9), ("single", 1, 8), ("product", 2, 8), ("lfq", 1, 4), ("residual_fsq", 2, 9))
    for name, books, size in without:
        quantizer = quantizers.build(name, DIM, books, size).eval()
        with pytest.raises(ValueError, match="without a beam"):
            quantizer.encode(latents_of(3), beam=2)
        assert torch.equal(quantizer.encode(latents_of(3), beam=1), quantizer.encode(latents_of(3)))
    mvq = quantizers.build("mvq", DIM, 3, 16).eval()
    narrow = mvq.encode(latents_of(50), beam=2)
    mvq.beam = 2
    assert torch.equal(mvq.encode(latents_of(50)), narrow)
