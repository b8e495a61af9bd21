from __future__ import annotations

import math

import pytest
import torch

from quantizers.lfq import BSQ, LFQ

both = pytest.mark.parametrize("family", [LFQ, BSQ])


@both
@pytest.mark.parametrize("size, books", [(1024, 1), (16, 3), (2, 2)])
def test_agrees_with_vector_quantize_pytorch(family, size, books):
    from vector_quantize_pytorch import LFQ as Reference

    torch.manual_seed(0)
    dim = books * int(math.log2(size))
    ours = family(dim, books, size, reconstruction="grid").eval()
    theirs = Reference(dim=dim, codebook_size=size, num_codebooks=books, spherical=family is BSQ).eval()
    latents = torch.randn(2, dim, 500)
    quantized, indices, _ = theirs(latents.mT)
    assert torch.equal(ours.encode(latents), indices.reshape(2, 500, books).mT.long())
    torch.testing.assert_close(ours.decode(ours.encode(latents)).mT, quantized)


@pytest.mark.parametrize("size, books", [(256, 1), (8, 3)])
def test_entropies_agree_with_vector_quantize_pytorch(size, books):
    from vector_quantize_pytorch import LFQ as Reference

    torch.manual_seed(0)
    bits = int(math.log2(size))
    latents = 0.02 * torch.randn(2, 100, books * bits)
    theirs = Reference(dim=books * bits, codebook_size=size, num_codebooks=books)
    *_, losses = theirs(latents, return_loss_breakdown=True)
    one, batch = LFQ(books * bits, books, size, inv_temperature=100.0).entropies(latents.reshape(200, books, bits))
    torch.testing.assert_close(one, losses.per_sample_entropy, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch, losses.batch_entropy, rtol=1e-3, atol=1e-3)


def test_entropies_of_many_bits_are_those_of_groups():
    torch.manual_seed(0)
    z = 0.5 * torch.randn(300, 1, 11)
    one, batch = LFQ(11, 1, 2048).entropies(z)
    parts = [LFQ(8, 1, 256).entropies(z[..., :8]), LFQ(3, 1, 8).entropies(z[..., 8:])]
    torch.testing.assert_close(one, parts[0][0] + parts[1][0])
    torch.testing.assert_close(batch, parts[0][1] + parts[1][1])
    bits = [LFQ(1, 1, 2).entropies(bit)[1] for bit in z.split(1, 2)]
    torch.testing.assert_close(BSQ(11, 1, 2048).entropies(z)[1], sum(bits))


@both
def test_entropy_loss_spreads_codes_that_fell_together(family):
    torch.manual_seed(0)
    quantizer = family(4, 1, 16, entropy_weight=1.0).train()
    quantizer.start_from_codebooks()
    latents = (torch.randn(1, 4, 200) * 0.1 + 0.25).requires_grad_()
    optimizer = torch.optim.Adam([latents], 0.02)
    before = quantizer(latents).stats["usage"][0]
    for _ in range(100):
        loss = quantizer(latents).losses["entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = quantizer(latents)
    assert before < 0.5 and output.stats["usage"][0] >= 0.75 and -1 <= output.losses["entropy"] < -0.4


def test_entropy_can_be_left_out_and_weighed():
    latents = torch.randn(1, 4, 50)
    assert set(LFQ(4, 1, 16, entropy_weight=0.0)(latents).losses) == {"commitment"}
    one, two = (LFQ(4, 1, 16, entropy_weight=weight)(latents).losses["entropy"] for weight in (0.5, 1.0))
    torch.testing.assert_close(2 * one, two)


@both
def test_decoded_latents_have_the_same_codes(family):
    for reconstruction in ("centroid", "grid"):
        for dim, books, size in ((10, 1, 1024), (33, 2, 65536), (16, 1, 65536)):
            quantizer = family(dim, books, size, reconstruction=reconstruction)
            codes = torch.randint(size, (2, books, 1000))
            assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@both
def test_error_is_near_the_shannon_bound(family):
    """1 - 2 / pi of a bit that says the sign of a unit Gaussian, where the bound is 1 / 4."""
    latents = torch.randn(1, 8, 40_000, generator=torch.Generator().manual_seed(0))
    quantizer = family(8, 1, 256)
    error = (quantizer.decode(quantizer.encode(latents)) - latents).square().mean()
    assert 0.25 < error and abs(error - (1 - 2 / math.pi)) < 0.01
    paper = family(8, 1, 256, reconstruction="grid")
    assert error < (paper.decode(paper.encode(latents)) - latents).square().mean()


def test_lfq_gradients_pass_straight_through():
    quantizer, latents = LFQ(6, 2, 8), torch.randn(2, 6, 9, requires_grad=True)
    quantizer.start_from_codebooks()
    weights = torch.randn_like(latents)
    (quantizer(latents).quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_bsq_gradients_are_those_of_the_sphere():
    quantizer, latents = BSQ(6, 2, 8), torch.randn(1, 6, 9, requires_grad=True)
    quantizer.start_from_codebooks()
    (quantizer(latents).quantized * torch.randn(1, 6, 9)).sum().backward()
    for group in (slice(0, 3), slice(3, 6)):  # a longer latent has the same place on the sphere
        along = (latents.grad[:, group] * latents.detach()[:, group]).sum(1)
        torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-5, rtol=0)
    assert latents.grad.abs().sum(1).min() > 0


@both
@pytest.mark.parametrize("options, message", [
    ({"codebook_size": 1000}, "codebook_size=1000 is no power of 2: take 512 or 1024"),
    ({"codebook_size": 1}, "no power of 2"),
    ({"codebook_size": 131072, "dim": 20}, "outside 2..65536"),
    ({"codebook_size": 1024, "num_codebooks": 2}, "dim=16 is less than the 20 axes of 2 codebooks of 1024"),
    ({"num_codebooks": 0}, "at least 1 is needed"),
    ({"reconstruction": "none"}, "there is centroid and grid"),
    ({"entropy_weight": -1.0}, "entropy_weight=-1.0 is negative"),
    ({"diversity": -1.0}, "diversity=-1.0 is negative"),
    ({"inv_temperature": 0.0}, "must be above 0"),
])
def test_what_does_not_fit_is_refused(family, options, message):
    with pytest.raises(ValueError, match=message):
        family(**{"dim": 16} | options)
