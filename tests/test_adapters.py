"""Codecs of other libraries behind our face."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
import torch

import codec
from codec.adapters import adapt


class Plain(torch.nn.Module):
    """Sign and level of each frame of 100 samples, as two codebooks of 8."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def codes(self, wav):  # (B, 1, T) -> (B, 2, T')
        frames = wav[:, 0, : wav.shape[2] // 100 * 100].unflatten(1, (-1, 100)).mean(2)
        level = (frames.abs() * 7).round().clamp(0, 7).long()
        return torch.stack([level, (frames > 0).long()], 1)

    def wav(self, codes):
        level = codes[:, 0] / 7
        sign = codes[:, 1] * 2 - 1 if codes.shape[1] > 1 else 1
        return (level * sign).repeat_interleave(100, 1)[:, None] * self.gain


class Audiocraft(Plain):
    sample_rate, frame_rate, cardinality, num_codebooks = 8000, 80, 8, 2

    def encode(self, x):
        return self.codes(x), None

    def decode(self, codes, scale=None):
        return self.wav(codes)


class SpeechTokenizer(Plain):
    sample_rate, downsample_rate, n_q = 8000, 100, 2

    def encode(self, x, n_q=None, st=None):
        return self.codes(x).transpose(0, 1)

    def decode(self, codes, st=0):
        return self.wav(codes.transpose(0, 1))


def steps(frames: int) -> torch.Tensor:
    return (torch.arange(frames).remainder(15) / 7 - 1).repeat_interleave(100)


@pytest.mark.parametrize("make", [
    lambda: adapt(Audiocraft()), lambda: adapt(SpeechTokenizer(), codebook_sizes=(8, 8), name="st"),
])
def test_conventions_with_codebooks_in_any_order(make):
    model = make()
    wav = steps(31)[:-30]
    tokens = model.encode(wav)
    assert tokens.codes.shape == (1, 2, 31) and tokens.bitrate == 80 * 6
    assert (model.frame_rate, model.codebook_size, model.channels) == (80, 8, 1) and math.isnan(model.latency)
    decoded = model.decode(tokens)
    assert decoded.shape == (1, 1, 3070)
    torch.testing.assert_close(decoded[0, 0, :3000], wav[:3000], atol=1e-6, rtol=0)
    assert model.decode(tokens.truncate(1)).min() >= 0  # without the signs
    file = io.BytesIO()
    tokens.save(file)
    assert torch.equal(model.decode(codec.Tokens.load(io.BytesIO(file.getvalue()))), decoded)
    stereo = model.encode(torch.stack([wav, -wav]), sample_rate=8000, num_codebooks=1)
    assert stereo.codes.shape == (2, 1, 31)
    pair = model.encode(torch.stack([wav, wav])[:, None], lengths=[1234, len(wav)])
    assert torch.equal(pair.item(0).codes, model.encode(wav[:1234]).codes)
    assert model.encode(wav, bitrate=240).num_codebooks == 1


def test_tokens_of_other_weights_are_refused():
    one, other = adapt(Audiocraft()), adapt(Audiocraft())
    with torch.no_grad():
        other.outside.gain.fill_(0.5)
    with pytest.raises(ValueError, match="load the model that made them"):
        other.decode(one.encode(steps(3)))


@pytest.mark.parametrize("outside, options, message", [
    (object(), {}, "has no encode and decode"),
    (SimpleNamespace(encode=lambda x: x, decode=lambda x: x), {}, "give adapt[(]convention=...[)]"),
    (SpeechTokenizer(), {}, "does not say its codebook_sizes: give adapt[(]codebook_sizes=...[)]"),
    (SpeechTokenizer(), {"convention": "mine"}, "no convention is called 'mine': there is transformers"),
])
def test_what_does_not_say_enough_is_told(outside, options, message):
    with pytest.raises(ValueError, match=message):
        adapt(outside, **options)


def test_speechtokenizer_says_the_size_of_its_codebooks():
    """As its authors' package keeps it (1.0.1)."""
    outside = SpeechTokenizer()
    outside.quantizer = SimpleNamespace(bins=8)
    assert adapt(outside).codebook_sizes == (8, 8)


def test_what_is_outside_cannot_do_everything():
    model = adapt(Audiocraft())
    with pytest.raises(ValueError, match="cannot stream here"):
        model.stream()
    with pytest.raises(ValueError, match="cannot be trained here"):
        model(torch.zeros(1, 1, 100))
    model.frame = adapt(Audiocraft(), frame_size=50)
    with pytest.raises(ValueError, match="its true frame_size"):
        model.frame.encode(steps(3))


MINE = """
import test_adapters

def outside():
    return test_adapters.Audiocraft()

def ours():
    from codec.adapters import adapt
    return adapt(test_adapters.SpeechTokenizer(), codebook_sizes=(8, 8), name="st")

def broken():
    raise RuntimeError("no\\nweights here")

number = 3
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_a_function_of_a_program_is_a_model_by_name(mine):
    wav = steps(31)
    for name in ("outside", "ours"):
        model = codec.load(f"{mine}:{name}")
        assert torch.equal(model.encode(wav).codes, adapt(Audiocraft()).encode(wav).codes)
        assert model.spec == codec.load(f"{mine}:{name}").spec
        model.release("decoder")  # both halves stay: they are not known apart
        assert model.decode(model.encode(wav)).shape == (1, 1, 3100)


@pytest.mark.parametrize("name, problem", [
    ("broken", "mine.py:broken: RuntimeError: no weights here$"), ("nothing", "mine.py has no function nothing"),
    ("number", "has no function number"),
])
def test_programs_that_give_no_model(mine, name, problem):
    with pytest.raises(ValueError, match=problem):
        codec.load(f"{mine}:{name}")
    with pytest.raises(ValueError, match="no model is named"):
        codec.load(f"elsewhere-{name}.py:outside")


def test_files_are_coded_as_a_whole(mine, tmp_path):
    """What the codec is given is all of a recording, however long."""
    import soundfile

    from codec.files import decode_file, encode_file

    model = codec.load(f"{mine}:outside")
    wav = steps(1234)[:-30].repeat(1, 1) * 0.99
    soundfile.write(tmp_path / "a.wav", wav.numpy().T, 8000, subtype="FLOAT")
    report = encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok")
    assert report.num_frames == 1234 and torch.equal(codec.Tokens.load(tmp_path / "a.tok").codes, model.encode(wav[0]).codes)
    decode_file(model, tmp_path / "a.tok", tmp_path / "b.wav")
    heard, rate = soundfile.read(tmp_path / "b.wav", dtype="float32")
    assert rate == 8000
    expected = model.decode(model.encode(wav[0]))[0, 0].clamp(-1, 32767 / 32768)
    encode_file(model, tmp_path / "a.wav", tmp_path / "one.tok", num_codebooks=1)
    assert decode_file(model, tmp_path / "one.tok", tmp_path / "one.wav").num_codebooks == 1
    torch.testing.assert_close(torch.from_numpy(heard), expected, rtol=0, atol=1 / 32768)


def test_sweeps_know_them_by_name(mine):
    from codec.evaluation.sound import Sound
    from codec.evaluation.systems import build

    (system,) = build([f"{mine}:outside"])
    assert [setting.name for setting in system.settings(None)] == ["k=1", "k=2"] and not system.missing()
    coded = system.code(Sound(steps(31).numpy(), 8000), system.settings(None)[1])
    assert coded.bits == 31 * 6 and coded.sound.wav.shape == (3100,) and system.facts["sizes"] == [8, 8]


def test_info_says_what_is_known(mine, capsys):
    from codec.cli import main

    assert main(["info", f"{mine}:outside"]) == 0
    said = capsys.readouterr().out
    assert "Audiocraft" in said and "latency ms           not known" in said and "encoder parameters   not known" in said


def test_they_are_not_saved_for_transformers():
    pytest.importorskip("transformers")
    from codec.lm import auto

    with pytest.raises(ValueError, match="Audiocraft is coded outside and cannot be saved for transformers"):
        auto.wrap(adapt(Audiocraft()))


def _small(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    seanet = dict(num_filters=4, hidden_size=16, codebook_size=64, codebook_dim=16)
    if name == "encodec":
        config = transformers.EncodecConfig(**seanet, target_bandwidths=[0.9, 1.8], num_lstm_layers=1)
        return transformers.EncodecModel(config).eval()
    if name == "mimi":
        return transformers.MimiModel(transformers.MimiConfig(
            num_filters=4, hidden_size=16, codebook_size=64, codebook_dim=8, vector_quantization_hidden_dimension=8,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8, intermediate_size=16,
            num_quantizers=4, num_semantic_quantizers=1, upsample_groups=16,
        )).eval()
    return transformers.DacModel(transformers.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4], upsampling_ratios=[4, 2], decoder_hidden_size=16,
        hidden_size=16, n_codebooks=3, codebook_size=64, codebook_dim=4,
    )).eval()


@pytest.mark.parametrize("name", ["encodec", "mimi", "dac"])
def test_transformers(name):
    outside = _small(name)
    model = adapt(outside)
    wav = 0.1 * torch.randn(1, 1, 4 * model.frame_size)
    tokens = model.encode(wav)
    with torch.no_grad():
        if name == "encodec":
            codes = outside.encode(wav, bandwidth=1.8).audio_codes[0]
            expected = outside.decode(codes[None], [None]).audio_values
        else:
            codes = outside.encode(wav).audio_codes
            expected = outside.decode(audio_codes=codes).audio_values
    assert tokens.num_codebooks == model.num_codebooks == codes.shape[1]
    assert torch.equal(tokens.codes, codes)
    decoded = model.decode(tokens)
    assert decoded.shape == wav.shape
    length = min(expected.shape[-1], wav.shape[-1])
    assert torch.equal(decoded.flatten()[:length], expected.flatten()[:length])
    assert model.decode(tokens.truncate(1)).shape == wav.shape
