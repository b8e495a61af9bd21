from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quantizers.simvq import SimVQ


def gaussian(dim: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, dim, frames, generator=torch.Generator().manual_seed(seed))


def test_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import SimVQ as Reference

    torch.manual_seed(0)
    ours = SimVQ(8, 1, 64).eval()
    theirs = Reference(dim=8, codebook_size=64).eval()
    theirs.frozen_codebook.copy_(ours.frozen[0])
    theirs.code_transform.weight.data.copy_(ours.maps[0])
    latents = gaussian(8, 2000)
    quantized, indices, _ = theirs(latents.mT)
    codes = ours.encode(latents)
    assert (codes[:, 0] == indices).float().mean() > 0.999  # but for ties
    same = codes[:, 0] == indices
    torch.testing.assert_close(ours.decode(codes).mT[same], quantized[same])


def test_losses_agree_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import SimVQ as Reference

    torch.manual_seed(0)
    ours = SimVQ(8, 1, 64)
    ours.start_from_codebooks()
    theirs = Reference(dim=8, codebook_size=64, rotation_trick=False)
    theirs.frozen_codebook.copy_(ours.frozen[0])
    theirs.code_transform.weight.data.copy_(ours.maps[0])
    latents = gaussian(8, 500)
    losses = ours(latents).losses
    level = latents.mT.sub(latents.mT.mean((0, 1))).square().mean()
    loss = theirs(latents.mT)[2]
    torch.testing.assert_close((losses["codebook"] + 0.25 * losses["commitment"]) * level, loss)
    (losses["codebook"] * level).backward()
    loss.backward()
    torch.testing.assert_close(ours.maps.grad[0], theirs.code_transform.weight.grad)


def test_encode_is_the_nearest_vector_at_every_stage():
    quantizer = SimVQ(6, 3, 33)
    quantizer.initialize(gaussian(6, 1000) + 1)
    latents = gaussian(6, 200, 1) + 1
    codes, residual = quantizer.encode(latents), latents.mT[0].double()
    for stage, book in enumerate(quantizer.codebooks.detach().double()):
        distances = torch.cdist(residual, book, compute_mode="donot_use_mm_for_euclid_dist")
        assert (codes[0, stage] == distances.argmin(1)).float().mean() > 0.99
        residual = residual - book[codes[0, stage]]
    expected = latents.mT[0].double() - residual
    torch.testing.assert_close(quantizer.decode(codes)[0].mT.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim, size, most", [(4, 256, 3.6), (8, 1024, 1.9), (64, 1024, 0.5)])
def test_start_is_near_the_shannon_bound(dim, size, most):
    torch.manual_seed(0)
    quantizer, latents = SimVQ(dim, 1, size), gaussian(dim, 5000, 1)
    quantizer.initialize(gaussian(dim, 5000))
    error = (quantizer.decode(quantizer.encode(latents)) - latents).square().mean()
    above = 10 * math.log10(error / 2 ** (-2 * quantizer.bits_per_frame() / dim))
    print(f"simvq {size} of {dim}: {above:.2f} dB above the Shannon bound")
    assert 0 < above < most


def test_start_knows_which_directions_matter():
    """Of correlated latents far from zero, nearly all codes are in use and the error is well below one code's."""
    torch.manual_seed(0)
    latents = torch.randn(16, 16) * torch.logspace(0, -2, 16) @ gaussian(16, 8000) + 50
    quantizer = SimVQ(16, 2, 256)
    quantizer.initialize(latents[..., :4000])
    output = quantizer.eval()(latents[..., 4000:])
    assert output.stats["relative_error"][0] < 0.25 and output.stats["relative_error"][1] < 0.1
    assert (output.stats["usage"] > 0.95).all()


def test_codes_start_where_latents_are():
    """Of latents in clusters nearly all codes are used; drawn from a Gaussian, many would lie where there are none."""
    torch.manual_seed(0)
    centers = 4 * torch.randn(8, 6)
    latents = (centers[torch.randint(8, (12_000,))] + 0.1 * torch.randn(12_000, 6)).T[None]
    many, few = SimVQ(6, 1, 256), SimVQ(6, 1, 256)
    many.initialize(latents[..., :6000])
    few.initialize(latents[..., :500])  # too few for k-means
    used = [one.eval()(latents[..., 6000:]).stats["usage"].item() for one in (many, few)]
    assert used[0] > 0.98 and used[1] < 0.5, used
    torch.testing.assert_close(many.frozen[0].T @ many.frozen[0] / 256, torch.eye(6) / 6, atol=1e-4, rtol=0)


def test_the_map_learns_what_the_latents_become():
    torch.manual_seed(0)
    quantizer = SimVQ(4, 2, 32).train()
    quantizer.initialize(gaussian(4, 400))
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    errors = []
    for step in range(150):
        output = quantizer(gaussian(4, 400, step) * torch.tensor([3.0, 1.0, 0.3, 0.1])[:, None] + 2)
        optimizer.zero_grad()
        output.losses["codebook"].backward()
        optimizer.step()
        errors.append(output.stats["relative_error"][-1].item())
    assert errors[-1] < 0.1 and errors[-1] < 0.2 * errors[0] and output.stats["usage"].min() > 0.4
    assert quantizer.frozen.grad is None


def test_maps_that_changed_are_noticed():
    quantizer, other, latents = SimVQ(6, 2, 32), SimVQ(6, 2, 32), gaussian(6, 100)
    quantizer.encode(latents)
    quantizer.load_state_dict(other.state_dict())
    assert torch.equal(quantizer.encode(latents), other.encode(latents))
    with torch.inference_mode():
        quantizer.encode(latents)
    with torch.no_grad():
        quantizer.maps.mul_(-1)
    assert not torch.equal(quantizer.encode(latents), other.encode(latents))


def test_gradients_pass_straight_through():
    quantizer, latents = SimVQ(6, 2, 8), gaussian(6, 50).requires_grad_()
    weights = torch.randn(1, 6, 50)
    (quantizer(latents).quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


@pytest.mark.parametrize("options, message", [
    ({"codebook_size": 1}, "outside 2..65536"), ({"num_codebooks": 0}, "at least 1"), ({"dim": 0}, "at least 1 wide"),
])
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimVQ(**{"dim": 8} | options)
