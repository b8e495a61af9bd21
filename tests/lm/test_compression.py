"""The CompressionModel of audiocraft and moshi."""

from __future__ import annotations

import pytest
import torch
from stream_models import noise

from codec.adapters import adapt
from codec.lm.compression import CompressionModel


@pytest.fixture
def mimi(any_model):
    return CompressionModel(any_model)


def test_what_a_language_model_reads(mimi):
    assert (mimi.sample_rate, mimi.frame_rate, mimi.frame_size, mimi.channels) == (16_000, 100, 160, 1)
    assert (mimi.cardinality, mimi.num_codebooks, mimi.total_codebooks) == (32, 4, 4) and not mimi.is_streaming
    wav = noise(2, 1, 1000)
    assert torch.equal(mimi.encode(wav)[:1], mimi.model.encode(wav[0]).codes)
    mimi.set_num_codebooks(2)
    codes = mimi.encode(wav)
    assert mimi.num_codebooks == 2 and mimi.total_codebooks == 4 and codes.shape == (2, 2, 7)
    result = mimi(wav)
    assert torch.equal(result.codes, codes) and result.bandwidth.tolist() == [1.0, 1.0]
    assert torch.equal(result.x, mimi.decode(codes)[..., :1000])
    assert torch.equal(mimi.encode_to_latent(wav), mimi.decode_latent(codes))
    assert torch.equal(mimi.model.quantizer.encode(mimi.encode_to_latent(wav, quantize=False), 2), codes)


def test_a_stream_is_the_whole(mimi):
    wav = noise(2, 1, 160 * 9)
    codes = mimi.encode(wav)
    audio = mimi.decode(codes)
    with mimi.streaming(2):
        assert mimi.is_streaming
        found = [mimi.encode(frame) for frame in wav.split(160, 2)]
        heard = [mimi.decode(frame) for frame in codes.split(1, 2)]
        last = mimi.flush()
        found, heard = torch.cat([*found, last[0]], 2), torch.cat([*heard, last[1]], 2)
    assert torch.equal(found, codes) and not mimi.is_streaming
    torch.testing.assert_close(heard, audio, rtol=0, atol=1e-5)


def test_items_that_hold_still_and_start_anew(mimi):
    wav = noise(2, 1, 160 * 6)
    mimi.streaming_forever(2)
    first = mimi.encode(wav[..., :320])
    heard = mimi.decode(mimi.model.encode_frames(wav[..., :320], 4))
    mimi.set_exec_mask(torch.tensor([True, False]))
    codes = mimi.encode(wav[..., 320:640])
    assert (codes[1] == -1).all() and (codes[0] >= 0).all() and mimi.decode(codes)[1].abs().max() == 0
    mimi.set_exec_mask(torch.tensor([False, False]))
    assert mimi.decode(codes).shape == (2, 1, 0)
    mimi.set_exec_mask(torch.tensor([True, True]))
    state = mimi.get_streaming_state()
    rest = mimi.encode(wav[..., 640:])
    whole = mimi.model.encode_frames(wav[:1], 4)
    gap = mimi.model.encode_frames(torch.cat([wav[1:, :, :320], wav[1:, :, 640:]], 2), 4)
    assert torch.equal(torch.cat([first[0], codes[0], rest[0]], 1), whole[0])
    assert torch.equal(torch.cat([first[1], rest[1]], 1), gap[0]) and heard.shape[0] == 2
    mimi.set_streaming_state(state)
    assert torch.equal(mimi.encode(wav[..., 640:]), rest)
    mimi.reset_streaming()
    assert torch.equal(mimi.encode(wav[..., :320]), first)


def test_it_can_be_adapted_back(tiny_model):
    back = adapt(CompressionModel(tiny_model))
    wav = noise(1000)
    assert torch.equal(back.encode(wav).codes, tiny_model.encode(wav).codes)


def test_what_does_not_fit_is_refused(mimi):
    for wrong in (torch.zeros(1, 2, 160), torch.zeros(160), torch.zeros(1, 1, 160).long()):
        with pytest.raises(ValueError, match=r"\(B, 1, T\)"):
            mimi.encode(wrong)
    for call in (mimi.reset_streaming, mimi.get_streaming_state, mimi.flush, lambda: mimi.set_exec_mask(torch.ones(1))):
        with pytest.raises(ValueError, match="is not streaming"):
            call()
    with mimi.streaming(1):
        for call, words in ((lambda: mimi.set_num_codebooks(1), "before streaming"), (lambda: mimi.streaming_forever(1), "already"),
                            (lambda: mimi.encode_to_latent(torch.zeros(1, 1, 160)), "whole signals"),
                            (lambda: mimi.set_exec_mask(torch.ones(2)), r"must be \(1,\)")):
            with pytest.raises(ValueError, match=words):
                call()
    with pytest.raises(ValueError, match="5 codebooks are asked for"):
        mimi.set_num_codebooks(5)
