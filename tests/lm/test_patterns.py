"""Patterns against steps written down one by one, as the papers draw them, and what they refuse."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import codec
from codec.lm import patterns

SIZE, SPECIAL = 50, 50


def steps_of(name: str, k: int, frames: int, **settings) -> list[list[tuple[int, int]]]:
    """For each step the (frame, codebook) pairs that are written in it; found by walking over time, without any formula for
    where a code stands."""
    if frames == 0:
        return []
    if name == "flatten":
        strides = settings.get("strides", (1,) * k)
        return [[(t, q)] for t in range(frames) for q in range(k) if t % strides[q] == 0]
    if name == "coarse_first" and settings.get("flat"):
        coarse = settings.get("coarse", 1)
        first = [[(t, q)] for t in range(frames) for q in range(coarse)]
        return first + [[(t, q)] for t in range(frames) for q in range(coarse, k)]
    delays = settings.get("delays") or (tuple(range(k)) if name == "delay" else (0,) * k)
    if name == "coarse_first":
        coarse, out = settings.get("coarse", 1), []
        for books in (range(coarse), range(coarse, k)):
            waiting = {(t, q): t + delays[q] for q in books for t in range(frames)}
            for now in range(max(waiting.values(), default=-1) + 1):
                out.append([pair for pair, when in waiting.items() if when == now])
        return out
    groups = settings.get("groups", (0,) * k)
    out = []
    for now in range(frames + max(delays)):
        for group in range(max(groups) + 1):
            out.append([(now - delays[q], q) for q in range(k) if groups[q] == group and 0 <= now - delays[q] < frames])
    return out


def written(codes: list[list[int]], steps: list[list[tuple[int, int]]], flat: bool) -> list:
    """The sequence of one row, (K, S) or (S,)."""
    if flat:
        return [codes[q][t] for ((t, q),) in steps]
    sequence = [[SPECIAL] * len(steps) for _ in codes]
    for step, pairs in enumerate(steps):
        for t, q in pairs:
            sequence[q][step] = codes[q][t]
    return sequence


CASES = [
    ("parallel", 1, {}), ("parallel", 4, {}), ("delay", 1, {}), ("delay", 4, {}), ("delay", 8, {"delays": (0,) + (1,) * 7}),
    ("delay", 3, {"delays": (2, 0, 5)}), ("delay", 2, {"delays": (3, 3)}), ("flatten", 1, {}), ("flatten", 3, {}),
    ("flatten", 3, {"strides": (4, 2, 1)}), ("flatten", 4, {"strides": (8, 4, 2, 1)}), ("flatten", 2, {"strides": (3, 3)}),
    ("partially_flattened", 4, {"groups": (0, 1, 1, 1)}), ("partially_flattened", 3, {"groups": (1, 0, 2)}),
    ("partially_flattened", 4, {"groups": (0, 1, 1, 1), "delays": (0, 1, 2, 3)}),
    ("partially_flattened", 5, {"groups": (0, 1, 1, 0, 0), "delays": (2, 3, 1, 3, 4)}),  # the last code comes before its step's end
    ("coarse_first", 1, {}), ("coarse_first", 4, {}), ("coarse_first", 4, {"coarse": 2}), ("coarse_first", 3, {"coarse": 3}),
    ("coarse_first", 4, {"delays": (0, 0, 1, 2)}), ("coarse_first", 5, {"coarse": 2, "flat": True}),
]
IDS = [f"{name}-{k}-" + "-".join(settings) for name, k, settings in CASES]


def case(name, k, settings):
    pattern = patterns.build(name, k, codebook_sizes=SIZE, **settings)
    return pattern, max(settings.get("strides", (1,)))


def held(batch: int, k: int, frames: int, settings: dict, chance: random.Random) -> torch.Tensor:
    codes = [[[chance.randrange(SIZE) for _ in range(frames)] for _ in range(k)] for _ in range(batch)]
    for row in codes:
        for q, stride in enumerate(settings.get("strides", ())):
            row[q] = [row[q][t - t % stride] for t in range(frames)]
    return torch.tensor(codes, dtype=torch.int64).reshape(batch, k, frames)


@pytest.mark.parametrize("name, k, settings", CASES, ids=IDS)
def test_sequences_are_those_of_the_papers(name, k, settings):
    (pattern, period), chance = case(name, k, settings), random.Random(0)
    for frames in (0, 1, 2, 3, 5, 12):
        frames *= period
        codes = held(2, k, frames, settings, chance)
        sequence = pattern.apply(codes)
        steps = steps_of(name, k, frames, **settings)
        flat = name == "flatten" or settings.get("flat", False)
        expected = [written(row, steps, flat) for row in codes.tolist()]
        assert sequence.tolist() == expected and sequence.dtype == torch.int64
        assert sequence.shape == ((2, len(steps)) if flat else (2, k, len(steps)))
        assert pattern.steps(frames) == len(steps) and pattern.frames(len(steps)) == frames
        assert torch.equal(pattern.revert(sequence), codes)


@pytest.mark.parametrize("name, k, settings", CASES, ids=IDS)
def test_ragged_batches(name, k, settings):
    (pattern, period), chance = case(name, k, settings), random.Random(1)
    for lengths in ((0, 3, 7, 1, 3), (0, 0), (4,), ()):
        lengths = [n * period for n in lengths]
        codes = held(len(lengths), k, max(lengths, default=0) + period, settings, chance)
        sequence, masks = pattern.apply(codes, lengths), pattern.mask(lengths)
        assert masks.loss.shape == sequence.shape and masks.attention.shape == (len(lengths), sequence.shape[-1])
        for row, n in enumerate(lengths):
            alone = pattern.apply(codes[row : row + 1, :, :n])[0]
            assert torch.equal(sequence[row, ..., : alone.shape[-1]], alone)
            assert (sequence[row, ..., alone.shape[-1] :] == SPECIAL).all()
            assert masks.attention[row].tolist() == [step < alone.shape[-1] for step in range(sequence.shape[-1])]
        assert torch.equal(masks.loss, sequence != SPECIAL)
        back = pattern.revert(sequence, torch.tensor(lengths, dtype=torch.int64))
        valid = torch.arange(max(lengths, default=0)) < torch.tensor(lengths).reshape(-1, 1, 1)
        assert torch.equal(back, codes[..., : back.shape[2]] * valid)


@pytest.mark.parametrize("name, k, settings", CASES, ids=IDS)
def test_online_gives_each_frame_once_and_as_soon_as_it_is_there(name, k, settings):
    (pattern, period), chance = case(name, k, settings), random.Random(2)
    frames = 9 * period
    codes = held(2, k, frames, settings, chance)
    sequence, steps = pattern.apply(codes), steps_of(name, k, frames, **settings)
    online, staged = pattern.online(2, frames), name == "coarse_first"
    found, start = torch.zeros(2, k, 0, dtype=torch.int64), 0
    while start < len(steps):
        size = chance.choice((0, 1, 1, 2, 7))
        found = torch.cat([found, online.push(sequence[..., start : start + size])], 2)
        start += size
        there = set(itertools.chain(*steps[:start]))
        ready = 0  # whole groups of frames, all of whose codes have been written
        strides = settings.get("strides", (1,) * k)
        while ready < frames and all(
            (t, q) in there for t in range(ready, ready + period) for q in range(k) if t % strides[q] == 0
        ):
            ready += period
        assert found.shape[2] == ready == online.frames
    assert torch.equal(found, codes)
    if not staged:  # a model that does not know its end
        assert torch.equal(pattern.online(2).push(sequence), codes)


def test_a_model_that_stops_in_the_middle_of_a_frame():
    for pattern in (patterns.build("flatten", 4), patterns.build("delay", 4), patterns.build("flatten", 3, strides=(4, 2, 1))):
        k, period = pattern.num_codebooks, pattern.period
        codes = torch.arange(6).mul(period).repeat_interleave(period).expand(2, k, -1)
        sequence, counts = pattern.apply(codes), []
        for stop in range(sequence.shape[-1] + 1):
            part = pattern.revert(sequence[..., :stop])
            assert torch.equal(part, codes[..., : part.shape[2]])
            assert torch.equal(part, pattern.online(2).push(sequence[..., :stop]))
            counts.append(part.shape[2])
        assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == codes.shape[2] and counts[-2] < counts[-1]
    with pytest.raises(ValueError, match="no number of frames takes 7 steps of coarse_first"):
        patterns.build("coarse_first", 4).revert(torch.zeros(1, 4, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match="5 frames take 8 steps of delay, but the sequence has 7"):
        patterns.build("delay", 4).revert(torch.zeros(1, 4, 7, dtype=torch.int64), [5])


def test_places_without_a_code_are_not_looked_at():
    pattern = patterns.build("delay", 3, codebook_sizes=SIZE)
    codes = torch.randint(SIZE, (1, 3, 5))
    sequence = pattern.apply(codes)
    sequence[sequence == SPECIAL] = 999
    assert torch.equal(pattern.revert(sequence), codes)


def test_codebooks_of_different_sizes_and_the_special_id():
    pattern = patterns.build("flatten", 3, codebook_sizes=(8, 4, 2))
    codes = torch.tensor([[[7, 0], [3, 0], [1, 0]]])
    assert pattern.special == 8 and torch.equal(pattern.revert(pattern.apply(codes)), codes)
    assert patterns.build("delay", 2).special == -1 and patterns.build("delay", 2, special=2048).special == 2048
    assert patterns.build("delay", 2, codebook_sizes=8, special=11).apply(codes[:, :2])[0, 1, 0] == 11
    with pytest.raises(ValueError, match=r"row 0, frame 1, codebook 1: 4 is no code: codes there go from 0 to 3"):
        pattern.apply(torch.tensor([[[0, 0], [0, 4], [0, 0]]]))


@pytest.mark.parametrize("name, place", [("flatten", (1, 7)), ("delay", (1, 1, 3)), ("parallel", (1, 1, 2))])
@pytest.mark.parametrize("value, words", [(SPECIAL, "50 is the special id"), (-1, "-1 is no code"), (SIZE + 9, "59 is no code")])
def test_ids_that_are_no_codes_are_named_with_their_place(name, place, value, words):
    pattern = patterns.build(name, 3, codebook_sizes=SIZE)
    sequence = pattern.apply(torch.zeros(2, 3, 5, dtype=torch.int64))
    sequence[place] = value
    expected = f"row 1, step {place[-1]}, codebook 1: {words}: codes there go from 0 to 49"
    with pytest.raises(ValueError, match=expected):
        pattern.revert(sequence)
    online = pattern.online(2)
    first = online.push(sequence[..., :2])
    with pytest.raises(ValueError, match=expected):
        online.push(sequence[..., 2:])
    sequence[place] = 0  # nothing has changed: the step can be given again
    assert first.shape[2] + online.push(sequence[..., 2:]).shape[2] == 5


@pytest.mark.parametrize("name, k, settings, words", [
    ("delays", 4, {}, "there is parallel, delay"), ("delay", 0, {}, "at least 1"),
    ("parallel", 4, {"delays": (0, 1, 2, 3)}, "parallel takes no delays"), ("flatten", 4, {"groups": (0,) * 4}, "no groups"),
    ("delay", 4, {"delays": (0, 1)}, "4 numbers"), ("delay", 2, {"delays": (0, -1)}, "at least 0"),
    ("partially_flattened", 4, {}, "needs groups"), ("partially_flattened", 3, {"groups": (0, 2, 2)}, "none is empty"),
    ("coarse_first", 4, {"coarse": 5}, "1 to 4 come first"), ("coarse_first", 4, {"coarse": 0}, "1 to 4 come first"),
    ("delay", 3, {"strides": (4, 2, 1)}, "take flatten"), ("flatten", 2, {"strides": (3, 2)}, "divide the longest"),
    ("delay", 3, {"codebook_sizes": (8, 8)}, "3 numbers"), ("delay", 3, {"codebook_sizes": 8, "special": 7}, "take 8 or more"),
    ("flatten", 4, {"flat": True}, "takes no flat"),
])
def test_settings_that_do_not_fit_are_refused(name, k, settings, words):
    with pytest.raises(ValueError, match=words):
        patterns.build(name, k, **settings)


def test_shapes_that_do_not_fit_are_refused():
    pattern = patterns.build("delay", 3)
    for wrong in (torch.zeros(1, 2, 5).long(), torch.zeros(3, 5).long(), torch.zeros(1, 3, 5)):
        with pytest.raises(ValueError, match=r"integers \(B, 3, "):
            pattern.apply(wrong)
        with pytest.raises(ValueError, match=r"integers \(B, 3, S\)"):
            pattern.revert(wrong)
    codes = torch.zeros(2, 3, 5, dtype=torch.int64)
    for lengths in ([5], [5, 6], [-1, 2], [1.5, 2.0], torch.tensor([1.0, 2.0]), [True, False]):
        with pytest.raises(ValueError, match="2 numbers of frames, from 0 to 5"):
            pattern.apply(codes, lengths)
    with pytest.raises(ValueError, match=r"integers \(B, S\)"):
        patterns.build("flatten", 3).revert(codes)
    with pytest.raises(ValueError, match="groups of 4"):
        patterns.build("flatten", 3, strides=(4, 2, 1)).apply(codes)
    with pytest.raises(ValueError, match="row 1, frame 3, codebook 0: the code changes within the 4 frames"):
        codes = torch.zeros(2, 3, 4, dtype=torch.int64)
        codes[1, 0, 3] = 1
        patterns.build("flatten", 3, strides=(4, 2, 1)).apply(codes)
    with pytest.raises(ValueError, match="of 1 rows: 2 are written"):
        pattern.online(2).push(torch.zeros(1, 3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"online\(frames=...\)"):
        patterns.build("coarse_first", 3).online()


def test_speech_is_decoded_while_a_model_writes(tiny_model):
    """The samples of a sequence that comes step by step are those of the whole one."""
    pattern = codec.lm.patterns.build("delay", num_codebooks=4, codebook_sizes=32)
    codes = torch.randint(32, (1, 4, 40), generator=torch.Generator().manual_seed(0))
    sequence, online, parts = pattern.apply(codes), pattern.online(), []
    with tiny_model.stream() as stream:
        for step in sequence.unbind(2):
            parts.append(stream.decode(online.push(step[..., None])))
        parts.append(stream.flush_decoder())
    assert sum(part.shape[2] > 0 for part in parts) >= 40
    assert torch.equal(torch.cat(parts, 2), tiny_model.decode_frames(codes))
