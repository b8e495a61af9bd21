"""Continuous latents: what the quantizer sees, and what the decoder hears."""

from __future__ import annotations

import pytest
import torch
from stream_models import NAMES, noise, streamed

import codec
from codec import latents
from codec.adapters import adapt


@pytest.mark.parametrize("name", NAMES)
def test_latents_are_those_between_encoder_and_quantizer(name):
    model, lengths = streamed(name), [2011, 0, 1307]
    wav = noise(3, 1, 2011)
    found = latents.encode(model, wav, lengths)
    whole = latents.encode(model, wav[:1])
    assert found.shape == (3, model.config.dim, whole.shape[2]) and torch.equal(whole, found[:1]) and not found[1].any()
    for row in (0, 2):
        codes = model.encode_frames(wav[row : row + 1, :, : lengths[row]], model.num_codebooks)
        frames = codes.shape[2]
        assert torch.equal(model.quantizer.encode(found[row : row + 1, :, :frames]), codes) and not found[row, :, frames:].any()
        assert torch.equal(latents.decode(model, model.quantizer.decode(codes)), model.decode_frames(codes))
    frames = [whole.shape[2], 0, codes.shape[2]]
    decoded = latents.decode(model, found, frames)
    assert decoded.shape == (3, 1, whole.shape[2] * model.output_frame_size) and not decoded[1].any()
    for row, n in enumerate(frames):
        alone = latents.decode(model, found[row : row + 1, :, :n])
        assert torch.equal(decoded[row : row + 1, :, : alone.shape[2]], alone) and not decoded[row, :, alone.shape[2] :].any()


def test_long_ones_run_in_blocks(tiny_model):
    wav = noise(1, 1, 160 * 1100)
    found, codes = codec.latents.encode(tiny_model, wav), tiny_model.encode_frames(wav, 4)
    assert torch.equal(tiny_model.quantizer.encode(found), codes)
    assert torch.equal(latents.decode(tiny_model, tiny_model.quantizer.decode(codes)), tiny_model.decode_frames(codes))
    assert latents.encode(tiny_model, wav[..., :0]).shape == (1, 12, 0) and latents.decode(tiny_model, found[..., :0]).shape == (1, 1, 0)


def test_what_does_not_fit_is_refused(tiny_model):
    for call in (lambda: latents.encode(tiny_model, torch.zeros(1, 2, 5)), lambda: latents.decode(tiny_model, torch.zeros(1, 11, 5)),
                 lambda: latents.encode(tiny_model, torch.zeros(1, 1, 5).long())):
        with pytest.raises(ValueError, match=r"must be floating-point \(B, 12?, [Tn]\)"):
            call()
    with pytest.raises(ValueError, match="2 numbers from 0 to 5"):
        latents.encode(tiny_model, torch.zeros(2, 1, 5), [5, 6])
    with pytest.raises(ValueError, match="has no latents here"):
        latents.encode(adapt(_Outside()), torch.zeros(1, 1, 100))


class _Outside:
    sample_rate, frame_rate, cardinality, num_codebooks = 8000, 80, 8, 2

    def encode(self, x):
        return x

    def decode(self, x):
        return x
