from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "nn"))
from streaming import random_sizes  # noqa: E402

FRAME = 160


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def live(model, wav: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Codes and audio of (B, 1, T) samples that come in chunks, each decoded at once."""
    codes, audio = [], []
    with model.stream(batch_size=wav.shape[0]) as stream:
        for chunk in wav.split(sizes, dim=2):
            codes.append(stream.encode(chunk))
            audio.append(stream.decode(codes[-1]))
        codes.append(stream.flush())
        audio += [stream.decode(codes[-1]), stream.flush_decoder()]
    return torch.cat(codes, 2), torch.cat(audio, 2)[..., : wav.shape[2]]


def sizes_for(samples: int, seed: int) -> list[int]:
    """Random chunks: some shorter than a frame, some of many frames."""
    return [min(size * 37, rest) for size, rest in _with_rest(random_sizes(-(-samples // 37), seed), samples)]


def _with_rest(sizes: list[int], samples: int):
    for size in sizes:
        yield size, samples
        samples -= size * 37


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_frames_in_any_chunks_are_the_file_bit_by_bit(tiny_model, seed):
    wav = noise(2, 1, 1000 * FRAME - 77)
    tokens = tiny_model.encode(wav)
    codes, audio = live(tiny_model, wav, sizes_for(wav.shape[2], seed))
    assert torch.equal(codes, tokens.codes) and tokens.codes.shape[2] == 1000
    assert torch.equal(audio, tiny_model.decode(tokens))


def test_one_sample_at_a_time(any_model):
    wav = noise(1, 1, 3 * FRAME + 50)
    tokens = any_model.encode(wav)
    codes, audio = live(any_model, wav, [1] * wav.shape[2])
    assert torch.equal(codes, tokens.codes)
    torch.testing.assert_close(audio, any_model.decode(tokens), rtol=0, atol=1e-6)


def test_seanet_differs_only_at_ties(tiny_seanet):
    """At most 1 frame of 100,000, so none of these 300, unless its two nearest codewords are within 1e-5 of each other."""
    wav = noise(1, 1, 300 * FRAME)
    tokens = tiny_seanet.encode(wav)
    codes, audio = live(tiny_seanet, wav, sizes_for(wav.shape[2], seed=0))
    residual = tiny_seanet.encoder(wav)[0][0].T.double()
    undecided = torch.ones(300, dtype=torch.bool)
    for stage, book in enumerate(tiny_seanet.quantizer.codebooks.double()):
        differs = undecided & (codes[0, stage] != tokens.codes[0, stage])
        nearest = torch.cdist(residual, book).square().sort(1).values
        assert (nearest[differs, 1] - nearest[differs, 0] <= 1e-5 * nearest[differs, 1]).all()
        undecided &= ~differs
        residual = residual - book[tokens.codes[0, stage]]
    if undecided.all():
        torch.testing.assert_close(audio, tiny_seanet.decode(tokens), rtol=0, atol=1e-5)


def test_frames_come_out_as_soon_as_they_are_full(any_model):
    """The output is never later than `latency` behind the input."""
    latency = round(any_model.latency * any_model.sample_rate)
    with any_model.stream() as stream:
        got_in = got_out = 0
        for chunk in noise(1, 1, 10 * FRAME).split(40, dim=2):
            got_in += 40
            codes = stream.encode(chunk)
            assert codes.shape == (1, 4, int(got_in % FRAME == 0))
            got_out += stream.decode(codes).shape[2]
            if got_in % FRAME == 0:
                assert got_in - got_out == latency - FRAME
            assert got_in - got_out < latency


def test_parallel_signals_do_not_mix(tiny_model):
    wav = noise(4, 1, 20 * FRAME)
    codes, audio = live(tiny_model, wav, [333] * 9 + [203])
    for row in range(4):
        alone = live(tiny_model, wav[row : row + 1], [333] * 9 + [203])
        assert torch.equal(codes[row : row + 1], alone[0]) and torch.equal(audio[row : row + 1], alone[1])


def test_encoder_and_decoder_of_a_stream_are_independent(tiny_model):
    wav = noise(1, 1, 10 * FRAME)
    tokens = tiny_model.encode(wav, num_codebooks=2)
    with tiny_model.stream(num_codebooks=2) as stream:
        audio = [stream.decode(codes) for codes in tokens.codes.split(3, dim=2)]
        assert torch.equal(stream.encode(wav), tokens.codes)
        audio = torch.cat([*audio, stream.flush_decoder()], 2)
    assert torch.equal(audio, tiny_model.decode(tokens))


def test_a_long_chunk_runs_in_blocks(tiny_model, monkeypatch):
    """An hour that is pushed in at once must not need an hour of activations."""
    monkeypatch.setattr("codec.coding.BLOCK_FRAMES", 10)
    seen = []
    hooks = [
        tiny_model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2] // FRAME)),
        tiny_model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2])),
    ]
    try:
        with tiny_model.stream() as stream:
            stream.decode(stream.encode(noise(1, 1, 35 * FRAME)))
            assert stream._encoding._groups[0][1]._run._pending is None  # no view of the chunk
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == [10, 10, 10, 5] * 2


def test_nothing_in_gives_nothing_out(any_model):
    with any_model.stream(batch_size=2) as stream:
        assert stream.encode(torch.zeros(2, 1, 0)).shape == (2, 4, 0)
        assert stream.decode(torch.zeros(2, 4, 0, dtype=torch.int64)).shape == (2, 1, 0)
        assert stream.flush().shape == (2, 4, 0)
    with any_model.stream() as stream:
        assert stream.flush_decoder().shape == (1, 1, 0)


def test_a_closed_stream_starts_anew(tiny_model):
    wav = noise(1, 1, 5 * FRAME + 9)
    with tiny_model.stream() as stream:
        first = stream.encode(wav)
        stream.decode(first)
    assert torch.equal(stream.encode(wav), first)


def test_bad_samples_are_refused_and_the_stream_goes_on(any_model):
    wav = noise(1, 1, 6 * FRAME)
    with any_model.stream() as stream:
        codes = [stream.encode(wav[..., : 3 * FRAME + 10])]
        for bad, message in (
            (torch.full((1, 1, 200), math.nan), "NaN or infinite"),
            (torch.zeros(1, 1, 200, dtype=torch.int16), "wav / 32768"),
            (torch.zeros(1, 200), "this stream takes"),
            (torch.zeros(2, 1, 200), "this stream takes"),
        ):
            with pytest.raises(ValueError, match=message):
                stream.encode(bad)
        codes.append(stream.encode(wav[..., 3 * FRAME + 10 :]))
    assert torch.equal(torch.cat(codes, 2), any_model.encode(wav).codes)


@pytest.mark.parametrize("codes, message", [
    (torch.zeros(1, 5, 2, dtype=torch.int64), "there are 1 to 4"),
    (torch.zeros(1, 0, 2, dtype=torch.int64), "there are 1 to 4"),
    (torch.full((1, 4, 2), 32), "lie outside 0 to 31"),
    (torch.full((1, 4, 2), -1), "lie outside 0 to 31"),
    (torch.zeros(2, 4, 2, dtype=torch.int64), "this stream takes"),
    (torch.zeros(4, 2, dtype=torch.int64), "this stream takes"),
])
def test_codes_that_are_none_are_refused(tiny_model, codes, message):
    with tiny_model.stream() as stream, pytest.raises(ValueError, match=message):
        stream.decode(codes)


def test_a_stream_carries_at_least_one_signal(tiny_model):
    with pytest.raises(ValueError, match="at least one"):
        tiny_model.stream(batch_size=0)
    with pytest.raises(ValueError, match="1 to 4"):
        tiny_model.stream(num_codebooks=5)
