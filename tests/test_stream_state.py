"""The state of a stream, written down and read back at any moment, here and in other processes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import make_config, make_model
from stream_models import NAMES, alone, noise, streamed

from codec import hub

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_goes_on_elsewhere_from_any_sample_of_a_frame(name):
    """Bit by bit what it would have done: the state is taken after every sample of a frame, at its borders too."""
    model = streamed(name)
    size, positions = model.frame_size, range(model.frame_size + 1)
    start, frames = model.encoder.start_frames + 2, 3 + model.decoder.start_frames
    wav = noise(1, 1, (start + 1) * size + frames * size)
    stream = model.stream()
    codes = [stream.encode(wav[..., : start * size])]
    stream.decode(codes[0])
    for position in positions[:: 1 if size < 100 else 7]:
        here = model.stream()
        here.load_state_dict(stream.state_dict())
        part, rest = wav[..., start * size :].split([position, wav.shape[2] - start * size - position], 2)
        here.decode(here.encode(part))
        there = model.stream()
        there.load_state_dict(here.state_dict())
        results = []
        for one in (here, there):
            codes = [one.encode(rest), one.flush()]
            results += [torch.cat(codes, 2), torch.cat([*(one.decode(part) for part in codes), one.flush_decoder()], 2)]
        assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3]), position
        expected = alone(model, wav[0, 0])[0]
        assert torch.equal(results[0], expected[..., expected.shape[2] - results[0].shape[2] :]), position


@pytest.mark.parametrize("name", NAMES)
def test_states_of_rows_out_of_step(name, tmp_path):
    """Through files of both kinds; what is saved holds the state and no more of the signal."""
    model, wav = streamed(name), noise(3, 1, 2000)
    stream = model.stream(3)
    stream.decode(stream.encode(wav[..., :777]))
    stream.reset([False, True, False])
    stream.decode(stream.encode(wav[..., 777:1000], [223, 100, 0]))
    state = stream.state_dict()
    torch.save(state, tmp_path / "state.pt")
    save_file(state, tmp_path / "state.safetensors")
    codes = stream.encode(wav[..., 1000:])
    audio = stream.decode(codes)
    for loaded in (torch.load(tmp_path / "state.pt", weights_only=True), load_file(tmp_path / "state.safetensors")):
        other = model.stream(3)
        other.load_state_dict(loaded)
        assert torch.equal(other.encode(wav[..., 1000:]), codes)
        assert torch.equal(other.decode(codes), audio) and torch.equal(other.lengths, stream.lengths)


def test_a_state_is_not_changed_by_what_follows_and_changes_nothing(tiny_model):
    wav = noise(2, 1, 1000)
    stream = tiny_model.stream(2)
    stream.encode(wav)
    state = stream.state_dict()
    kept = {key: value.clone() for key, value in state.items()}
    first = stream.encode(wav)
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    for _ in range(2):
        stream.load_state_dict(state)
        assert torch.equal(stream.encode(wav), first)
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    assert sum(value.untyped_storage().nbytes() for value in state.values()) < 50_000


def test_a_stream_goes_on_in_another_process(tiny_model, tmp_path):
    """In the middle of a word: what the two processes make is what one makes."""
    wav = noise(2, 1, 2345)
    hub.save(tiny_model, tmp_path / "model", torch.float32)
    with tiny_model.stream(2) as stream:
        first = stream.encode(wav[..., :1111])
        heard = stream.decode(first)
        torch.save({"state": stream.state_dict(), "wav": wav[..., 1111:].clone()}, tmp_path / "state.pt")
    code = """if True:
        import sys, torch, codec
        torch.set_num_threads(1)
        model, given = codec.load(sys.argv[1]), torch.load(sys.argv[2], weights_only=True)
        stream = model.stream(2)
        stream.load_state_dict(given["state"])
        codes = torch.cat([stream.encode(given["wav"]), stream.flush()], 2)
        torch.save((codes, torch.cat([stream.decode(codes), stream.flush_decoder()], 2)), sys.argv[3])
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "model", tmp_path / "state.pt", tmp_path / "out.pt"], check=True,
                   env=environment, timeout=300)
    codes, audio = torch.load(tmp_path / "out.pt", weights_only=True)
    tokens = tiny_model.encode(wav.transpose(0, 1))
    assert torch.equal(torch.cat([first, codes], 2), tokens.codes)
    assert torch.equal(torch.cat([heard, audio], 2)[..., :2345], tiny_model.decode(tokens).transpose(0, 1))


def test_what_does_not_belong_here_is_refused_and_the_stream_goes_on(tiny_model):
    wav = noise(1, 1, 500)
    other = make_model(make_config())
    other.decoder.head.bias += 1
    delayed = dataclasses.replace(make_config(), decoder=dataclasses.replace(make_config().decoder, delay=200))
    same = make_model(delayed)
    same.load_state_dict(tiny_model.state_dict())
    with tiny_model.stream() as stream:
        stream.encode(wav)
        good = stream.state_dict()
        for state, message in (
            (other.stream().state_dict(), "belongs to another model"),
            (same.stream().state_dict(), "belongs to another model"),
            (tiny_model.stream(2).state_dict(), r"2 signals and 4 codebooks, this stream has 1 and 4: make one with"),
            (tiny_model.stream(1, 2).state_dict(), r"1 signals and 2 codebooks"),
            ({}, "no state of a stream"), ([], "no state of a stream"), ({"fingerprint": 3}, "no state of a stream"),
            ({key: value for key, value in good.items() if key != "encoder.0.rows"}, "no state of a stream"),
            (good | {"encoder.0.rows": torch.tensor([1])}, "its rows are not 0 to 0"),
            (good | {"encoder.0.run.pending": torch.zeros(3, 1, 5)}, "pending is not of 1 rows"),
        ):
            with pytest.raises(ValueError, match=message):
                stream.load_state_dict(state)
        codes = stream.encode(wav)
    assert torch.equal(codes, tiny_model.encode(torch.cat([wav, wav], 2)).codes[..., 3:6])


def test_a_name_is_not_part_of_a_model(tiny_model):
    renamed = make_model(make_config(name="renamed"))
    renamed.load_state_dict(tiny_model.state_dict())
    renamed.stream().load_state_dict(tiny_model.stream().state_dict())
