from __future__ import annotations

import pytest
import torch

import quantizers
from quantizers.random_projection import RandomProjectionQuantizer


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("books", [1, 2])
def test_agrees_with_vector_quantize_pytorch(books, norm):
    from vector_quantize_pytorch import RandomProjectionQuantizer as Reference

    torch.manual_seed(0)
    theirs = Reference(dim=24, codebook_size=64, codebook_dim=8, num_codebooks=books, norm=norm).eval()
    ours = RandomProjectionQuantizer(24, books, 64, codebook_dim=8 * books, norm=norm)
    if books == 1:
        ours.projections.copy_(theirs.rand_projs)
    else:  # theirs appends a projection of all codebooks' axes to as many for each
        theirs.vq.project_in.bias.data.zero_()
        first = theirs.rand_projs.permute(1, 0, 2).reshape(24, 16)
        ours.projections.copy_((first @ theirs.vq.project_in.weight.T).reshape(24, books, 16).permute(1, 0, 2))
    ours.codebooks.copy_(theirs.vq._codebook.embed)
    latents = 3 * torch.randn(2, 24, 1000) + 1
    expected = theirs(latents.mT).reshape(2, 1000, books).mT
    assert (ours.encode(latents) == expected).float().mean() > 0.999  # but for ties


def test_codes_of_normalised_frames_ignore_level_and_offset():
    quantizer, latents = RandomProjectionQuantizer(24, 3, 64), torch.randn(1, 24, 500)
    codes = quantizer.encode(latents)
    assert codes.shape == (1, 3, 500) and codes.dtype == torch.int64
    assert (quantizer.encode(100 * latents + 7) == codes).float().mean() > 0.99
    assert (quantizer.encode(latents, 2) == codes[:, :2]).all()
    assert not torch.equal(codes[:, 0], codes[:, 1])


def test_a_frame_alone_has_the_codes_of_a_frame_among_many():
    for dim, width in ((24, 16), (80, 5)):
        quantizer, latents = RandomProjectionQuantizer(dim, 2, 100, codebook_dim=width), torch.randn(1, dim, 400)
        quantizer.codebooks[:, 1::2] = quantizer.codebooks[:, ::2] * (1 + 1e-7)  # so near that rounding alone decides
        codes = quantizer.encode(latents)
        for start in (0, 1, 130):
            for frames in (*range(1, 20), 100, 257):
                part = slice(start, start + frames)
                assert torch.equal(quantizer.encode(latents[..., part]), codes[..., part])


def test_most_codes_are_used():
    quantizer = RandomProjectionQuantizer(40, 2, 1024)
    codes = quantizer.encode(torch.randn(1, 40, 20_000))
    assert all(codes[:, k].unique().numel() > 0.9 * 1024 for k in range(2))


def test_it_has_no_decode_and_says_so():
    quantizer = quantizers.build("random_projection", dim=8, num_codebooks=2, codebook_size=16)
    assert quantizer.decodes is False
    codes = quantizer.encode(torch.zeros(1, 8, 3))
    for refused, given in ((quantizer.decode, codes), (quantizer, torch.zeros(1, 8, 3))):
        with pytest.raises(ValueError, match="random_projection has no decode.*kmeans or rvq") as refusal:
            refused(given)
        assert "\n" not in str(refusal.value)


def test_what_is_saved_codes_alike():
    quantizer, fresh, latents = RandomProjectionQuantizer(8), RandomProjectionQuantizer(8), torch.randn(1, 8, 50)
    fresh.load_state_dict(quantizer.inference_state())
    assert torch.equal(fresh.encode(latents), quantizer.encode(latents))
    assert not list(quantizer.parameters())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="codebook_dim=0"):
        RandomProjectionQuantizer(8, codebook_dim=0)
    with pytest.raises(ValueError, match="outside 2..65536"):
        RandomProjectionQuantizer(8, codebook_size=1)


def clustered(dim: int, frames: int, seed: int) -> torch.Tensor:
    """(1, dim, frames) of few directions, far from zero: as features are, and white noise is not."""
    random = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(0)
    mixing = torch.randn(dim, dim, generator=fixed) * torch.logspace(0, -1.5, dim)
    middle = 3 * torch.randn(dim, 1, generator=fixed)
    return (mixing @ torch.randn(dim, frames, generator=random) + middle)[None]


def test_projections_normalised_by_latents_use_their_codes():
    torch.manual_seed(0)
    quantizer, latents = RandomProjectionQuantizer(40, 2, 1024), clustered(40, 20_000, 3)
    used = [[codes.unique().numel() for codes in quantizer.encode(latents)[0]]]
    quantizer.initialize(clustered(40, 4000, 2))
    used.append([codes.unique().numel() for codes in quantizer.encode(latents)[0]])
    assert max(used[0]) < 0.8 * 1024 and min(used[1]) > 0.99 * 1024, used


def test_normalised_projections_are_saved_and_older_models_load():
    torch.manual_seed(0)
    quantizer, fresh, latents = RandomProjectionQuantizer(8), RandomProjectionQuantizer(8), clustered(8, 300, 0)
    quantizer.initialize(latents)
    fresh.load_state_dict(quantizer.inference_state())
    assert torch.equal(fresh.encode(latents), quantizer.encode(latents))
    old = {name: value for name, value in RandomProjectionQuantizer(8).state_dict().items() if name != "shift"}
    fresh.load_state_dict(old)
    assert not fresh.shift.any()


def test_latents_that_normalise_nothing_are_refused():
    lost = torch.full((1, 8, 99), torch.nan)
    for latents, message in ((torch.zeros(1, 8, 20), "too few"), (lost, "NaN"), (torch.zeros(8, 99), "shape")):
        with pytest.raises(ValueError, match=message):
            RandomProjectionQuantizer(8).initialize(latents)
    constant = RandomProjectionQuantizer(8)
    constant.initialize(torch.ones(1, 8, 99))
    assert torch.isfinite(constant.projections).all() and constant.encode(torch.ones(1, 8, 3)).shape == (1, 1, 3)
