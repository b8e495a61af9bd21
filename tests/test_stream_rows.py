"""Rows of one stream that start anew, join and leave at any moment: each is coded as if it were alone."""

from __future__ import annotations

import random

import pytest
import torch
from stream_models import NAMES, Row, alone, noise, random_cuts, streamed
from torch import Tensor


def step(stream, rows: list[Row], pcm: Tensor, lengths: list[int] | None = None) -> None:
    """One call of encode and decode with samples (B, 1, n), noted by row."""
    codes = stream.encode(pcm, lengths)
    note(stream, rows, codes, pcm, lengths)


def note(stream, rows: list[Row], codes: Tensor, pcm: Tensor, lengths: list[int] | None = None) -> None:
    audio = stream.decode(codes)
    assert audio.shape[:2] == (len(rows), 1) and stream.lengths.shape == (len(rows),)
    for index, row in enumerate(rows):
        length = pcm.shape[2] if lengths is None else lengths[index]
        row.given(pcm[index, 0, pcm.shape[2] - length :], codes[index], audio[index], int(stream.lengths[index]))


def finish(stream, rows: list[Row]) -> None:
    note(stream, rows, stream.flush(), torch.zeros(len(rows), 1, 0))
    audio = stream.flush_decoder()
    for index, row in enumerate(rows):
        row.audio.append(audio[index, :, audio.shape[2] - int(stream.lengths[index]) :])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("aligned", [True, False])
def test_rows_that_start_anew_are_as_alone(name, aligned):
    model, chance = streamed(name), random.Random(1)
    count, unit = 4, model.frame_size if aligned else 1
    stream, rows = model.stream(count), [Row(model) for _ in range(count)]
    for turn in range(25):
        size = unit * (chance.randint(0, 5) if aligned else chance.choice((1, 3, 39, 161, 333)))
        step(stream, rows, noise(count, 1, size, seed=turn))
        mask = torch.tensor([chance.random() < 0.15 for _ in range(count)])
        for index in mask.nonzero()[:, 0].tolist():
            rows[index].check()
            rows[index] = Row(model)
        stream.reset(mask)
    finish(stream, rows)
    for row in rows:
        row.check(whole=True)


@pytest.mark.parametrize("border", [True, False])
def test_the_others_go_on_bit_by_bit(tiny_model, border):
    wav = noise(3, 1, 4000)
    cut = 1600 if border else 1733
    with tiny_model.stream(3) as one, tiny_model.stream(3) as other:
        for stream in (one, other):
            stream.decode(stream.encode(wav[..., :cut]))
        other.reset(torch.tensor([False, True, False]))
        for part in wav[..., cut:].split(477, 2):
            codes, changed = one.encode(part), other.encode(part)
            audio, heard = one.decode(codes), other.decode(changed)
            for row in (0, 2):
                own = slice(changed.shape[2] - codes.shape[2], None)
                assert torch.equal(changed[row, :, own], codes[row]) and (changed[row, :, : own.start] == -1).all()
                assert torch.equal(heard[row, :, heard.shape[2] - audio.shape[2] :], audio[row])


def test_a_row_that_starts_anew_in_step_has_its_lead_in_silent(tiny_model):
    """At borders of frames, the samples of a row follow each other without gaps behind `delay` zeros."""
    wav, delay = noise(2, 1, 12 * 160), tiny_model.decoder.delay
    with tiny_model.stream(2) as stream:
        stream.decode(stream.encode(wav[..., : 5 * 160]))
        stream.reset(torch.tensor([False, True]))
        codes = stream.encode(wav[..., 5 * 160 :])
        assert (codes >= 0).all()
        audio = torch.cat([stream.decode(part) for part in codes.split((2, 1, 4), 2)], 2)
    expected = alone(tiny_model, wav[1, 0, 5 * 160 :])
    assert torch.equal(codes[1:], expected[0]) and audio.shape == (2, 1, 7 * 160)
    assert not audio[1, :, :delay].any()
    assert torch.equal(audio[1:, :, delay:], expected[1][..., :-delay])


def test_all_rows_start_anew_by_default(tiny_model):
    wav = noise(2, 1, 999)
    with tiny_model.stream(2) as stream:
        first = stream.encode(wav)
        stream.decode(first)
        stream.reset()
        assert torch.equal(stream.encode(wav), first)
        assert torch.equal(stream.decode(first), tiny_model.decode_frames(first)[..., : first.shape[2] * 160 - 160])


@pytest.mark.parametrize("mask", [
    torch.tensor([1, 0]), torch.tensor([True]), torch.tensor([[True, False]]), [0.0, 1.0], torch.tensor(True),
])
def test_masks_that_are_none_are_refused(tiny_model, mask):
    with pytest.raises(ValueError, match=r"reset takes \(2,\) of bool"):
        tiny_model.stream(2).reset(mask)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_given_less_hold_still(name):
    """As in a server: in every turn other rows have something, and other amounts of it."""
    model, chance = streamed(name), random.Random(2)
    stream, rows = model.stream(3), [Row(model) for _ in range(3)]
    for turn in range(20):
        lengths = [chance.choice((0, 0, 1, model.frame_size, 3 * model.frame_size, 77)) for _ in rows]
        step(stream, rows, noise(3, 1, max(lengths) + chance.choice((0, 5)), seed=turn), lengths)
    finish(stream, rows)
    for row in rows:
        row.check(whole=True)


@pytest.mark.parametrize("lengths", [[1], [1, 2, 3], [-1, 5], [0, 6]])
def test_lengths_that_do_not_fit_are_refused(tiny_model, lengths):
    with pytest.raises(ValueError, match="2 numbers from 0 to 5"):
        tiny_model.stream(2).encode(torch.zeros(2, 1, 5), lengths)


@pytest.mark.parametrize("bad", [
    [[5, -1, 7], [1, 2, 3]],  # in the middle
    [[5, 6, -1], [1, 2, 3]],  # at the end
    [[-1, 5, 6], [-1, 2, 3]],  # of no row
    [[-2, 5, 6], [1, 2, 3]],
])
def test_codes_that_are_missing_elsewhere_are_refused(tiny_model, bad):
    codes = torch.tensor(bad)[:, None].repeat(1, 4, 1)
    with pytest.raises(ValueError, match="lie outside 0 to 31"):
        tiny_model.stream(2).decode(codes)
    part = torch.tensor([[5, 6, 7], [1, 2, 3]])[:, None].repeat(1, 4, 1)
    part[0, 1, 0] = -1  # in one codebook only
    with pytest.raises(ValueError, match="lie outside 0 to 31"):
        tiny_model.stream(2).decode(part)


@pytest.mark.parametrize("name", NAMES)
def test_rows_move_between_streams(name):
    model = streamed(name)
    wav = noise(3, 1, 3000, seed=4)
    stream, rows = model.stream(3), [Row(model) for _ in range(3)]
    step(stream, rows, wav[..., :1111])
    lone = stream.take([1])  # in the middle of a frame
    stream, rows, own = stream.take([2, 0]), [rows[2], rows[0]], [rows[1]]
    step(stream, rows, wav[[2, 0], :, 1111:1500])
    step(lone, own, wav[1:2, :, 1111:2222])
    stream.join(lone)
    rows += own
    assert stream.batch_size == 3
    step(stream, rows, noise(3, 1, 800, seed=5))
    ended = stream.take([2])
    finish(ended, rows[2:])  # the others are not touched by it
    rows[2].check(whole=True)
    stream = stream.take([0, 1])
    step(stream, rows[:2], noise(2, 1, 300, seed=6))
    finish(stream, rows[:2])
    for row in rows[:2]:
        row.check(whole=True)


def test_rows_that_are_not_there_are_refused(tiny_model, tiny_seanet):
    stream = tiny_model.stream(2)
    for rows in ([], [2], [-1], [0, 0]):
        with pytest.raises(ValueError, match="name each row once, of 0 to 1"):
            stream.take(rows)
    for other in (tiny_seanet.stream(), tiny_model.stream(num_codebooks=3)):
        with pytest.raises(ValueError, match="same model, as many codebooks"):
            stream.join(other)


@pytest.mark.parametrize("name", ["speech", pytest.param("mimi", marks=pytest.mark.slow)])
def test_sixty_four_signals_interleaved(name):
    """Any sizes, any moments: 64 signals of random lengths, each of which takes the place of one that has ended."""
    model, chance = streamed(name), random.Random(3)
    count = 64
    stream, rows, left = model.stream(count), [Row(model) for _ in range(count)], [chance.randint(1, 3000) for _ in range(count)]
    ended = 0
    for turn in range(16):
        size = chance.choice((1, 37, 160, 480, 700))
        lengths = [min(size, rest) for rest in left]
        step(stream, rows, noise(count, 1, size, seed=turn), lengths)
        left = [rest - length for rest, length in zip(left, lengths)]
        gone = [index for index, rest in enumerate(left) if rest == 0]
        if gone:
            last = stream.take(gone)
            finish(last, [rows[index] for index in gone])
            mask = torch.zeros(count, dtype=torch.bool)
            mask[gone] = True
            stream.reset(mask)
            for index in gone:
                rows[index].check(whole=True)
                rows[index], left[index], ended = Row(model), chance.randint(1, 3000), ended + 1
    assert ended > 20
    finish(stream, rows)
    for row in rows:
        row.check(whole=True)


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_step_run_as_one_batch(name):
    """After a row has started anew at the border of a frame, one call of the network is enough again."""
    model, calls = streamed(name), []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[0]))
    try:
        with model.stream(3) as stream:
            size = 8 * model.frame_size
            stream.encode(noise(3, 1, size))
            stream.reset(torch.tensor([True, False, False]))
            stream.encode(noise(3, 1, size))
            calls.clear()
            for _ in range(20):
                stream.encode(noise(3, 1, size))
            assert calls[-1] == 3
            last = len(calls)
            stream.encode(noise(3, 1, size))
            assert len(calls) - last == 1
    finally:
        hook.remove()


def test_many_random_chunkings_of_a_stream_with_resets():
    """No sample is lost or doubled for any sizes: what a row has had, it has had in order."""
    model, chance = streamed("speech"), random.Random(5)
    for trial in range(10):
        stream, rows = model.stream(2), [Row(model), Row(model)]
        for index, size in enumerate(random_cuts(2000, 400, chance)):
            step(stream, rows, noise(2, 1, size, seed=1000 * trial + index))
            if chance.random() < 0.1:
                rows[0].check()
                stream.reset([True, False])
                rows[0] = Row(model)
        finish(stream, rows)
        for row in rows:
            row.check(whole=True)
