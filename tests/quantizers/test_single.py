from __future__ import annotations

import pytest
import torch

import quantizers
from quantizers.single import SingleVQ


def test_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    ours, theirs = SingleVQ(8, 1, 200), VectorQuantize(8, 200).eval()
    theirs._codebook.embed.data.copy_(ours.codebooks)
    latents = torch.randn(2, 8, 300)
    quantized, indices, _ = theirs(latents.mT)
    codes = ours.encode(latents)
    same = codes[:, 0] == indices
    assert same.float().mean() > 0.995
    torch.testing.assert_close(ours.decode(codes).mT[same], quantized[same], rtol=0, atol=1e-6)


def test_training_follows_the_averages_of_vector_quantize_pytorch():
    """Ten steps from the same codebook and latents end at the same codebook."""
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    ours = SingleVQ(4, 1, 8, decay=0.9).train()
    ours.prepare_training(frames_per_step=400)
    ours.initialize(torch.randn(1, 4, 2000))
    theirs = VectorQuantize(4, 8, decay=0.9).train()
    inner = theirs._codebook
    inner.load_state_dict(ours.trainer[0].vq._codebook.state_dict())
    for _ in range(10):
        latents = torch.randn(1, 4, 400) + 0.5
        ours(latents)
        theirs(latents.mT)
    torch.testing.assert_close(ours.codebooks, inner.embed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 300])
def test_what_is_decoded_has_the_same_codes(offset):
    torch.manual_seed(0)
    quantizer = SingleVQ(6, codebook_size=500, kmeans_iters=5).train()
    quantizer.initialize(offset + 0.1 * torch.randn(1, 6, 4000))
    codes = quantizer.encode(offset + 0.1 * torch.randn(2, 6, 500))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_a_large_codebook_is_used_after_its_start():
    torch.manual_seed(0)
    quantizer = SingleVQ(6, codebook_size=1024, kmeans_iters=5).train()
    quantizer.initialize(torch.randn(1, 6, 6000))
    assert quantizer.encode(torch.randn(1, 6, 20_000)).unique().numel() > 0.95 * 1024


def test_there_is_one_codebook():
    assert quantizers.build("single", dim=4, num_codebooks=1, codebook_size=16).num_codebooks == 1
    with pytest.raises(ValueError, match="num_codebooks=2: this quantizer has 1; use rvq"):
        SingleVQ(4, 2, 16)
    with pytest.raises(ValueError, match="kmeans_iters=0"):
        SingleVQ(4, 1, 16, kmeans_iters=0)
