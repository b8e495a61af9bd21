"""The face of `transformers`: loading by the Auto classes, Mimi's and EnCodec's conventions, and models that use a codec."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_models import make_config, make_model
from stream_models import noise, streamed

import codec

transformers = pytest.importorskip("transformers")
from codec.lm import auto, patterns  # noqa: E402
from codec.lm.auto import files  # noqa: E402
from codec.lm.streamer import AudioStreamer  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hub") / "tiny"
    auto.wrap(make_model(make_config())).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(saved):
    return transformers.AutoModel.from_pretrained(saved)


@pytest.fixture(scope="module")
def extractor(saved):
    return transformers.AutoFeatureExtractor.from_pretrained(saved)


def waves(*lengths):
    return [noise(n, seed=n).numpy() for n in lengths]


def test_configuration(model, saved, tiny_model):
    config = transformers.AutoConfig.from_pretrained(saved)
    assert isinstance(config, auto.NeuralCodecConfig) and config.parsed == tiny_model.config
    assert (config.sampling_rate, config.output_sampling_rate, config.audio_channels) == (16_000, 16_000, 1)
    assert (config.frame_size, config.hop_length, config.frame_rate, config.hidden_size) == (160, 160, 100, 12)
    assert (config.num_quantizers, config.num_codebooks, config.codebook_size) == (4, 4, 32)
    assert config.target_bandwidths == [0.5, 1.0, 1.5, 2.0]
    assert auto.NeuralCodecConfig().parsed == codec.CodecConfig()
    with pytest.raises(ValueError, match="no encoder is named 'what'"):
        auto.NeuralCodecConfig(codec={"encoder": {"name": "what"}})


@pytest.mark.parametrize("name", ["fused", "seanet", "encodec", "mimi", "dac", "grouped"])
def test_every_structure_comes_back(name, tmp_path):
    own = streamed(name)
    auto.wrap(own).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.codec.spec == own.spec == codec.load(tmp_path).spec and not loaded.training
    wav = noise(1, 1, 2000)
    codes = own.encode_frames(wav, 4)
    assert torch.equal(loaded.encode(wav).audio_codes, codes)
    assert torch.equal(loaded.decode(codes).audio_values, own.decode_frames(codes))
    assert int(loaded.get_encoded_length(2000)) == codes.shape[2]


def test_padding_changes_nothing(model, extractor, tiny_model):
    wavs = waves(1000, 333, 1)
    inputs = extractor(raw_audio=wavs, sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_values"].shape == (3, 1, 1000) and inputs["padding_mask"].shape == (3, 1000)
    codes = model.encode(**inputs).audio_codes
    mask = model.get_audio_codes_mask(inputs["padding_mask"])
    values = model.decode(codes, inputs["padding_mask"]).audio_values
    assert codes.shape == (3, 4, 7) and mask.sum(1).tolist() == [7, 3, 1] and values.shape == (3, 1, 1000)
    assert model.get_audio_codes_mask(inputs["padding_mask"], "left")[1].tolist() == [False] * 4 + [True] * 3
    for row, wav in enumerate(wavs):
        tokens = tiny_model.encode(wav)
        assert torch.equal(codes[row, :, mask[row]], tokens.codes[0]) and not codes[row, :, ~mask[row]].any()
        assert torch.equal(values[row, 0, : len(wav)], tiny_model.decode(tokens)[0, 0]) and not values[row, 0, len(wav) :].any()
    noisy = inputs["input_values"].clone()
    noisy[1, :, 333:] = 1
    assert torch.equal(model.encode(noisy, inputs["padding_mask"][:, None]).audio_codes, codes)
    empty = inputs["padding_mask"].clone()
    empty[1] = 0
    assert not model.encode(noisy, empty).audio_codes[1].any() and not model.decode(codes, empty).audio_values[1].any()
    output = model(**inputs)
    assert torch.equal(output.audio_codes, codes) and torch.equal(output.audio_values, values)
    assert torch.equal(model(audio_codes=codes).audio_values, tiny_model.decode_frames(codes))


def test_qualities_and_tuples(model, tiny_model):
    wav = noise(2, 1, 800)
    codes = model.encode(wav, num_quantizers=2).audio_codes
    assert torch.equal(codes, tiny_model.encode_frames(wav, 2)) and torch.equal(model.encode(wav, bandwidth=1.0)[0], codes)
    assert torch.equal(model.encode(wav, num_quantizers=2, return_dict=False)[0], codes)
    (values,) = model.decode(codes, return_dict=False)
    assert torch.equal(values, tiny_model.decode_frames(codes))
    assert torch.equal(model.decode(codes[None], audio_scales=[None])[0], values)  # as EnCodec has it
    assert model.encode(wav[..., :0]).audio_codes.shape == (2, 4, 0) and model.decode(codes[..., :0])[0].shape == (2, 1, 0)


def test_streaming_with_a_cache(model, tiny_model):
    wav = noise(2, 1, 1234)
    expected, cache, past, parts, heard = tiny_model.encode_frames(wav, 3), None, None, [], []
    for chunk in wav.split(170, 2):
        out = model.encode(chunk, num_quantizers=3, padding_cache=cache, use_streaming=True)
        cache = out.padding_cache
        parts.append(out.audio_codes)
    parts.append(cache.flush())
    assert torch.equal(torch.cat(parts, 2), expected)
    for frame in expected.split(1, 2):
        out = model.decode(frame, decoder_past_key_values=past, use_cache=True)
        past = out.decoder_past_key_values
        heard.append(out.audio_values)
    heard.append(past.flush_decoder())
    assert torch.equal(torch.cat(heard, 2), tiny_model.decode_frames(expected))


def test_what_does_not_fit_is_refused(model, extractor):
    wav, mask = noise(2, 1, 800), torch.ones(2, 800)
    codes = model.encode(wav).audio_codes
    bad = codes.clone()
    bad[1, 2, 3] = 32
    cache = model.encode(wav, use_streaming=True).padding_cache
    left = mask.clone()
    left[0, :5] = 0
    for call, words in (
        (lambda: model.encode(noise(1, 2, 800)), r"\(B, 1, T\), mono"), (lambda: model.encode(wav * torch.nan), "NaN"),
        (lambda: model.encode(wav, num_quantizers=5), "5 codebooks are asked for"),
        (lambda: model.encode(wav, left), "pad on the right"), (lambda: model.encode(wav, mask[:, :7]), r"\(2, samples\)"),
        (lambda: model.encode(wav, left, use_streaming=True), "leave padding_mask out"),
        (lambda: model.encode(wav[:1], padding_cache=cache), "of 2 items"), (lambda: model.encode(wav, padding_cache=3), "cache is int"),
        (lambda: model.encode(wav, num_quantizers=2, padding_cache=cache), "4 codebooks, not 2 and 2"),
        (lambda: model.decode(bad), "row 1, codebook 2, frame 3: code 32 does not lie in 0 to 31"),
        (lambda: model.decode(bad.float()), "must be integers"),
        (lambda: extractor(raw_audio=waves(50), sampling_rate=8000), "sampling rate of 16000"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_fresh_process_loads_it(saved, tmp_path):
    """Without an import of ours, by the code that lies beside the weights, and without packages that only training needs."""
    script = f"""
import sys
sys.modules.update(dict.fromkeys(["torchaudio", "lightning", "auraloss", "vector_quantize_pytorch", "librosa", "tensorboard"]))
import transformers
model = transformers.AutoModel.from_pretrained({str(saved)!r}, trust_remote_code=True)
extractor = transformers.AutoFeatureExtractor.from_pretrained({str(saved)!r}, trust_remote_code=True)
inputs = extractor(raw_audio=[0.1] * 500, sampling_rate=16_000, return_tensors="pt")
assert model.decode(model.encode(**inputs).audio_codes, inputs["padding_mask"]).audio_values.shape == (1, 1, 500)
assert type(model) is sys.modules["codec.lm.auto"].NeuralCodecModel
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr


def test_weights_that_are_lacking_are_drawn_and_not_left_empty(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    name = next(name for name in state if name.endswith("weight") and "decoder" in name)
    save_file({key: value for key, value in state.items() if key != name}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    loaded = transformers.AutoModel.from_pretrained(tmp_path).state_dict()
    assert loaded[name].isfinite().all() and 0 < loaded[name].abs().max() < 10
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if key != name)
    with pytest.raises(ValueError, match="missing"):
        codec.load(tmp_path)


def test_a_card_and_the_hub(saved, tiny_model, tmp_path, monkeypatch):
    text = (saved / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers") and "# tiny" in text and "4 codebooks of 32 at 100 frames" in text
    assert "PESQ" in files.card(codec.load("speech-16k"))
    uploads = []

    class Api:
        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, name, private, exist_ok):
            assert (private, exist_ok) == (True, True)
            return SimpleNamespace(repo_id=f"me/{name}")

        def file_exists(self, repo_id, name, revision):
            return len(uploads) == 1

        def upload_folder(self, repo_id, folder_path, **_):
            uploads.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))
            return "there"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    model = auto.wrap(tiny_model)
    everything = {"config.json", "model.safetensors", "preprocessor_config.json", "neural_codec.py", "README.md"}
    assert model.push_to_hub("mine", private=True, token="secret") == "there"
    model.save_pretrained(tmp_path / "other", push_to_hub=True, private=True, token="secret")
    assert uploads == [("me/mine", everything), ("me/other", everything - {"README.md"})]


def musicgen(codec_model):
    parts = {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_ff": 16, "d_kv": 8, "vocab_size": 50}
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(**parts),
        audio_encoder=auto.NeuralCodecConfig(codec=codec_model.config.to_dict(), chunk_axis=True),
        decoder=transformers.MusicgenDecoderConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, num_codebooks=4, pad_token_id=32,
            bos_token_id=32, max_position_embeddings=64),
    )
    torch.manual_seed(0)
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    model.audio_encoder = auto.wrap(codec_model, chunk_axis=True)
    model.generation_config.update(
        decoder_start_token_id=32, pad_token_id=32, bos_token_id=32, max_length=20, do_sample=True, guidance_scale=1.0)
    return model


def test_musicgen_sings_with_it(tiny_model):
    """Where EnCodec is expected: prompts are encoded, and what is generated is decoded."""
    model, text, wav = musicgen(tiny_model), torch.tensor([[3, 4, 5]]), noise(1, 1, 800)
    audio = model.generate(input_ids=text, input_values=wav, max_new_tokens=12)
    prompt = tiny_model.decode_frames(tiny_model.encode_frames(wav, 4))
    assert audio.shape[:2] == (1, 1) and audio.shape[2] >= 12 * 160 and audio.shape[2] % 160 == 0
    assert torch.equal(audio[..., :480], prompt[..., :480])  # what the last frames hold is yet to be decoded


def test_its_delay_pattern_is_heard_as_it_is_written(tiny_model):
    model, heard = musicgen(tiny_model), []
    streamer = AudioStreamer(tiny_model, patterns.build("delay", 4, special=32), None, heard.append)
    model._sample = functools.partial(model._sample, streamer=streamer)  # transformers 5.23 forgets to, but for its Melody
    audio = model.generate(input_ids=torch.tensor([[3, 4, 5]]), max_new_tokens=12, streamer=streamer)
    assert audio.shape[2] >= 8 * 160 and len(heard) >= 8
    assert torch.equal(torch.cat(heard), audio[0, 0])


def test_it_can_be_adapted_back(model, tiny_model):
    back, wav = codec.adapters.adapt(model), noise(1000)
    assert torch.equal(back.encode(wav).codes, tiny_model.encode(wav).codes)


def test_a_model_that_is_there_by_half_is_not_wrapped():
    half = make_model(make_config())
    half.release("decoder")
    with pytest.raises(ValueError, match="half of the weights were released: load the model again"):
        auto.wrap(half)
