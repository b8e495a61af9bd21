"""The beam of a quantizer's search, from audio to tokens and back."""

from __future__ import annotations

import pytest
import soundfile
import torch

import codec
from codec import Tokens
from codec.config import CodecConfig
from codec.evaluation.probe_tokens import Tokens as Probed
from codec.evaluation.sound import Sound
from codec.evaluation.systems.ours import Ours
from codec.files import encode_file

from small_models import make_config, make_model

RATE = 16_000


@pytest.fixture(scope="module")
def model():
    """With codebooks that fit its latents, coarse to fine."""
    model = make_model(make_config())
    with torch.no_grad():
        latents, _ = model.encoder(torch.randn(4, 1, 40 * model.frame_size, generator=torch.Generator().manual_seed(1)))
        torch.manual_seed(0)
        model.quantizer.initialize(latents)
    return model


@pytest.fixture(scope="module")
def wav():
    return torch.randn(23 * 320 + 77, generator=torch.Generator().manual_seed(2))


def latents_error(model, wav, tokens) -> float:
    frames = tokens.num_frames
    padded = torch.nn.functional.pad(wav, (0, frames * model.frame_size - wav.shape[0]))
    latents, _ = model.encoder(padded[None, None])
    return float((model.quantizer.decode(tokens.codes) - latents).square().mean())


def test_a_beam_is_nearer_and_fits_the_same_decoder(model, wav, tmp_path):
    greedy, wide = model.encode(wav), model.encode(wav, beam=8)
    assert torch.equal(greedy.codes, model.encode(wav, beam=1).codes) and not torch.equal(greedy.codes, wide.codes)
    assert latents_error(model, wav, wide) < latents_error(model, wav, greedy)
    assert wide.spec == greedy.spec and wide.bitrate == greedy.bitrate
    wide.save(tmp_path / "wide.tok")
    loaded = Tokens.load(tmp_path / "wide.tok")
    assert torch.equal(loaded.codes, wide.codes) and loaded.spec == greedy.spec
    assert torch.equal(model.decode(loaded), model.decode(wide))
    for k in range(1, model.num_codebooks):
        assert model.decode(loaded.truncate(k)).isfinite().all()


def test_a_sweep_codes_each_bitrate_as_encode_does(model, wav, tmp_path, monkeypatch):
    monkeypatch.setattr(model.quantizer, "beam", 1)
    codec.save(model, tmp_path / "model")
    system, sound = Ours(str(tmp_path / "model"), "model"), Sound(wav.numpy(), model.sample_rate)
    keys = set()
    for beam in (1, 8):
        system.model.quantizer.beam, system._last = beam, None
        keys.add(system.key)
        for setting in reversed(system.settings(None)):
            k = int(setting.name.removeprefix("k="))
            codes = model.encode(wav, num_codebooks=k, beam=beam).codes[0]
            assert (system.code(sound, setting).codes == codes.numpy()).all(), (beam, k)
    assert len(keys) == 2  # cells that another search coded are not taken for these
    probed = set()
    for beam, settle in ((1, True), (8, True), (8, False)):
        system.model.quantizer.beam, system.model.quantizer.settle = beam, settle
        probed.add(Probed(system.model, tmp_path / "cache").folder)
    assert len(probed) == 3  # nor codes that a probe has kept
    cut = model.encode(wav, beam=8).truncate(2).codes
    assert not torch.equal(cut, model.encode(wav, num_codebooks=2, beam=8).codes)


def test_a_beam_streams(model, wav, tmp_path):
    whole = model.encode(wav, beam=8).codes
    soundfile.write(tmp_path / "in.wav", wav.numpy(), model.sample_rate, subtype="FLOAT")
    encode_file(model, tmp_path / "in.wav", tmp_path / "out.tok", beam=8)
    assert torch.equal(Tokens.load(tmp_path / "out.tok").codes, whole)
    for chunk in (1000, 320, 77):
        with model.stream(beam=8) as stream:
            parts = [stream.encode(part[None, None]) for part in wav.split(chunk)] + [stream.flush()]
        assert torch.equal(torch.cat(parts, 2), whole)
    with model.stream(2, beam=8) as stream:  # a row of a batch, and rows taken away
        part = stream.encode(torch.stack([wav, wav.flip(0)])[:, None, :3200])
        taken = stream.take([0])
        rest = [taken.encode(wav[None, None, 3200:]), taken.flush()]
    assert torch.equal(torch.cat([part[:1], *rest], 2), whole)
    batch = model.encode(torch.stack([wav, wav.flip(0)])[:, None], lengths=[wav.shape[0], 5000], beam=8)
    assert torch.equal(batch.item(0).codes, whole)
    assert torch.equal(batch.item(1).codes, model.encode(wav.flip(0)[:5000], beam=8).codes)
    with pytest.raises(ValueError, match="same beam"):
        model.stream(beam=8).join(model.stream())


def test_a_configuration_has_a_beam_of_its_own(model, wav, tmp_path):
    values = model.config.to_dict()
    assert values["quantizer"]["beam"] == 1
    del values["quantizer"]["beam"]  # as models had it before there were any
    assert CodecConfig.from_dict(values) == model.config
    values["quantizer"]["beam"] = 8
    wide = codec.Codec(CodecConfig.from_dict(values)).eval()
    wide.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(wide.encode(wav).codes, model.encode(wav, beam=8).codes)
    assert wide.spec == model.spec and torch.equal(wide.decode(model.encode(wav)), model.decode(model.encode(wav)))
    values["quantizer"]["beam"] = 0
    with pytest.raises(ValueError, match="quantizer: beam=0: it must be at least 1"):
        codec.Codec(CodecConfig.from_dict(values))


def test_a_beam_that_there_is_not(model, wav, tmp_path):
    soundfile.write(tmp_path / "in.wav", wav.numpy(), RATE)
    for attempt in (
        lambda: model.encode(wav, beam=0), lambda: model.stream(beam=0),
        lambda: encode_file(model, tmp_path / "in.wav", tmp_path / "out.tok", beam=0),
    ):
        with pytest.raises(ValueError, match="beam=0: it must be at least 1"):
            attempt()
    assert not (tmp_path / "out.tok").exists()
