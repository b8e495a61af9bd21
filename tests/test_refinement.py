"""Analysis by synthesis: nearer to the recording, the same in files, batches and parts, and refused where it cannot be."""

from __future__ import annotations

import pytest
import soundfile
import torch
from small_models import make_config, make_model, make_seanet_config

import codec
from codec import refinement
from codec.cli import main
from codec.config import QuantizerConfig
from codec.evaluation import systems
from codec.evaluation.sound import Sound
from codec.files import encode_file
from codec.refinement import AHEAD, BLOCK, LOSSES, Refinement
from codec.training.losses import SpectralLosses

RATE = 16_000


@pytest.fixture(scope="module")
def noise():
    """Five and a bit seconds: a block, and a last one that ends within a frame."""
    generator = torch.Generator().manual_seed(0)
    envelope = 0.2 + torch.sin(torch.arange(84_321) / 900) ** 2
    return 0.1 * envelope * torch.randn(84_321, generator=generator)


def far(decoded, wav, model):
    decoded, wav = (torch.as_tensor(each).view(1, 1, -1) for each in (decoded, wav))
    return SpectralLosses(RATE, LOSSES)(decoded, wav).total.item()


def test_speech_comes_nearer(speech):
    pesq, stoi = pytest.importorskip("pesq").pesq, pytest.importorskip("pystoi").stoi
    model, wav = codec.load("speech-16k"), speech[: 4 * RATE]
    plain, refined = (model.decode(model.encode(wav, num_codebooks=4, refine=steps)).flatten() for steps in (0, 12))
    better, worse = ([pesq(RATE, wav.numpy(), d.numpy(), "wb"), stoi(wav.numpy(), d.numpy(), RATE)] for d in (refined, plain))
    assert better[0] > worse[0] + 0.15 and better[1] > worse[1] + 0.02


def test_the_voice_comes_nearer(speech):
    model, wav = codec.load("speech-16k"), speech[: 4 * RATE]
    plain, refined = (model.decode(model.encode(wav, num_codebooks=3, refine=steps)).view(1, 1, -1) for steps in (0, 12))
    voice = SpectralLosses(RATE, [{"name": "speaker"}])
    assert voice(refined, wav.view(1, 1, -1)).total < 0.7 * voice(plain, wav.view(1, 1, -1)).total


@pytest.mark.parametrize("seconds", [0.0001, 0.02, 0.5, 3.99, 5.2])
def test_the_shape_of_codes_stays(tiny_model, noise, seconds):
    wav = noise[: max(1, round(seconds * RATE))]
    plain, refined = (tiny_model.encode(wav, refine=steps) for steps in (0, 3))
    assert refined.codes.shape == plain.codes.shape and refined.num_samples == plain.num_samples


@pytest.mark.parametrize("rate", [1e-3, 3.0])
def test_codes_are_never_farther(speech, rate, monkeypatch):
    """However bad the steps are: the codes of before are among those that are chosen from."""
    monkeypatch.setattr("codec.refinement.RATE", rate)
    model, wav = codec.load("speech-16k"), speech[: 2 * RATE]
    before, after = (far(model.decode(model.encode(wav, refine=steps)).flatten(), wav, model) for steps in (0, 2))
    assert after <= before + 1e-5


def test_more_steps_come_nearer(tiny_model, noise):
    wav = noise[: 3 * RATE]
    found = [far(tiny_model.decode(tiny_model.encode(wav, refine=steps)).flatten(), wav, tiny_model) for steps in (0, 3, 12)]
    assert found[0] > found[1] > found[2]


def test_commitment_keeps_latents_near_their_codes(tiny_model, noise, monkeypatch):
    distances, quantized = {}, Refinement._quantized

    def measured(self, latents):
        codes, found = quantized(self, latents)
        distances[weight] = (latents - found).square().mean().item()  # of the last step in the end
        return codes, found

    monkeypatch.setattr(Refinement, "_quantized", measured)
    for weight in (0.0, 1000.0):
        monkeypatch.setattr("codec.refinement.COMMITMENT", weight)
        tiny_model.encode(noise[:RATE], refine=8)
    assert distances[1000.0] < 0.7 * distances[0.0]


@pytest.mark.parametrize("name", ["tiny_model", "tiny_seanet"])
def test_alone_in_a_batch_in_parts_and_from_a_file(name, request, noise, tmp_path):
    model = request.getfixturevalue(name)
    whole = model.encode(noise, refine=2).codes
    assert (whole != model.encode(noise).codes).any()
    short = noise[:30_001]
    batch = torch.zeros(2, 1, len(noise))
    batch[0, 0], batch[1, 0, : len(short)] = noise, short
    both = model.encode(batch, lengths=[len(noise), len(short)], refine=2).codes
    assert torch.equal(both[:1], whole)
    alone = model.encode(short, refine=2).codes
    assert torch.equal(both[1:, :, : alone.shape[2]], alone)

    for size in (model.frame_size * 50, 7_777, 80_000):
        coding = Refinement(model, 1, model.num_codebooks, 2)
        parts = [coding.push(part.view(1, 1, -1)) for part in noise[:80_000].split(size)]
        assert sum(part.shape[2] for part in parts) == round(BLOCK * model.frame_rate)
        assert torch.equal(torch.cat([*parts, coding.finish(noise[80_000:].view(1, 1, -1))], 2), whole)

    soundfile.write(tmp_path / "in.wav", noise.numpy(), RATE, subtype="FLOAT")
    encode_file(model, tmp_path / "in.wav", tmp_path / "a.tok", refine=2)
    assert torch.equal(codec.Tokens.load(tmp_path / "a.tok").codes, whole)


def test_from_the_command_line(tiny_model, noise, tmp_path):
    codec.save(tiny_model, tmp_path / "model")
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise[:RATE].numpy(), RATE, subtype="FLOAT")
    options = ["--model", str(tmp_path / "model"), "--refine", "2"]
    assert not main(["encode", str(tmp_path / "in" / "a.wav"), str(tmp_path / "a.tok"), *options])
    assert not main(["encode", str(tmp_path / "in"), str(tmp_path / "out"), *options])
    wanted = codec.load(tmp_path / "model").encode(noise[:RATE], refine=2).codes
    for path in (tmp_path / "a.tok", tmp_path / "out" / "a.tok"):
        assert torch.equal(codec.Tokens.load(path).codes, wanted)
    assert (wanted != tiny_model.encode(noise[:RATE]).codes).any()


@pytest.mark.parametrize("name", ["tiny_model", "tiny_seanet"])
def test_what_is_compared_is_what_will_be_heard(name, request, noise, monkeypatch):
    """Over two blocks: where they meet, before the start and behind the end, too."""
    model, compared = request.getfixturevalue(name), []
    forward = SpectralLosses.forward
    monkeypatch.setattr(SpectralLosses, "forward", lambda self, *pair: compared.append([x[0, 0].detach() for x in pair]) or forward(self, *pair))
    tokens = model.encode(noise, refine=3)
    border, behind = (round(s * model.frame_rate) * model.frame_size - model.decoder.delay for s in (BLOCK, BLOCK + AHEAD))
    decoded = model.decode_frames(tokens.codes)[0, 0]
    wav = torch.cat([noise, torch.zeros(len(decoded) - len(noise))])
    first, second = compared[:4], compared[4:]
    assert len(second) == 4
    for _, target in first:
        assert torch.equal(target, wav[:behind])  # the end of the block is heard whole
    for _, target in second:
        assert torch.equal(target, wav[border:])
    assert min((audio[:border] - decoded[:border]).abs().max() for audio, _ in first) < 1e-5
    assert min((audio - decoded[border:]).abs().max() for audio, _ in second) < 1e-5


@pytest.fixture(scope="module")
def equalized():
    """A model that brings recordings near a spectrum."""
    return make_model(make_config(level=-25.0, spectrum=(-40.0, -34.0, -30.0, -32.0, -36.0, -40.0, -44.0)))


def test_what_is_compared_has_no_equalizer(equalized, noise, monkeypatch):
    """Recording and decoded audio are heard as they will be, but for the gain."""
    compared, forward, wav = [], SpectralLosses.forward, noise[: 2 * RATE]
    monkeypatch.setattr(SpectralLosses, "forward", lambda self, *pair: compared.append([x[0, 0].detach() for x in pair]) or forward(self, *pair))
    tokens = equalized.encode(wav, refine=3, normalize=True)
    (gain_db,), (eq_db,) = tokens.correction.gain_db, tokens.correction.eq_db
    assert min(eq_db) < -3 and max(eq_db) > 3 and len(compared) == 4
    gain, decoded = 10 ** (gain_db / 20), equalized.decode(tokens).flatten()
    for _, target in compared:
        assert torch.allclose(target, gain * wav, atol=1e-5)
    assert min((audio - gain * decoded).abs().max() for audio, _ in compared) < 1e-5


def test_equalized_alone_in_a_batch_and_from_a_file(equalized, noise, tmp_path):
    """Each row hears without its own equalizer."""
    bright, dull = noise.clone(), noise[:50_001].cumsum(0)
    batch = torch.zeros(3, 1, len(noise))
    batch[0, 0], batch[1, 0, : len(dull)], batch[2, 0] = bright, dull, torch.cat([dull, dull])[: len(noise)]
    lengths = [len(noise), len(dull), len(noise)]
    both = equalized.encode(batch, lengths=lengths, refine=2, normalize=True)
    assert len(set(both.correction.eq_db)) == 3
    for index, length in enumerate(lengths):
        alone = equalized.encode(batch[index, :, :length], refine=2, normalize=True)
        assert torch.equal(both.item(index).codes, alone.codes) and both.item(index).correction == alone.correction

    with pytest.raises(ValueError, match="eq_db has 1 rows, and must have 2"):
        Refinement(equalized, 2, 4, 2, eq_db=both.correction.eq_db[:1])

    soundfile.write(tmp_path / "in.wav", batch[[0, 2], 0].T.numpy(), RATE, subtype="FLOAT")
    encode_file(equalized, tmp_path / "in.wav", tmp_path / "a.tok", refine=2)
    found = codec.Tokens.load(tmp_path / "a.tok")
    assert torch.equal(found.codes, both.codes[[0, 2]]) and found.correction == both.correction.of(slice(0, 3, 2))


def test_silence_stays_silence(speech):
    model = codec.load("speech-16k")
    wav = torch.cat([torch.zeros(2 * RATE), 0.3 * speech[: 2 * RATE]])
    for one in (torch.zeros(RATE), wav):
        decoded = model.decode(model.encode(one, refine=3)).flatten()
        assert decoded[: round(0.9 * RATE)].square().mean().sqrt() < 10 ** (-70 / 20)


@pytest.mark.parametrize("gain", [0.1, 30.0])
def test_quiet_and_loud_recordings_come_nearer_too(tiny_model, noise, gain):
    wav = gain * noise[: 2 * RATE]
    before, after = (far(tiny_model.decode(tiny_model.encode(wav, refine=steps)).flatten(), wav, tiny_model) for steps in (0, 6))
    assert after < before


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_the_losses_take_the_rates_of_codecs(rate):
    wav = 0.1 * torch.randn(2, 1, rate // 2, generator=torch.Generator().manual_seed(0))
    assert SpectralLosses(rate, LOSSES)(wav[:1], wav[1:]).total > 0


def test_the_beam_and_the_losses_are_those_asked_for(noise):
    model, wav = make_model(make_config()), noise[: 2 * RATE].view(1, 1, -1)
    codes = {beam: model.encode(wav, beam=beam, refine=2).codes for beam in (1, 4)}
    assert (codes[1] != codes[4]).any()
    by_waveform = Refinement(model, 1, 4, 6, losses=[{"name": "waveform"}]).finish(wav)
    near = [(model.decode_frames(c)[..., : 2 * RATE] - wav).abs().mean() for c in (model.encode(wav).codes, by_waveform)]
    assert near[1] < near[0] and (by_waveform != model.encode(wav, refine=6).codes).any()


def test_each_of_its_losses_has_a_say(speech):
    model, wav = codec.load("speech-16k"), speech[: 2 * RATE].view(1, 1, -1)
    codes = Refinement(model, 1, 4, 4).finish(wav)
    assert [loss["name"] for loss in LOSSES] == ["compressed_stft", "pesq", "stoi", "speaker"]
    without = [[*LOSSES[:number], *LOSSES[number + 1 :]] for number in range(len(LOSSES))]
    without.append([*LOSSES[:-1], {"name": "speaker", "weight": LOSSES[-1]["weight"]}])  # without what is heard on the way
    for losses in without:
        assert not torch.equal(codes, Refinement(model, 1, 4, 4, losses=losses).finish(wav))
    assert torch.equal(codes, Refinement(model, 1, 4, 4, losses=LOSSES).finish(wav))


def test_codes_that_are_held_for_several_frames(noise):
    model = make_model(make_config(quantizer=QuantizerConfig("multiscale_rvq", 3, 32, {"strides": (4, 2, 1)})))
    tokens = model.encode(noise, refine=2)
    plain = model.encode(noise)
    assert tokens.codes.shape == plain.codes.shape and (tokens.codes != plain.codes).any()
    held = tokens.codes[0, 0].view(-1, 4)
    assert (held == held[:, :1]).all()


def test_it_leaves_no_gradients_behind_and_works_where_none_are_kept(noise):
    model, wav = make_model(make_seanet_config()).requires_grad_(True), noise[:RATE]
    codes = model.encode(wav, refine=2).codes
    assert not codes.requires_grad and all(weight.grad is None for weight in model.parameters())
    with torch.inference_mode():
        assert torch.equal(model.encode(wav.clone(), refine=2).codes, codes)


def test_refusals(noise, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise[:RATE].numpy(), RATE)

    def refused(model, words, refine=2):
        with pytest.raises(ValueError, match=words):
            model.encode(noise, refine=refine)
        with pytest.raises(ValueError, match=words):
            encode_file(model, tmp_path / "in" / "a.wav", tmp_path / "a.tok", refine=refine)
        assert not (tmp_path / "a.tok").exists()

    for steps in (-1, 2.5, "3"):
        refused(make_model(make_config()), f"refine={steps}: give the number of steps", steps)
    blind = make_model(make_config())
    blind.decoder.context = 3
    refused(blind, "only those of causal ones are refined: leave it out")
    refused(make_model(make_config(sample_rate=8000)), "at 16000 Hz or more, and tiny has 8000 Hz: leave it out")
    refused(make_model(make_config(output_sample_rate=32_000)), "cannot be compared: leave it out")
    with torch.inference_mode():
        loaded = make_model(make_config())
    refused(loaded, "load it outside")

    codec.save(make_model(make_config(sample_rate=8000)), tmp_path / "slow")
    for source, target in (("in", "out"), ("in/a.wav", "out.tok")):
        assert main(["encode", str(tmp_path / source), str(tmp_path / target), "--model", str(tmp_path / "slow"), "--refine", "2"]) == 1
        assert capsys.readouterr().err.count("16000 Hz or more") == 1 and not (tmp_path / target).exists()


def test_a_folder_done_before_is_not_taken_for_refined(tiny_model, noise, tmp_path, capsys):
    codec.save(tiny_model, tmp_path / "model")
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise[:RATE].numpy(), RATE)
    command = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    assert not main(command) and not main(command)
    assert "--refine" not in capsys.readouterr().err
    assert not main([*command, "--refine", "2"])
    assert "1 file done before, maybe with another --refine" in capsys.readouterr().err


def test_a_sweep_refuses_at_once(tmp_path):
    codec.save(make_model(make_config(sample_rate=8000)), tmp_path / "slow")
    (system,) = systems.build([str(tmp_path / "slow") + "+2"])
    for _ in range(2):
        with pytest.raises(ValueError, match="16000 Hz or more"):
            system.settings(None)
    with pytest.raises(systems.SystemsError, match="opus is none: leave out"):
        systems.build(["opus+30"])


def test_a_sweep_refines_each_bitrate(tiny_model, noise, tmp_path):
    codec.save(tiny_model, tmp_path / "tiny")
    plain, refined = systems.build([str(tmp_path / "tiny"), str(tmp_path / "tiny") + "+8"])
    assert refined.name == plain.name + "+8" and refined.key != plain.key
    (again,) = systems.build([refined.source])
    assert (again.name, again.key) == (refined.name, refined.key)
    wav, model = noise[:RATE], plain.model
    for setting in refined.settings(None):
        k = int(setting.name.removeprefix("k="))
        codes = refined.code(Sound(wav.numpy(), RATE), setting).codes
        assert (codes == model.encode(wav, num_codebooks=k, refine=8).codes[0].numpy()).all()
    assert (codes != model.encode(wav).codes[0].numpy()).any()  # of all codebooks


def test_a_sweep_does_not_keep_what_was_refined_otherwise(tiny_model, tmp_path, monkeypatch):
    codec.save(tiny_model, tmp_path / "tiny")
    (refined,) = systems.build([str(tmp_path / "tiny") + "+8"])
    before = refined.key
    monkeypatch.setattr(refinement, "LOSSES", refinement.LOSSES[:-1])
    assert refined.key != before


def test_a_folder_may_be_named_so(tiny_model, tmp_path):
    codec.save(tiny_model, tmp_path / "tiny+2")
    (system,) = systems.build([str(tmp_path / "tiny+2")])
    assert system.source == str(tmp_path / "tiny+2") and system.model.config.name == "tiny"
