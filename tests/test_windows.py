"""Networks that see all of a signal, on windows of a fixed grid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import soundfile
import torch
from torch import nn

import codec
from codec.coding import Windows
from codec.config import CodecConfig, MirroredSEANetDecoderConfig, MirroredSEANetEncoderConfig, QuantizerConfig
from codec.files import decode_file, encode_file
from codec.model import Codec
from codec.stream import Stream
from codec.tokens import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import windows  # noqa: E402

FRAMES, OVERLAP, HOP = 20, 6, 40


@pytest.fixture(scope="module")
def model():
    """Windows of 20 frames which overlap by 6."""
    shared = {"channels": 4, "window_frames": FRAMES, "overlap_frames": OVERLAP}
    torch.manual_seed(0)
    model = Codec(CodecConfig(
        name="tiny-windows", frame_size=HOP, dim=12, encoder=MirroredSEANetEncoderConfig(strides=(2, 4, 5), **shared),
        decoder=MirroredSEANetDecoderConfig(strides=(5, 4, 2), **shared),
        quantizer=QuantizerConfig(num_codebooks=3, codebook_size=32),
    )).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if "lstm" in name and "weight" in name:
            value *= 3  # far memory
    model.quantizer.codebooks *= 1.5 * model.encoder(noise(1, 4000))[0].std()
    return model


def noise(batch: int, samples: int) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(1))


class Places(nn.Module):
    """Tells which window made an output: the number of the call, and the frame."""

    def __init__(self, window, ragged=False):
        super().__init__()
        self.window, self.ragged, self.seen = window, ragged, []

    def forward(self, x):
        self.seen.append((int(x[0, 0, 0]), x.shape[2]))
        frames = x[:, :, ::2]
        return torch.cat([torch.full_like(frames, len(self.seen) - 1), frames // 2], 1), None


@pytest.mark.parametrize("samples, seen, makers", [
    (19, [(0, 20)], [0] * 10),  # filled up with a zero
    (20, [(0, 20)], [0] * 10),  # one window is the whole signal
    (21, [(0, 20), (12, 10)], [0] * 8 + [1] * 3),
    (32, [(0, 20), (12, 20)], [0] * 8 + [1] * 8),
    (33, [(0, 20), (12, 20), (24, 10)], [0] * 8 + [1] * 6 + [2] * 3),
])
@pytest.mark.parametrize("chunk", [1, 7, 20, 100])
def test_the_grid(samples, seen, makers, chunk):
    """Windows of 10 frames of 2 samples which overlap by 4 frames: two of these from each side."""
    network = Places((10, 4))
    run, x = Windows(network, 2, 1), torch.arange(samples, dtype=torch.float32)[None, None]
    parts = [part for start in range(0, samples, chunk) for part in run.push(x[..., start : start + chunk])]
    out = torch.cat([*parts, *run.finish()], 2)
    assert network.seen == seen
    assert out[0, 0].tolist() == makers
    expected = list(range(len(makers)))
    assert out[0, 1, : samples // 2].tolist() == expected[: samples // 2]


def test_an_odd_overlap_and_none_leave_nothing_out():
    for overlap in (0, 1, 3, 9):
        run = Windows(Places((10, overlap)), 2, 1)
        out = torch.cat(list(run.finish(torch.arange(100.0)[None, None])), 2)
        assert out[0, 1].tolist() == list(range(50))


def test_nothing_comes_of_nothing():
    run = Windows(Places((10, 4)), 2, 1)
    assert list(run.finish()) == []


@pytest.mark.parametrize("samples", [1, 39, 20 * HOP, 20 * HOP + 1, 1234, 3001])
@pytest.mark.parametrize("sizes", [(17,), (1, 900, 40), (100_000,)])
def test_codes_and_samples_do_not_depend_on_chunks(model, samples, sizes):
    wav = noise(2, samples)
    tokens = model.encode(wav)
    live, codes, pcm, start, turn = Stream(model, 2, 3), [], [], 0, 0
    while start < samples:
        size = sizes[turn % len(sizes)]
        codes.append(live.encode(wav[..., start : start + size]))
        pcm.append(live.decode(codes[-1]))
        start, turn = start + size, turn + 1
    codes.append(live.flush())
    pcm += [live.decode(codes[-1]), live.flush_decoder()]
    assert torch.equal(torch.cat(codes, 2), tokens.codes)
    assert torch.equal(torch.cat(pcm, 2)[..., :samples], model.decode(tokens))


@pytest.mark.parametrize("samples", [HOP * FRAMES - 1, 3001])
def test_files_are_on_the_same_grid(model, tmp_path, samples):
    wav = noise(1, samples)[0]
    soundfile.write(tmp_path / "a.wav", wav.numpy().T, 16_000, subtype="FLOAT")
    encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    tokens = model.encode(wav)
    assert torch.equal(Tokens.load(tmp_path / "a.tok").codes, tokens.codes)
    decode_file(model, tmp_path / "a.tok", tmp_path / "b.wav")
    heard = torch.from_numpy(soundfile.read(tmp_path / "b.wav", dtype="float32")[0])
    torch.testing.assert_close(heard, model.decode(tokens)[0, 0].clamp(-1, 1), rtol=0, atol=1e-4)  # 16 bits


def test_a_batch_of_lengths_is_its_items_alone(model):
    lengths = [3000, 801, 2999, 5]
    wav = noise(4, 3000)
    tokens = model.encode(wav, lengths=lengths)
    audio = model.decode(tokens)
    for row, length in enumerate(lengths):
        alone = model.encode(wav[row, :, :length])
        assert torch.equal(tokens.codes[row, :, : alone.codes.shape[2]], alone.codes[0])
        torch.testing.assert_close(audio[row, :, :length], model.decode(alone)[0], rtol=0, atol=1e-5)


def test_short_signals_are_coded_whole_and_long_ones_are_not(model):
    """The network is far-sighted, so windows change codes: how many is measured."""
    for frames, differs in ((FRAMES, False), (5 * FRAMES, True)):
        wav = noise(1, frames * HOP)
        shares = windows.share_of_other_codes(model, wav)
        assert len(shares) == 3 and (max(shares) > 0) == differs and max(shares) < 1
        level = windows.decoded_difference(model, model.encode(wav).codes)
        assert (level > -200) == differs
    assert model.encoder.window == model.decoder.window == (FRAMES, OVERLAP)


def test_more_overlap_makes_fewer_codes_differ(model):
    wav, shares = noise(4, 200 * HOP), []
    for overlap in (0, 6, 16):
        model.encoder.window = (FRAMES, overlap)
        shares.append(sum(windows.share_of_other_codes(model, wav)))
    model.encoder.window = (FRAMES, OVERLAP)
    assert shares[0] > shares[1] >= shares[2]


def test_live_streams_are_refused_with_an_alternative(model, tiny_model):
    with pytest.raises(ValueError, match="tiny-windows sees all of a signal at once.*speech-16k") as error:
        model.stream()
    assert "\n" not in str(error.value)
    tiny_model.stream()


def test_latency_is_that_of_full_windows(model):
    assert model.latency == pytest.approx((1 + 2 * FRAMES) * HOP / 16_000)


def test_windows_that_cannot_be_are_refused(model):
    values = model.config.to_dict()
    values["encoder"] = values["encoder"] | {"overlap_frames": FRAMES}
    with pytest.raises(ValueError, match="windows of 20 frames cannot overlap by 20"):
        Codec(CodecConfig.from_dict(values))


def test_saved_and_loaded_with_its_grid(model, tmp_path):
    codec.save(model, tmp_path)
    assert codec.load(tmp_path).encoder.window == (FRAMES, OVERLAP)
