from __future__ import annotations

import pytest
import torch

from quantizers.grouped_rvq import GroupedResidualVQ


def test_codes_are_ordered_by_stage_and_decode_into_their_slice():
    torch.manual_seed(0)
    quantizer = GroupedResidualVQ(6, 6, 8, groups=3)
    codes = torch.randint(8, (2, 6, 5))
    latents = torch.zeros(2, 6, 5)
    for index in range(6):
        group = index % 3
        latents[:, 2 * group : 2 * group + 2] += quantizer.codebooks[index][codes[:, index]].mT
        torch.testing.assert_close(quantizer.decode(codes[:, : index + 1]), latents)


def test_one_group_is_residual_quantization():
    from quantizers.rvq import ResidualVQ

    torch.manual_seed(0)
    grouped, residual = GroupedResidualVQ(6, 3, 16, groups=1), ResidualVQ(6, 3, 16)
    residual.load_state_dict(grouped.state_dict())
    latents = torch.randn(2, 6, 30)
    codes = grouped.encode(latents)
    assert torch.equal(residual.encode(latents), codes) and torch.equal(residual.decode(codes), grouped.decode(codes))


def test_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import GroupedResidualVQ as Reference

    torch.manual_seed(0)
    ours = GroupedResidualVQ(12, 6, 32, groups=2)
    theirs = Reference(dim=12, groups=2, num_quantizers=3, codebook_size=32).eval()
    for index, book in enumerate(ours.codebooks):
        theirs.rvqs[index % 2].layers[index // 2]._codebook.embed.data.copy_(book[None])
    latents = torch.randn(2, 12, 100)
    quantized, indices, _ = theirs(latents.mT)  # indices (groups, B, T, stages)
    codes = ours.encode(latents)
    same = (indices.permute(1, 3, 0, 2).reshape(2, 6, 100) == codes).all(1)
    assert same.float().mean() > 0.99
    torch.testing.assert_close(ours.decode(codes).mT[same], quantized[same], rtol=0, atol=1e-5)


def test_commitment_pulls_a_slice_only_to_its_own_codes():
    """An item that uses one codebook leaves the other slice in peace, though it decodes to 0."""
    quantizer = GroupedResidualVQ(4, 2, 8).eval()
    latents = torch.randn(1, 4, 20, requires_grad=True)
    quantizer(latents, torch.tensor([1])).losses["commitment"].backward()
    assert (latents.grad[:, :2] != 0).all() and (latents.grad[:, 2:] == 0).all()


@pytest.mark.parametrize("settings, remedy", [
    ({"dim": 7}, "dim=7 is not divisible by groups=2: use 6 or 8"),
    ({"num_codebooks": 3}, "num_codebooks=3 is not divisible by groups=2: use 2 or 4"),
    ({"num_codebooks": 1}, "num_codebooks=1 is not divisible by groups=2: use 2"),
    ({"groups": 0}, "groups=0: at least 1"),
    ({"num_codebooks": 0}, "at least 1"),
    ({"decay": 1.5}, "decay=1.5"),
    ({"codebook_size": 65537}, "outside 2..65536"),
])
def test_what_does_not_fit_is_refused(settings, remedy):
    with pytest.raises(ValueError, match=remedy):
        GroupedResidualVQ(**{"dim": 8, "num_codebooks": 4, "codebook_size": 16} | settings)
