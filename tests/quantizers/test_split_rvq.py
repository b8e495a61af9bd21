from __future__ import annotations

import pytest
import torch

from quantizers.rvq import ResidualVQ
from quantizers.split_rvq import SplitResidualVQ


def make(**options) -> SplitResidualVQ:
    torch.manual_seed(0)
    return SplitResidualVQ(**{"dim": 8, "num_codebooks": 4, "codebook_size": 16} | options)


def test_without_maps_it_codes_as_a_residual_quantizer():
    split, residual, latents = make(), ResidualVQ(8, 4, 16), torch.randn(2, 8, 50)
    residual.load_state_dict(split.state_dict())
    codes = split.encode(latents)
    assert torch.equal(residual.encode(latents), codes)
    torch.testing.assert_close(residual.decode(codes), split.decode(codes))


@pytest.mark.parametrize("options", [{}, {"codebook_dim": 5}, {"codebook_dim": 5, "parallel": True}])
@pytest.mark.parametrize("semantic", [1, 2])
def test_the_halves_add_up(options, semantic):
    quantizer = make(semantic_codebooks=semantic, **options)
    codes = quantizer.encode(torch.randn(2, 8, 30))
    share = quantizer.decode_semantic(codes)
    assert share.shape == (2, 8, 30)
    assert torch.equal(share, quantizer.decode_semantic(codes[:, :semantic]))
    torch.testing.assert_close(share, quantizer.decode(codes[:, :semantic]))
    acoustic = torch.zeros(2, 30, quantizer.codebooks.shape[2])
    for index in range(semantic, 4):
        acoustic += quantizer.codebooks[index][codes[:, index]]
    expected = share + (quantizer.acoustic_out(acoustic) if options else acoustic).mT
    torch.testing.assert_close(quantizer.decode(codes), expected)


@pytest.mark.parametrize("parallel", [False, True])
def test_what_the_acoustic_half_quantizes(parallel):
    """What the semantic one leaves, or the latents themselves."""
    quantizer, latents = make(codebook_dim=5, parallel=parallel), torch.randn(1, 8, 40)
    codes = quantizer.encode(latents)
    source = latents if parallel else latents - quantizer.decode_semantic(codes)
    nearest = torch.cdist(quantizer.acoustic_in(source.mT), quantizer.codebooks[1]).argmin(2)
    assert (nearest == codes[:, 1]).float().mean() > 0.97
    assert torch.equal(torch.cdist(quantizer.semantic_in(latents.mT), quantizer.codebooks[0]).argmin(2), codes[:, 0])


def test_a_teacher_reaches_the_semantic_map_through_decode_semantic():
    quantizer = make(codebook_dim=5)
    codes = quantizer.encode(torch.randn(1, 8, 10))
    quantizer.decode_semantic(codes).square().sum().backward()
    assert quantizer.semantic_out.weight.grad.abs().sum() > 0 and quantizer.acoustic_out.weight.grad is None


@pytest.mark.parametrize("parallel", [False, True])
def test_training_does_not_let_the_scale_run_away(parallel):
    """Straight-through gradients alone would double the maps' norms within these steps."""
    quantizer = make(codebook_dim=4, parallel=parallel).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-3)
    mixing = torch.randn(8, 8)
    for step in range(300):
        latents = mixing @ torch.randn(2, 8, 60)
        output = quantizer(latents)
        optimizer.zero_grad()
        ((output.quantized - latents).square().mean() + output.losses["commitment"]).backward()
        optimizer.step()
        if step == 0:
            first = quantizer.semantic_in.weight.norm().item()
    assert quantizer.semantic_in.weight.norm() < 1.2 * first


def test_codebooks_wider_than_the_latents_start_as_if_they_were_as_wide():
    """As Mimi's may be: what is wider is not used yet."""
    latents = torch.randn(2, 8, 100)
    wide, equal = (make(codebook_dim=width, parallel=True).train() for width in (11, 8))
    for quantizer in (wide, equal):
        torch.manual_seed(1)
        quantizer.initialize(latents)
    assert torch.equal(wide.eval().encode(latents), equal.eval().encode(latents))
    torch.testing.assert_close(wide.decode(wide.encode(latents)), equal.decode(equal.encode(latents)))


@pytest.mark.parametrize("options, remedy", [
    ({"semantic_codebooks": 0}, "at least 1 must be semantic"),
    ({"semantic_codebooks": 4}, "at least 1 must be semantic"),
    ({"num_codebooks": 1}, "at least 1 must be semantic"), ({"codebook_dim": 5000}, "outside 1..4096"),
    ({"codebook_dim": 0}, "outside 1..4096"), ({"parallel": True}, "parallel=True needs codebook_dim"),
])
def test_what_does_not_fit_is_refused(options, remedy):
    with pytest.raises(ValueError, match=remedy):
        make(**options)
