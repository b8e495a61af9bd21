from __future__ import annotations

import pytest
import torch

from quantizers.multiscale_rvq import MultiScaleResidualVQ


def make(strides=(4, 2, 1), size: int = 16) -> MultiScaleResidualVQ:
    torch.manual_seed(0)
    return MultiScaleResidualVQ(5, len(strides), size, strides=strides)


@pytest.mark.parametrize("frames", [12, 11, 9, 3, 1])
def test_codes_quantize_the_averages_of_what_is_left(frames):
    """Written out group by group; the last group may be short."""
    quantizer, latents = make(), torch.randn(1, 5, frames)
    codes, residual = quantizer.encode(latents), latents[0].mT.clone()
    for index, stride in enumerate((4, 2, 1)):
        for start in range(0, frames, stride):
            group = residual[start : start + stride]
            nearest = torch.cdist(group.mean(0, keepdim=True), quantizer.codebooks[index]).argmin()
            assert (codes[0, index, start : start + stride] == nearest).all()
            residual[start : start + stride] = group - quantizer.codebooks[index][nearest]
    torch.testing.assert_close(quantizer.decode(codes), latents - residual.mT)


def test_frames_decode_one_by_one():
    quantizer = make()
    codes = torch.randint(16, (2, 3, 7))
    decoded = quantizer.decode(codes)
    for frame in range(7):
        assert torch.equal(quantizer.decode(codes[..., frame : frame + 1])[..., 0], decoded[..., frame])


def test_rates():
    quantizer = make()
    assert quantizer.strides == (4, 2, 1)
    assert quantizer.bits_per_frame() == 4 / 4 + 4 / 2 + 4 and quantizer.bits_per_frame(1) == 1
    for books, strides in ((1, (1,)), (2, (2, 1)), (3, (4, 2, 1)), (4, (8, 4, 2, 1)), (6, (8, 4, 2, 1, 1, 1))):
        assert MultiScaleResidualVQ(4, books, 8).strides == strides


def test_only_frames_that_are_there_are_averaged_in_training():
    quantizer = make().eval()
    latents = torch.randn(2, 5, 8)
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    output = quantizer(latents, mask=mask)
    assert torch.equal(output.codes[1:, :, :3], quantizer.encode(latents[1:, :, :3]))
    assert torch.equal(output.codes[:1], quantizer.encode(latents[:1]))


def test_commitment_pulls_averages_only():
    """With the coarse codebook alone, frames of a group are moved together: their differences are not its business."""
    quantizer, latents = make().eval(), torch.randn(1, 5, 8, requires_grad=True)
    quantizer(latents, torch.tensor([1])).losses["commitment"].backward()
    groups = latents.grad.reshape(5, 2, 4)
    torch.testing.assert_close(groups, groups[..., :1].expand_as(groups))
    assert (groups != 0).all()


@pytest.mark.parametrize("strides, remedy", [
    ((2, 1), "they must be 3"), ((4, 4, 2), "last must be 1"), ((1, 2, 1), "multiple of the next"),
    ((3, 2, 1), "multiple of the next"), ((4, 2, 0), "multiple of the next"), ((1.5, 1, 1), "multiple of the next"),
])
def test_strides_that_do_not_fit_are_refused(strides, remedy):
    with pytest.raises(ValueError, match=remedy):
        MultiScaleResidualVQ(5, 3, 16, strides=strides)
