from __future__ import annotations

import math

import pytest
import torch

from quantizers.fsq import FSQ, ResidualFSQ, factors


def bound(quantizer, k=None) -> float:
    """Shannon's: the least mean squared error of unit Gaussian latents at these bits."""
    return 2 ** (-2 * quantizer.bits_per_frame(k) / quantizer.dim)


# FSQ


@pytest.mark.parametrize("levels, books", [
    ((8, 5, 5, 5), 1), ((4,) * 5, 2), ((3,) * 8, 1), ((7, 4, 3), 3), ((4,) * 8, 1), ((16,), 2),
])
def test_agrees_with_vector_quantize_pytorch(levels, books):
    from vector_quantize_pytorch import FSQ as Reference

    torch.manual_seed(0)
    dim = len(levels) * books
    theirs = Reference(levels=list(levels), dim=dim, num_codebooks=books).eval()
    latents = 1.5 * torch.randn(2, dim, 5000)
    quantized, indices = theirs(latents.mT)
    for reconstruction in ("grid", "centroid"):
        ours = FSQ(dim, books, math.prod(levels), levels=levels, reconstruction=reconstruction)
        codes = ours.encode(latents)
        assert torch.equal(codes, indices.reshape(2, 5000, books).mT.long())
        if reconstruction == "grid":
            torch.testing.assert_close(ours.decode(codes).mT, quantized)
            output = ours.eval()(latents)
            torch.testing.assert_close(output.quantized.mT, quantized)


def test_grid_gradients_are_those_of_vector_quantize_pytorch():
    from vector_quantize_pytorch import FSQ as Reference

    latents = torch.randn(1, 4, 50, requires_grad=True)
    weights = torch.randn(1, 4, 50)
    (Reference(levels=[8, 5, 5, 5])(latents.mT)[0].mT * weights).sum().backward()
    expected, latents.grad = latents.grad, None
    ours = FSQ(4, 1, 1000, reconstruction="grid")
    ours.start_from_codebooks()
    output = ours(latents)
    (output.quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, expected)
    assert output.losses["commitment"] == 0  # grid values are none of the latents


def test_agrees_with_vector_quantize_pytorch_behind_a_projection():
    from vector_quantize_pytorch import FSQ as Reference

    torch.manual_seed(0)
    ours = FSQ(20, 2, 64)
    theirs = Reference(levels=[4, 4, 4], dim=20, num_codebooks=2, projection_has_bias=False).eval()
    theirs.project_in.weight.data.copy_(ours.axes().T)
    latents = torch.randn(1, 20, 5000)
    assert (ours.encode(latents) == theirs(latents.mT)[1].mT).float().mean() > 0.9999  # but for sums in another order


def test_centroid_gradients_pass_straight_through():
    quantizer, latents = FSQ(6, 2, 64), torch.randn(2, 6, 9, requires_grad=True)
    quantizer.start_from_codebooks()
    weights = torch.randn_like(latents)
    (quantizer(latents).quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


@pytest.mark.parametrize("dim, books, size, levels", [
    (5, 1, 1024, None), (40, 1, 1024, None), (16, 2, 65536, None), (64, 2, 6561, None), (4, 1, 1000, None),
    (9, 3, 1001, (13, 11, 7)),
])
def test_decoded_latents_have_the_same_codes(dim, books, size, levels):
    torch.manual_seed(0)
    quantizer = FSQ(dim, books, size, levels=levels)
    codes = torch.randint(size, (2, books, 3000))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@pytest.mark.parametrize("size, dim, most", [(6561, 8, 2.5), (1024, 5, 3.6), (1000, 4, 4.7), (65536, 8, 3.6)])
def test_error_is_near_the_shannon_bound(size, dim, most):
    """How near scalar levels come; a random seed gives a hundredth of a decibel more or less."""
    latents = torch.randn(1, dim, 40_000, generator=torch.Generator().manual_seed(0))
    quantizer = FSQ(dim, 1, size)
    error = (quantizer.decode(quantizer.encode(latents)) - latents).square().mean()
    above = 10 * math.log10(error / bound(quantizer))
    print(f"fsq {quantizer.levels}: {above:.2f} dB above the Shannon bound")
    assert 0 < above < most


def test_centroids_are_the_means_of_their_cells():
    latents = torch.randn(1, 2, 400_000, generator=torch.Generator().manual_seed(0))
    quantizer = FSQ(2, 1, 24, levels=(4, 6))
    values = quantizer.decode(quantizer.encode(latents))
    for axis in range(2):
        for value in values[0, axis].unique():
            inside = latents[0, axis][values[0, axis] == value]
            assert abs(inside.mean() - value) < 4 * inside.std() / len(inside) ** 0.5


def test_axes_start_from_the_latents():
    """A plane in many dimensions, far from zero and of another scale: almost nothing is lost but by the levels."""
    torch.manual_seed(0)
    latents = (torch.randn(30, 2) @ torch.randn(4, 2, 500) * 100) + 1000
    quantizer = FSQ(30, 1, 256, levels=(16, 16)).train()
    assert quantizer(latents).stats["relative_error"][0] < 0.03
    assert quantizer.initialized and quantizer.encode(latents).unique().numel() > 150


def test_axes_stay_orthonormal_as_they_learn():
    torch.manual_seed(0)
    quantizer, latents = FSQ(10, 1, 64).train(), torch.randn(4, 10, 50) * torch.logspace(0, -1, 10)[:, None]
    quantizer.start_from_codebooks()
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    errors = []
    for _ in range(60):
        output = quantizer(latents)
        optimizer.zero_grad()
        output.losses["commitment"].backward()
        optimizer.step()
        errors.append(output.stats["relative_error"][0].item())
    axes = quantizer.eval().axes()
    torch.testing.assert_close(axes.T @ axes, torch.eye(3), atol=1e-5, rtol=0)
    codes = torch.randint(64, (1, 1, 500))
    assert errors[-1] < 0.8 * errors[0] and torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_axes_that_changed_are_noticed():
    quantizer, other = FSQ(10, 1, 64), FSQ(10, 1, 64)
    latents = torch.randn(1, 10, 100)
    with torch.inference_mode():
        quantizer.encode(latents)
    quantizer.load_state_dict(other.state_dict())
    assert torch.equal(quantizer.encode(latents), other.encode(latents))
    with torch.no_grad():
        quantizer.projection.copy_(torch.randn(10, 3))
    assert not torch.equal(quantizer.encode(latents), other.encode(latents))


@pytest.mark.parametrize("size, levels", [
    (1024, (4, 4, 4, 4, 4)), (65536, (4,) * 8), (6561, (3,) * 8), (1000, (8, 5, 5, 5)), (16, (4, 4)), (72, (6, 4, 3)),
    (7, (7,)), (11, (11,)),
])
def test_levels_are_found(size, levels):
    assert FSQ(16, 1, size).levels == levels


def test_levels_are_found_for_the_room_there_is():
    assert FSQ(4, 1, 1024).levels == (8, 8, 4, 4) and FSQ(6, 4, 16).levels == (16,)
    assert factors(1024, 8, 3) == ()


@pytest.mark.parametrize("options, message", [
    ({"codebook_size": 1021}, "is no product of at most 8 levels of 3 to 16: take codebook_size=1024"),
    ({"codebook_size": 2}, "take codebook_size=3"),
    ({"codebook_size": 65536, "dim": 3}, "widen the latents, or take fewer or smaller"),
    ({"codebook_size": 65536, "num_codebooks": 9}, "widen the latents, or take fewer or smaller"),
    ({"levels": (4, 1, 4), "codebook_size": 16}, "at least 3"),
    ({"levels": (8, 2), "codebook_size": 16}, "lfq and bsq"),
    ({"levels": (), "codebook_size": 16}, "at least 3"),
    ({"levels": (4, 4), "codebook_size": 17}, "set codebook_size=16, not 17"),
    ({"levels": (4,) * 5, "dim": 4}, "dim=4 is less than the 5 axes"),
    ({"reconstruction": "mean"}, "there is centroid and grid"),
    ({"num_codebooks": 0}, "at least 1 is needed"),
    ({"codebook_size": 100_000}, "outside 2..65536"),
    ({"dim": 0}, "widen the latents"),
    ({"codebook_size": 0}, "outside 2..65536"),
    ({"codebook_size": 10**12}, "outside 2..65536"),
])
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        FSQ(**{"dim": 8} | options)
    assert "\n" not in str(refusal.value)


# Residual


@pytest.mark.parametrize("levels, stages", [((4, 4, 4), 4), ((3, 3), 5), ((8, 5, 3), 3)])
def test_every_stage_comes_nearer(levels, stages):
    latents = torch.randn(1, len(levels), 40_000, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualFSQ(len(levels), stages, math.prod(levels), levels=levels)
    codes = quantizer.encode(latents)
    for k in range(1, stages + 1):
        decoded = quantizer.decode(codes[:, :k])
        assert torch.equal(quantizer.encode(decoded, k), codes[:, :k])
        if len(set(levels)) == 1:
            above = 10 * math.log10((decoded - latents).square().mean() / bound(quantizer, k))
            print(f"residual_fsq {levels} x {k}: {above:.2f} dB above the Shannon bound")
            assert 0 < above < (3.0, 4.0, 4.5, 4.9, 4.9)[k - 1]


@pytest.mark.parametrize("shape", ["gaussian", "laplace", "uniform", "correlated", "few and far"])
def test_error_falls_with_every_stage(shape):
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 5000)
    if shape == "laplace":
        latents = torch.distributions.Laplace(0.0, 1.0).sample((1, 4, 5000))
    elif shape == "uniform":
        latents = torch.rand(1, 4, 5000) * 7
    elif shape == "correlated":
        latents = torch.randn(4, 4) @ latents + 5
    elif shape == "few and far":
        latents[..., ::100] *= 30
    quantizer = ResidualFSQ(4, 8, 256).train()
    error = quantizer(latents).stats["relative_error"]
    assert (error.diff() <= 1e-9).all() and error[-1] < 0.15 and error[0] < 0.85


def test_stages_go_on_below_the_table():
    """Finer than 4096 cells of an axis, each stage still divides the error by the square of its levels."""
    latents = torch.randn(1, 1, 20_000, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualFSQ(1, 9, 4, levels=(4,))
    codes = quantizer.encode(latents)
    errors = [(quantizer.decode(codes[:, :k]) - latents).square().mean().item() for k in range(1, 10)]
    assert all(13 < before / after < 19 for before, after in zip(errors[3:], errors[4:]))


def test_it_is_nearer_than_that_of_vector_quantize_pytorch():
    from vector_quantize_pytorch import ResidualFSQ as Reference

    latents = torch.randn(1, 4, 5000, generator=torch.Generator().manual_seed(0))
    theirs = (Reference(levels=[4] * 4, num_quantizers=3).eval()(latents.mT)[0].mT - latents).square().mean()
    quantizer = ResidualFSQ(4, 3, 256, levels=(4,) * 4)
    assert (quantizer.decode(quantizer.encode(latents)) - latents).square().mean() < 0.1 * theirs


def test_residual_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="take codebook_size=1024"):
        ResidualFSQ(8, 2, 1021)
    with pytest.raises(ValueError, match="at least 3"):
        ResidualFSQ(8, 2, 4, levels=(4, 1))
    with pytest.raises(ValueError, match="1 to 2"):
        ResidualFSQ(8, 2, 64).encode(torch.zeros(1, 8, 3), 3)


@pytest.mark.parametrize("family, codebooks, size", [(FSQ, 1, 256), (ResidualFSQ, 3, 256)])
def test_cells_lie_where_the_latents_are(family, codebooks, size, monkeypatch):
    """Latents on two sides of an axis, skewed and with long tails: cells made for a Gaussian lose more of them."""
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 6000)
    latents[:, 0] = 0.3 * latents[:, 0] + (torch.rand(6000) > 0.6) * 4
    latents[:, 1] = latents[:, 1].exp()
    latents[:, 2] = torch.distributions.StudentT(3.0).sample((6000,))
    errors = []
    for fit in (True, False):
        if not fit:
            monkeypatch.setattr(family, "_fit_cells", lambda self, rows: None)
        quantizer = family(4, codebooks, size)
        quantizer.initialize(latents[..., :3000])
        output = quantizer.eval()(latents[..., 3000:])
        errors.append(output.stats["relative_error"][0])
    assert errors[0] < 0.95 * errors[1], errors


def test_grid_keeps_the_mean_and_the_deviation():
    torch.manual_seed(0)
    latents = 3 * torch.randn(1, 4, 2000).exp() + 5
    quantizer = FSQ(4, 1, 256, reconstruction="grid")
    quantizer.initialize(latents)
    torch.testing.assert_close(quantizer.center, latents.mean((0, 2)))
    torch.testing.assert_close(quantizer.scale, latents.std((0, 2), correction=0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("family, codebooks", [(FSQ, 1), (ResidualFSQ, 2)])
def test_nearly_all_codes_are_used_where_axes_depend_on_each_other(family, codebooks):
    """One tells how loud a frame is, the others are wider in loud ones: cells in the same places for all frames use 69 %
    of the codes, and 64 %, with a third more error."""
    random = torch.Generator().manual_seed(0)
    loud = torch.rand(1, 60_000, generator=random)
    latents = torch.randn(1, 5, 60_000, generator=random) * (0.1 + loud**2)
    latents[:, 0] = 2 * loud + 0.2 * latents[:, 0]
    quantizer = family(5, codebooks)
    quantizer.initialize(latents[..., :10_000])
    codes = quantizer.encode(latents[..., 10_000:])
    assert len(codes[:, 0].unique()) > 0.97 * 1024
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@pytest.mark.parametrize("make", [lambda: FSQ(6, 2, 64), lambda: ResidualFSQ(3, 2, 64)])
def test_states_of_before_there_were_contexts_load(make):
    quantizer, old = make(), make()
    state = old.state_dict()
    del state["cells"]
    quantizer.initialize(torch.randn(1, quantizer.dim, 500).exp())
    quantizer.load_state_dict(state)
    latents = torch.randn(1, quantizer.dim, 500)
    assert torch.equal(quantizer.encode(latents), old.encode(latents))
    assert "cells" not in FSQ(6, 2, 64, reconstruction="grid").state_dict()


@pytest.mark.parametrize("dim", [4, 7])  # the axes as they are, and behind a projection
def test_latents_that_are_all_the_same_start_nothing(dim):
    """The rounding of their mean is no deviation to scale by."""
    quantizer = FSQ(dim, 1, 256)
    quantizer.initialize(torch.full((1, dim, 301), 0.1))
    assert not quantizer.initialized
    quantizer.initialize(torch.randn(1, dim, 500))
    assert quantizer.initialized and torch.allclose(quantizer.scale, torch.ones(4), atol=0.3)


def test_a_start_from_huge_latents_is_finite():
    latents = torch.randn(1, 4, 500, generator=torch.Generator().manual_seed(0))
    quantizer, huge = FSQ(4, 1, 256), FSQ(4, 1, 256)
    quantizer.initialize(latents)
    huge.initialize(1e18 * latents)
    assert (huge.encode(1e18 * latents) == quantizer.encode(latents)).float().mean() > 0.99
