"""Streams in chunks of every kind, for every structure that streams; what their latency means, and that memory stays flat."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from stream_models import NAMES, alone, noise, random_cuts, streamed
from torch import Tensor


def chunked(model, wav: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Codes and audio of (B, 1, T) samples that come in chunks, each decoded at once, to the end."""
    codes, audio = [], []
    with model.stream(wav.shape[0]) as stream:
        for chunk in wav.split(sizes, 2):
            codes.append(stream.encode(chunk))
            audio.append(stream.decode(codes[-1]))
        codes.append(stream.flush())
        audio += [stream.decode(codes[-1]), stream.flush_decoder()]
    return torch.cat(codes, 2), torch.cat(audio, 2)


def check(model, wav: Tensor, sizes: list[int]) -> None:
    codes, audio = chunked(model, wav, sizes)
    expected, sound = alone(model, wav[0, 0])
    assert torch.equal(codes, expected), sizes
    assert audio.shape == sound.shape and (audio - sound).abs().max() <= 1e-5, sizes


@pytest.mark.parametrize("name, count", [("speech", 1000), *((name, 25) for name in NAMES[1:])])
def test_random_chunkings(name, count):
    model, chance = streamed(name), random.Random(name)
    wavs = [noise(1, 1, samples) for samples in (1, 40, 479, 641, 800)]
    for _ in range(count):
        wav = chance.choice(wavs)
        check(model, wav, random_cuts(wav.shape[2], 400, chance))


@pytest.mark.parametrize("name", NAMES)
def test_chunks_at_the_borders_of_frames(name):
    model = streamed(name)
    size, start = model.frame_size, model.encoder.start_frames * model.frame_size
    total = start + 6 * size + 3
    for first in (start, start - 1, start + 1, 1, size, total):
        for later in (size, size - 1, size + 1, 2 * size - 1):
            sizes = [min(first, total)]
            while sum(sizes) < total:
                sizes.append(min(later, total - sum(sizes)))
            check(model, noise(1, 1, total), sizes)


@pytest.mark.parametrize("name", NAMES)
def test_no_sample_waits_longer_than_the_latency(name):
    """One sample at a time: p comes when p + latency - 1 is there at the latest, and one comes no sooner."""
    model, longest = streamed(name), 0
    latency = round(model.latency * model.sample_rate)
    with model.stream() as stream:
        given = heard = 0
        for chunk in noise(1, 1, latency + 5 * model.frame_size).split(1, 2):
            given += 1
            heard += stream.decode(stream.encode(chunk)).shape[2]
            longest = max(longest, given - heard)
    assert longest == latency - 1  # they wait for the next one


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dac"])  # whose sight is measured in test_context
def test_no_sample_depends_on_what_comes_later_than_the_latency(name):
    """Output sample p depends on inputs up to p + latency - 1 at most, and one does on just that one."""
    model = streamed(name)
    latency, size, furthest = round(model.latency * model.sample_rate), model.frame_size, 0
    frames = model.quantizer.frame_multiple * 2 + model.encoder.start_frames + 2
    together = model.quantizer.frame_multiple * size
    borders = [start + offset for start in range(together, frames * size, together) for offset in (-2, -1, 0)]
    for seed in range(8):  # a change of one sample may leave a code as it is
        wav = noise(1, 1, frames * size, seed=seed)
        before = chunked(model, wav, [wav.shape[2]])
        for place in [*borders, *(range(3, wav.shape[2] - 1, 53) if seed == 0 else ())]:
            changed = wav.clone()
            changed[..., place] += 1e6
            codes, audio = chunked(model, changed, [wav.shape[2]])
            moved = (audio != before[1]).flatten().nonzero()
            if len(moved):
                furthest = max(furthest, place - int(moved[0]) + 1)
    # A Hann window starts with a zero: the very first sample that a frame could move in synthesis, it does not.
    assert furthest == latency - (model.config.decoder.name == "convnext_stft")


# Memory


def resident() -> int:
    """Bytes of this process in memory."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


def growth(model, seconds: int, batch_size: int, chunk: int) -> int:
    """Bytes by which memory has grown over a stream with resets, after its first 20 s."""
    wav = noise(batch_size, 1, chunk)
    with model.stream(batch_size) as stream:
        for turn in range(seconds * model.sample_rate // chunk):
            if turn == 20 * model.sample_rate // chunk:
                start = resident()
            stream.decode(stream.encode(wav))
            if turn % 7 == 6:
                stream.reset(torch.arange(batch_size) == turn % batch_size)
    return resident() - start


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("name, seconds", [
    ("speech", 600), ("mimi", 40), ("encodec", 40), ("dac", 40),
    pytest.param("speech", 3600, marks=pytest.mark.slow), pytest.param("mimi", 3600, marks=pytest.mark.slow),
])
def test_memory_stays_flat(name, seconds):
    assert growth(streamed(name), seconds, 2, 16_037) < 20e6
