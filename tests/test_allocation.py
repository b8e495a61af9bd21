"""Bits where they are heard: as many as were asked for, better than everywhere alike, and read by every reader."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from small_models import make_config, make_model

import codec
from codec.allocation import LEAST, Allocation, Variable, spread
from codec.cli import main
from codec.config import QuantizerConfig
from codec.container import TokError
from codec.container.layout import Header
from codec.entropy import prior_of, priors_in_the_box
from codec.entropy.rates import Rates, contexts
from codec.entropy.prior import Context
from codec.entropy.residual_fitting import fit_residual
from codec.entropy.variable_fitting import fit_variable, shallow, smallest_vectors
from codec.evaluation import systems
from codec.evaluation.sound import Sound
from codec.evaluation.systems.ours import payload_bits
from codec.files import encode_file
from codec.refinement import LOSSES, encoding, losses_for
from codec.training.losses import SpectralLosses
from quantizers.rate_search import search

RATE = 16_000
MODEL = "speech-16k"


@pytest.fixture(scope="module")
def model():
    return codec.load(MODEL)


@pytest.fixture(scope="module")
def prior():
    return prior_of(MODEL, variable=True)


@pytest.fixture(scope="module")
def noise():
    generator = torch.Generator().manual_seed(0)
    envelope = 0.02 + torch.sin(torch.arange(3 * RATE) / 900) ** 8
    return 0.1 * envelope * torch.randn(3 * RATE, generator=generator)


@pytest.fixture(scope="module")
def tiny_prior(tiny_model, noise):
    return fit_variable(tiny_model, [noise, noise.flip(0)], part=1, rounds=(1, 1), epochs=(60, 30), progress=lambda text: None)


def test_rates_are_those_of_the_coder(prior):
    """In frames of random codes, which say the least: to hundredths of a bit on average, and files are as long as was counted."""
    generator = torch.Generator().manual_seed(0)
    before = [torch.randint(0, 1025, (8, 40), generator=generator) for _ in range(prior.context.order)]
    rates, below = Rates(prior), torch.randint(0, 1024, (8, 40), generator=generator)
    for k in range(8):
        exact = torch.from_numpy(prior.frequencies(k, [each.numpy() for each in before], below.numpy())).float()
        apart = (rates.bits(k, rates.past(before)[k], below) - (16 - exact.log2())) * exact / 65536
        assert apart.abs().sum(1).mean() < 0.03 and apart.sum(1).abs().max() < 0.015


def test_contexts_are_the_frames_before():
    codes, past = torch.arange(10, 18).view(2, 4), torch.tensor([[1, 2], [3, 4]])
    last, one_more = contexts(codes, past)
    assert last.tolist() == [[2, 10, 11, 12], [4, 14, 15, 16]] and one_more.tolist() == [[1, 2, 10, 11], [3, 4, 14, 15]]


def test_the_search_finds_the_least_of_distance_and_bits():
    generator = torch.Generator().manual_seed(0)
    rows, codebooks = torch.randn(20, 3, generator=generator), torch.randn(3, 4, 3, generator=generator)
    price, table = torch.rand(20, generator=generator), 4 * torch.rand(3, 20, 64, 4, generator=generator)

    def cost(k, row, below):  # of what is chosen below, and of the row
        spelt = sum((code * 4**i for i, code in enumerate(below)), torch.zeros_like(row))
        return table[k, row, spelt]

    found = search(rows, codebooks, price, cost, beam=64)
    for n, row in enumerate(rows):
        totals = {}
        for codes in itertools.product(range(4), repeat=3):
            bits = sum(table[k, n, sum(c * 4**i for i, c in enumerate(codes[:k])), codes[k]] for k in range(3))
            totals[codes] = (row - sum(codebooks[k][c] for k, c in enumerate(codes))).square().sum() + price[n] * bits
        assert tuple(found[n].tolist()) == min(totals, key=totals.get)


def test_without_a_price_codes_are_the_nearest(noise):
    tiny_model = make_model(make_config(quantizer=QuantizerConfig("rvq", 4, 32, {"settle": False})))
    latents = tiny_model.encoder(noise.view(1, 1, -1))[0]
    found = search(latents[0].T, tiny_model.quantizer.codebooks, torch.zeros(latents.shape[2]), lambda k, row, _: torch.rand(len(row), 32), beam=4)
    assert torch.equal(found.T[None], tiny_model.quantizer.encode(latents, beam=4))


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("bitrate", [700, 1500, 3000])
def test_it_takes_the_bits_that_are_asked_for(model, prior, speech, bitrate, steps):
    wav = speech[: 5 * RATE]
    tokens = model.encode(wav, bitrate=np.float32(bitrate), refine=steps, variable=prior)
    assert tokens.num_codebooks == model.num_codebooks and model.decode(tokens).shape[-1] == len(wav)
    assert 0.93 * bitrate < payload_bits(tokens, prior) / 5 <= bitrate


def test_the_same_bits_come_nearer_than_everywhere_alike(model, prior, speech):
    wav = speech[: 4 * RATE]
    alike, heard = (model.encode(wav, bitrate=1500, refine=10, variable=how) for how in (None, prior))
    far = [SpectralLosses(RATE, LOSSES)(model.decode(each), wav.view(1, 1, -1)).total.item() for each in (alike, heard)]
    assert far[1] < 0.96 * far[0] and payload_bits(heard, prior) <= alike.num_frames * 30


def test_without_refinement_too(model, prior, speech):
    """The same bits stand for latents nearer to those of the encoder, and the decoder is not needed."""
    wav = speech[: 4 * RATE]
    latents, encoder = model.encoder(wav.view(1, 1, -1))[0], codec.load(MODEL, without="decoder")
    alike, spread = encoder.encode(wav, bitrate=1500), encoder.encode(wav, bitrate=1500, variable=prior)
    far = [(model.quantizer.decode(each.codes) - latents).square().mean() for each in (alike, spread)]
    assert far[1] < 0.9 * far[0] and payload_bits(spread, prior) <= alike.num_frames * 30


def test_frames_that_matter_get_more_codes(model, prior, speech):
    latents = model.encoder(speech[: 2 * RATE].view(1, 1, -1))[0]
    smallest = smallest_vectors(model)
    weights, allocation = torch.full((100,), 1e-3), Allocation(model, Variable(2000, prior))
    weights[50:] = 1
    allocation.start(latents)
    codes, quantized, over = allocation.search(latents, weights)
    assert torch.equal(quantized, model.quantizer.decode(codes)) and over < 1
    used = (codes[0] != smallest).sum(0).float()
    assert used[50:].mean() > used[:50].mean() + 2


def test_weights_have_a_mean_of_one_and_no_extremes():
    weights = spread(torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1e6]))
    assert weights.mean() == pytest.approx(1) and weights.min() >= LEAST / 4 and weights.argmax() >= 5
    assert torch.equal(spread(torch.full((5,), 3.0)), torch.ones(5)) and torch.isfinite(spread(torch.zeros(5))).all()


@pytest.mark.parametrize("steps", [0, 2])
def test_alone_in_a_batch_in_parts_and_from_a_file(tiny_model, tiny_prior, noise, tmp_path, steps):
    wav = torch.cat([noise, noise.flip(0)])[:84_321]
    how = {"bitrate": 1000, "refine": steps, "variable": tiny_prior}
    whole = tiny_model.encode(wav, **how).codes
    batch = torch.stack([wav, wav.flip(0)])[:, None]
    assert torch.equal(tiny_model.encode(batch, **how).codes[:1], whole)
    short = tiny_model.encode(wav[:30_001], **how).codes
    batch[1, :, 30_001:] = 0.0
    batch[1, 0, :30_001] = wav[:30_001]
    both = tiny_model.encode(batch, lengths=[len(wav), 30_001], **how).codes
    assert torch.equal(both[:1], whole) and torch.equal(both[1:, :, : short.shape[2]], short)

    for size in (7_777, 70_000):
        coding = encoding(tiny_model, 1, 4, refine=steps, variable=Variable(1000, tiny_prior))
        parts = [coding.push(part.view(1, 1, -1)) for part in wav[:80_000].split(size)]
        assert torch.equal(torch.cat([*parts, coding.finish(wav[80_000:].view(1, 1, -1))], 2), whole)

    soundfile.write(tmp_path / "in.wav", wav.numpy(), RATE, subtype="FLOAT")
    report = encode_file(tiny_model, tmp_path / "in.wav", tmp_path / "a.tok", bitrate=np.int64(1000), prior=tiny_prior, refine=steps, variable=True)
    assert report.bitrate == 1000 and report.num_codebooks == 4
    assert torch.equal(codec.Tokens.load(tmp_path / "a.tok", prior=tiny_prior).codes, whole)


def test_a_wider_beam_finds_less_of_distance_and_bits(model, prior, speech):
    latents = model.encoder(speech[: 2 * RATE].view(1, 1, -1))[0]
    rates, costs = Rates(prior), []
    for beam in (1, 8):
        allocation = Allocation(model, Variable(1500, prior), beam)
        allocation.start(latents)
        allocation._tries = 1  # at one price for both
        codes, quantized, _ = allocation.search(latents)
        costs.append((latents - quantized).square().sum() + allocation._usual * rates.of(codes[0], rates.none()))
    assert costs[1] < 0.97 * costs[0]


@pytest.mark.parametrize("steps", [0, 2])
def test_bits_that_were_not_spent_are_not_hoarded(model, prior, speech, steps):
    """A tenth is the most that a block leaves, and that much the next one takes."""
    silence, wav = torch.zeros(8 * RATE), speech[: 4 * RATE]
    tokens, alone = (model.encode(each, bitrate=1500, refine=steps, variable=prior) for each in (torch.cat([silence, wav]), wav))
    assert payload_bits(tokens[400:], prior) <= 1.1 * 1500 * 4 + 128
    assert payload_bits(tokens[400:], prior) > 1.02 * payload_bits(alone, prior)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("bitrate", [600, 2000])
@pytest.mark.parametrize("sound", ["hum", "offset", "saw"])
def test_bits_suffice_for_sounds_that_no_prior_knows(model, prior, sound, bitrate, steps):
    time = torch.arange(6 * RATE) / RATE
    wav = {
        "hum": 0.1 * (torch.sin(2 * math.pi * 50 * time) + torch.sin(2 * math.pi * 150 * time)), "offset": torch.ones(len(time)),
        "saw": 0.5 * (2 * (110 * time % 1) - 1),
    }[sound]
    assert payload_bits(model.encode(wav, bitrate=bitrate, refine=steps, variable=prior), prior) <= 6 * bitrate


@pytest.mark.parametrize("steps", [0, 1])
def test_an_encoder_is_given_the_same_parts_however_they_come(tiny_model, tiny_prior, noise, steps):
    """Which round by their length on some processors."""
    lengths, wav = [], noise[:20_001].view(1, 1, -1)
    hook = tiny_model.encoder.register_forward_pre_hook(lambda network, inputs: lengths[-1].append(inputs[0].shape[2]))
    for size in (777, 5_000, 20_001):
        lengths.append([])
        coding = encoding(tiny_model, 1, 4, refine=steps, variable=Variable(1000, tiny_prior))
        for part in wav.split(size, 2):
            coding.push(part)
        coding.finish()
    hook.remove()
    assert lengths[0] == lengths[1] == lengths[2] and len(lengths[0]) == 8  # of 0.16 s, and what is left


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("samples", [1, 319, 4_000])
def test_the_shortest_recordings(model, prior, speech, samples, steps):
    wav = speech[8_000 : 8_000 + samples]
    tokens = model.encode(wav, bitrate=1500, refine=steps, variable=prior)
    assert tokens.num_samples == (samples,) and torch.isfinite(model.decode(tokens)).all()


@pytest.mark.parametrize("steps", [0, 3])
def test_silence_stays_silence(model, prior, speech, steps):
    for one in (torch.zeros(RATE), torch.cat([torch.zeros(2 * RATE), 0.3 * speech[: 2 * RATE]])):
        decoded = model.decode(model.encode(one, bitrate=1500, refine=steps, variable=prior)).flatten()
        assert decoded[: round(0.9 * RATE)].square().mean().sqrt() < 10 ** (-70 / 20)


@pytest.mark.parametrize("refined", [[], ["--refine", "2"]])
def test_from_the_command_line(speech, tmp_path, capsys, refined):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", speech[: 2 * RATE].numpy(), RATE, subtype="FLOAT")
    options = ["--bitrate", "1.5", *refined, "--variable"]
    assert not main(["encode", str(tmp_path / "in" / "a.wav"), str(tmp_path / "a.tok"), *options])
    assert "8 codebooks, 1.5 kbit/s" in capsys.readouterr().out
    assert not main(["encode", str(tmp_path / "in"), str(tmp_path / "out"), *options])
    assert (tmp_path / "a.tok").read_bytes() == (tmp_path / "out" / "a.tok").read_bytes()
    assert not main(["decode", str(tmp_path / "a.tok"), str(tmp_path / "a.wav")])
    assert soundfile.info(tmp_path / "a.wav").frames == 2 * RATE
    capsys.readouterr()
    assert not main(["info", "--json", str(tmp_path / "a.tok")])
    told = json.loads(capsys.readouterr().out)
    assert told["bitrate"] == 4000 and told["asked_bitrate"] == 1500 and 0.9 * 1500 < told["payload_bitrate"] <= 1500


def test_a_folder_is_made_again_at_another_bitrate(tiny_model, tiny_prior, noise, tmp_path, capsys):
    codec.save(tiny_model, tmp_path / "model")
    tiny_prior.save(tmp_path / "model")
    tiny_prior.save(tmp_path / "model", variable=True)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", torch.stack([noise, noise.flip(0)], 1).numpy(), RATE, subtype="FLOAT")
    command = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tmp_path / "model")]

    def made(*options):
        before = (tmp_path / "out" / "a.tok").stat().st_ino if (tmp_path / "out").exists() else None
        assert not main([*command, *options])
        return (tmp_path / "out" / "a.tok").stat().st_ino != before

    variable = ["--refine", "1", "--variable", "--bitrate"]
    assert made(*variable, "1") and not made(*variable, "1") and made(*variable, "0.98") and made(*variable, "1")
    capsys.readouterr()
    assert not made("--variable", "--bitrate", "1") and "maybe with another --refine" in capsys.readouterr().err
    assert made() and not made() and made(*variable, "1")
    with codec.container.TokReader(tmp_path / "out" / "a.tok", prior=tiny_prior) as reader:
        assert reader.channels == 2 and sum(codes.shape[2] for _, codes in reader.blocks()) == 300
        assert 0.85 < reader.payload_bytes / (2 * 1000 * 3 / 8) <= 1 and reader.prior_ids == {tiny_prior.id}


def test_sounds_that_take_other_bits_than_asked_for_are_not_made_again(tiny_model, tiny_prior, noise, tmp_path, capsys):
    codec.save(tiny_model, tmp_path / "model")
    tiny_prior.save(tmp_path / "model", variable=True)
    (tmp_path / "in").mkdir()
    for name, wav in (("silence", torch.zeros(2 * RATE)), ("click", noise[:800]), ("sample", noise[:1])):
        soundfile.write(tmp_path / "in" / f"{name}.wav", wav.numpy(), RATE, subtype="FLOAT")
    command = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tmp_path / "model"),
               "--refine", "1", "--variable", "--bitrate", "1"]
    assert not main(command) and "3 files encoded" in capsys.readouterr().out
    assert not main(command) and "3 done before" in capsys.readouterr().out
    tiny_prior_of_another_day = fit_variable(tiny_model, [noise, noise], part=1, rounds=(), epochs=(1, 1), progress=lambda text: None)
    tiny_prior_of_another_day.save(tmp_path / "model", variable=True)
    assert not main(command) and "1 file encoded" in capsys.readouterr().out  # the others were packed, for which no prior is needed


def test_files_tell_what_was_asked_for(tiny_model, tiny_prior, noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise.numpy(), RATE, subtype="FLOAT")
    for bitrate, how in ((900, {"prior": tiny_prior, "variable": True, "refine": 1, "bitrate": 900}), (None, {"bitrate": 1000})):
        encode_file(tiny_model, tmp_path / "a.wav", tmp_path / "a.tok", **how)
        with codec.container.TokReader(tmp_path / "a.tok", prior=tiny_prior) as reader:
            assert reader.header.bitrate == bitrate
    assert Header.from_json(json.dumps(json.loads(reader.header.to_json()) | {"bitrate": 900}).encode()).bitrate == 900
    for wrong in ("1500", -1.0, float("nan"), True, 0):
        fields = json.loads(reader.header.to_json()) | {"bitrate": wrong}
        with pytest.raises(ValueError, match="bitrate"):
            Header.from_json(json.dumps(fields).encode())


def test_a_prior_for_plain_codes_is_for_all_codebooks(tiny_model, noise):
    codes = tiny_model.encode(noise).codes[0]
    packed = codes.shape[1] * sum(math.log2(size) for size in tiny_model.codebook_sizes)
    start, fitted = (fit_residual(tiny_model, [codes], epochs) for epochs in (0, 40))
    assert fitted.sizes == tiny_model.codebook_sizes and fitted.context == Context(4, summed=True)
    assert Rates(fitted).of(codes, Rates(fitted).none()) < 0.8 * min(packed, Rates(start).of(codes, Rates(start).none()))


def test_a_prior_that_changed_is_read_again(tiny_prior, prior, tmp_path, monkeypatch):
    for folder, each in (("a", tiny_prior), ("b", prior)):
        (tmp_path / folder / "m").mkdir(parents=True)
        each.save(tmp_path / folder / "m", variable=True)
        monkeypatch.chdir(tmp_path / folder)
        assert prior_of("m", variable=True).id == each.id
    tiny_prior.save(tmp_path / "b" / "m", variable=True)
    assert prior_of("m", variable=True).id == tiny_prior.id


def test_models_elsewhere_bring_their_own_prior(tiny_model, tiny_prior, noise, tmp_path, capsys):
    codec.save(tiny_model, tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", noise.numpy(), RATE, subtype="FLOAT")
    command = ["encode", str(tmp_path / "a.wav"), str(tmp_path / "a.tok"), "--model", str(tmp_path / "model")]
    options = ["--bitrate", "1", "--refine", "1", "--variable"]
    assert main([*command, *options]) == 1
    assert "no variable.safetensors" in capsys.readouterr().err and not (tmp_path / "a.tok").exists()
    tiny_prior.save(tmp_path / "model", variable=True)
    assert not main([*command, *options])
    assert not main(["decode", str(tmp_path / "a.tok"), str(tmp_path / "b.wav"), "--model", str(tmp_path / "model")])
    with pytest.raises(TokError, match="entropy-coded with prior"):
        codec.Tokens.load(tmp_path / "a.tok")


def test_refusals(model, prior, tiny_model, tiny_prior, speech, noise, tmp_path, capsys):
    def refused(words, which=model, wav=speech[:RATE], **how):
        with pytest.raises(ValueError, match=words):
            which.encode(wav, **how)

    for how in ({}, {"refine": 2}, {"num_codebooks": 3}, {"bitrate": 1500, "refine": 2, "num_codebooks": 3}):
        refused("variable wants bitrate", variable=prior, **how)
    refused("bitrate='1500': with variable it must be", bitrate="1500", refine=2, variable=prior)
    assert torch.equal(model.encode(speech[:RATE], variable=False).codes, model.encode(speech[:RATE]).codes)
    refused("variable=True: give the prior", bitrate=1500, refine=2, variable=True)
    for steps in (0, 2):
        with pytest.raises(ValueError, match="for all 8 of them"):
            model.encode_frames(speech[:RATE].view(1, 1, -1), 3, refine=steps, variable=Variable(1500, prior))
    for bitrate in (499, 4001):
        refused("it must be 500 to 4000 bit/s .0.5 to 4 kbit/s. for speech-16k", bitrate=bitrate, refine=2, variable=prior)
    of_three = next(each for each in priors_in_the_box(MODEL) if len(each.sizes) == 3)
    for other in (of_three, tiny_prior):
        refused("has to be for all of speech-16k", bitrate=1500, refine=2, variable=other)
    split = make_model(make_config(quantizer=QuantizerConfig("split_rvq", 4, 32)))
    refused("not plain residual ones", split, noise, bitrate=1000, refine=2, variable=tiny_prior)
    for fit in (fit_variable, fit_residual):
        with pytest.raises(ValueError, match="not plain residual ones"):
            fit(split, [noise])
    for recordings in ([], [noise]):
        with pytest.raises(ValueError, match=f"{len(recordings)} recordings are too few to take each 10th in 2 rounds"):
            fit_variable(tiny_model, recordings)
    soundfile.write(tmp_path / "a.wav", noise.numpy(), RATE)
    with pytest.raises(ValueError, match="variable=True needs the prior"):
        encode_file(model, tmp_path / "a.wav", tmp_path / "a.tok", bitrate=1500, refine=2, variable=True)
    for options in ([], ["--refine", "2"], ["--codebooks", "3", "--refine", "2"]):
        with pytest.raises(SystemExit):
            main(["encode", str(tmp_path / "a.wav"), str(tmp_path / "a.tok"), "--variable", *options])
        assert "--variable distributes --bitrate" in capsys.readouterr().err and not (tmp_path / "a.tok").exists()


def test_a_sweep_measures_the_bits_that_were_taken(tiny_model, tiny_prior, noise, tmp_path):
    codec.save(tiny_model, tmp_path / "tiny")
    tiny_prior.save(tmp_path / "tiny", variable=True)
    alike, system = systems.build([str(tmp_path / "tiny") + "+2", str(tmp_path / "tiny") + "+2v"])
    assert system.name == alike.name + "v" and system.key != alike.key
    unrefined, again = systems.build([str(tmp_path / "tiny") + "+0v", system.source])
    assert (again.name, again.key) == (system.name, system.key) and unrefined.key not in (alike.key, system.key)
    assert systems.build([unrefined.source])[0].key == unrefined.key
    assert [each.bitrate for each in system.settings([300, 800.0, 1000.0, 9000.0])] == [800, 1000]
    assert [each.bitrate for each in system.settings(None)] == [500, 1000, 1500, 2000]
    (setting,) = system.settings([1000.0])
    coded, tokens = system.code(Sound(noise.numpy(), RATE), setting), system.model.encode(noise, bitrate=1000, refine=2, variable=tiny_prior)
    assert (coded.sound.wav == system.model.decode(tokens)[0, 0].numpy()).all() and coded.bits == payload_bits(tokens, tiny_prior)
    assert coded.codes is None
    assert 0.9 * 3000 < coded.bits <= 3000


def test_rounds_of_fitting_pay(tiny_model, tiny_prior, noise):
    """On codes that were found by the prior of before the rounds, of a recording that neither has seen."""
    start = fit_variable(tiny_model, [noise, noise.flip(0)], part=1, rounds=(), epochs=(60, 30), progress=lambda text: None)
    assert start.sizes == tiny_prior.sizes == tiny_model.codebook_sizes
    codes = tiny_model.encode(noise.roll(RATE) * 0.7, bitrate=1000, refine=2, variable=start).codes[0]
    before, after = (rates.of(codes, rates.none()) for rates in (Rates(start), Rates(tiny_prior)))
    assert after < before


def test_a_start_with_other_depths_in_each_frame(tiny_model):
    codes = torch.randint(0, 32, (4, 400), generator=torch.Generator().manual_seed(0))
    (cut,) = shallow([codes], tiny_model, 0)
    smallest = smallest_vectors(tiny_model)
    depth = (cut == codes).int().cummin(0).values.sum(0)
    assert torch.equal(torch.where(torch.arange(4)[:, None] < depth, codes, smallest), cut)
    assert len(depth.unique()) > 2 and (cut[0] == codes[0]).all()


def test_the_voice_weighs_more_where_there_are_more_bits(prior):
    assert losses_for(None) == losses_for(Variable(1500, prior)) == losses_for(Variable(500, prior)) == list(LOSSES)
    for bitrate, more in ((2000, (4 / 3) ** 1.5), (3000, 2**1.5), (4000, 2**1.5)):
        *others, voice = losses_for(Variable(bitrate, prior))
        assert others == list(LOSSES[:-1]) and voice == {**LOSSES[-1], "weight": pytest.approx(more * LOSSES[-1]["weight"])}
