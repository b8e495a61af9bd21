from __future__ import annotations

import pytest
import torch

from quantizers.product import ProductVQ


def test_every_slice_has_the_nearest_vector_of_its_codebook():
    torch.manual_seed(0)
    quantizer, latents = ProductVQ(6, 3, 16), torch.randn(2, 6, 40)
    codes = quantizer.encode(latents)
    for index, slice in enumerate(latents.chunk(3, 1)):
        assert torch.equal(codes[:, index], torch.cdist(slice.mT, quantizer.codebooks[index]).argmin(2))
        decoded = quantizer.decode(codes)[:, 2 * index : 2 * index + 2]
        assert torch.equal(decoded.mT, quantizer.codebooks[index][codes[:, index]])


def test_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    ours = ProductVQ(12, 3, 32)
    theirs = VectorQuantize(12, 32, heads=3, codebook_dim=4, separate_codebook_per_head=True).eval()
    theirs._codebook.embed.data.copy_(ours.codebooks)
    latents = torch.randn(2, 12, 100)
    assert (theirs(latents.mT)[1].mT == ours.encode(latents)).float().mean() > 0.995


@pytest.mark.parametrize("offset", [0, 300])
def test_what_is_decoded_has_the_same_codes(offset):
    """Also where all vectors are near each other and far from zero."""
    torch.manual_seed(0)
    quantizer = ProductVQ(16, 4, 256).train()
    quantizer.initialize(offset + 0.1 * torch.randn(1, 16, 3000))
    codes = quantizer.encode(offset + 0.1 * torch.randn(2, 16, 500))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_codebooks_only_decode_together():
    quantizer = ProductVQ(8, 4, 16)
    assert quantizer.counts == (4,) and quantizer.bits_per_frame() == 16
    with pytest.raises(ValueError, match="decode together"):
        quantizer.encode(torch.randn(1, 8, 3), 2)
    with pytest.raises(ValueError, match="decode together"):
        quantizer.decode(torch.zeros(1, 2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="active"):
        quantizer.train()(torch.randn(1, 8, 3), torch.tensor([2]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="dim=10 is not divisible by num_codebooks=4: use dim=8 or 12"):
        ProductVQ(10, 4, 16)
    with pytest.raises(ValueError, match="at least 1"):
        ProductVQ(10, 0, 16)
