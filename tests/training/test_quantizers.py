"""Every quantizer inside the codec: trained, saved, loaded, streamed and through a .tok file, by one line of a recipe."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import soundfile
import torch
from tiny_recipe import corpus, recipe

import codec
import quantizers
from codec.config import ConfigError
from codec.training.recipe import from_dict
from codec.training.run import train

LINES = (
    {"name": "rvq", "num_codebooks": 3, "codebook_size": 16},
    {"name": "rvq", "num_codebooks": 3, "codebook_size": 16, "gradient": "rotation"},
    {"name": "grouped_rvq", "num_codebooks": 4, "codebook_size": 16, "groups": 2},
    {"name": "factorized_rvq", "num_codebooks": 3, "codebook_size": 16, "codebook_dim": 4},
    {"name": "split_rvq", "num_codebooks": 3, "codebook_size": 16},
    {"name": "split_rvq", "num_codebooks": 3, "codebook_size": 16, "parallel": True, "codebook_dim": 4},
    {"name": "multiscale_rvq", "num_codebooks": 3, "codebook_size": 16, "strides": [4, 2, 1]},
    {"name": "factorized_rvq", "num_codebooks": 3, "codebook_size": 16, "codebook_dim": 4, "strides": [4, 2, 1]},
    {"name": "single", "num_codebooks": 1, "codebook_size": 64},
    {"name": "product", "num_codebooks": 4, "codebook_size": 16},
    {"name": "fsq", "num_codebooks": 1, "codebook_size": 1000, "levels": [8, 5, 5, 5]},
    {"name": "residual_fsq", "num_codebooks": 3, "codebook_size": 64},
    {"name": "lfq", "num_codebooks": 1, "codebook_size": 64},
    {"name": "bsq", "num_codebooks": 1, "codebook_size": 64},
    {"name": "simvq", "num_codebooks": 1, "codebook_size": 64},
    {"name": "kmeans", "num_codebooks": 1, "codebook_size": 64},
    {"name": "mvq", "num_codebooks": 4, "codebook_size": 16},
    {"name": "mvq", "num_codebooks": 4, "codebook_size": 16, "stages": [2, 2]},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


def test_every_quantizer_with_a_decoder_is_here():
    assert {line["name"] for line in LINES} == set(quantizers.available()) - {"random_projection"}


@pytest.mark.parametrize("line", LINES, ids=lambda line: "-".join(str(value) for value in line.values()))
def test_by_one_line_of_a_recipe(data, tmp_path, line):
    values = recipe(data, tmp_path / "run")
    values["model"]["quantizer"] = line
    train(from_dict(values), progress=False)
    model = codec.load(tmp_path / "run/tiny/model")
    assert model.config.quantizer.name == line["name"]

    wav, rate = soundfile.read(data / "1.wav", dtype="float32")
    wav = torch.from_numpy(wav[: 97 * 160 + 31])  # 98 frames: no multiple of a stride
    for k in model.quantizer.counts:
        tokens = model.encode(wav, num_codebooks=k)
        group = model.quantizer.frame_multiple
        assert tokens.codes.shape == (1, k, -(-98 // group) * group)
        file = io.BytesIO()
        tokens.save(file)
        again = codec.Tokens.load(io.BytesIO(file.getvalue()))
        assert torch.equal(again.codes, tokens.codes) and again.spec == tokens.spec
        decoded = model.decode(again)
        assert decoded.shape[-1] == len(wav) and torch.isfinite(decoded).all()

    with model.stream() as stream:
        codes = [stream.encode(chunk[None, None]) for chunk in wav.split(701)] + [stream.flush()]
        codes = torch.cat(codes, 2)
        streamed = torch.cat([stream.decode(part) for part in codes.split(5, 2)] + [stream.flush_decoder()], 2)
    assert torch.equal(codes, tokens.codes)
    np.testing.assert_allclose(streamed[0, 0, : len(wav)], decoded[0, 0], atol=1e-5)
    pair = model.encode(torch.stack([wav, wav.flip(0)]).unsqueeze(1))
    assert torch.equal(pair.codes[:1], tokens.codes)
    padded = model.encode(torch.cat([wav, torch.ones(1000)])[None, None], lengths=[len(wav)])
    assert torch.equal(padded.item(0).codes, tokens.codes)


def test_what_does_not_decode_alone_is_refused(data, tmp_path):
    values = recipe(data, tmp_path)["model"] | {"quantizer": {"name": "product", "num_codebooks": 4, "codebook_size": 16}}
    model = codec.Codec(codec.config.CodecConfig.from_dict(values)).eval()
    wav = torch.randn(1, 1, 3200).clamp(-1, 1)
    for refused in (lambda: model.encode(wav, num_codebooks=2), lambda: model.encode(wav).truncate(2)):
        with pytest.raises(ValueError, match="together"):
            refused()
    assert model.encode(wav, bitrate=1600).num_codebooks == 4
    with pytest.raises(ValueError, match="too low: the least is 1600 bit/s, 4 codebooks"):
        model.encode(wav, bitrate=1500)


def test_several_frame_rates_cost_what_they_cost(data, tmp_path):
    line = {"name": "multiscale_rvq", "num_codebooks": 3, "codebook_size": 16, "strides": [4, 2, 1]}
    values = recipe(data, tmp_path)["model"] | {"quantizer": line}
    model = codec.Codec(codec.config.CodecConfig.from_dict(values)).eval()
    assert model.bitrate() == pytest.approx(100 * 4 * (1 / 4 + 1 / 2 + 1))
    assert model.latency == pytest.approx((4 * 160 + 160) / 16000)
    wav = torch.randn(1, 1, 160 * 30).clamp(-1, 1)
    tokens = model.encode(wav)
    assert tokens.bitrate == model.bitrate() and tokens.num_frames == 32  # in whole groups
    assert torch.equal(tokens.codes[:, 0, ::4].repeat_interleave(4, 1), tokens.codes[:, 0])
    file = io.BytesIO()
    tokens[4:28].save(file)
    assert torch.equal(codec.Tokens.load(io.BytesIO(file.getvalue())).codes, tokens.codes[..., 4:28])
    for start, stop in ((3, 8), (4, 7)):
        with pytest.raises(ValueError, match="multiples of 4"):
            tokens[start:stop]


def test_labels_make_no_codec(data, tmp_path):
    values = recipe(data, tmp_path)["model"] | {"quantizer": {"name": "random_projection", "num_codebooks": 1, "codebook_size": 16}}
    with pytest.raises(ConfigError, match="random_projection has no decode"):
        codec.Codec(codec.config.CodecConfig.from_dict(values))


@pytest.mark.parametrize("line, message", [
    ({"name": "nothing"}, "no quantizer is named 'nothing'; there is bsq, factorized_rvq"),
    ({"name": "fsq", "decay": 0.5}, "quantizer fsq has no setting decay; known are name, num_codebooks, codebook_size, levels"),
    ({"name": "rvq", "decay": "fast"}, "decay must be float"),
    ({"name": "fsq", "levels": [8, "x"]}, "levels must be int"),
    ({"name": "grouped_rvq", "groups": 10**9}, "groups is 1e[+]09"),
    ({"name": "multiscale_rvq", "strides": [1] * 1000}, "1000 entries"),
    ({"name": "single", "num_codebooks": 2, "codebook_size": 16}, "quantizer: "),
    ({"name": "grouped_rvq", "num_codebooks": 3, "groups": 2}, "quantizer: "),
    ({"name": "product", "num_codebooks": 3}, "quantizer: "),
])
def test_bad_lines_are_refused(data, tmp_path, line, message):
    values = recipe(data, tmp_path)["model"] | {"quantizer": line}
    with pytest.raises(ConfigError, match=message) as error:
        codec.Codec(codec.config.CodecConfig.from_dict(values))
    assert "\n" not in str(error.value)


def test_bits_of_a_frame():
    quantizer = quantizers.build("rvq", dim=4, num_codebooks=3, codebook_size=1000)
    assert quantizer.bits_per_frame() == pytest.approx(3 * math.log2(1000))
    assert quantizer.bits_per_frame(1) == pytest.approx(math.log2(1000))
