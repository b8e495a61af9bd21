"""Entropy-coded blocks: exact, independent, refused where they are wrong, and the same bytes for ever."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
import torch
from small_priors import likely_codes, random_prior

from codec.config import CodecConfig
from codec.container import BLOCK, CRC, SYNC, TokError, TokReader, TokWriter
from codec.entropy import Prior, pack, prior_of, priors_in, priors_in_the_box, unpack
from codec.entropy.ans import SCALE, Decoder, encode
from codec.entropy.fitting import fit_prior
from codec.entropy.prior import _EXP, Context
from codec.hub import PRETRAINED, models
from codec.tokens import Tokens, TokenSpec

KNOWN = (30, 64, 7)  # to the prior
SIZES = (*KNOWN, 2, 1000)
SPEC = TokenSpec("tiny", 16000, 320, SIZES, "0123456789abcdef", "fedcba9876543210")
PRIOR = random_prior(KNOWN)
NARROW, SUMMED = Context(2), Context(3, summed=True)
WIDE = random_prior(KNOWN, seed=4, context=SUMMED)


def write(codes, prior=PRIOR, spec=SPEC, block=10):
    file = io.BytesIO()
    channels, codebooks, frames = codes.shape
    with TokWriter(file, spec, codebooks, 16000, channels, prior=prior) as writer:
        for start in range(0, frames, block):
            writer.write(codes[..., start : start + block])
            writer.flush()
        writer.finish(frames * 320)
    return file.getvalue()


def read(data, prior=PRIOR, **how):
    reader = TokReader(io.BytesIO(data), prior=prior, **how)
    return np.concatenate([codes for _, codes in reader.blocks()], axis=2), reader


def blocks(data):
    """(place, coding, size of the payload) of each block."""
    found, at = [], data.index(SYNC)
    while data[at : at + 4] == SYNC:
        *_, coding, size = BLOCK.unpack_from(data, at)
        found.append((at, coding, size))
        at += BLOCK.size + size + CRC.size
    return found


def with_payload(data, payload, frames=None):
    """The first block with another payload (and number of frames) and the right checksum; what follows it is kept."""
    at, _, size = blocks(data)[0]
    sync, index, first, old, coding, _ = BLOCK.unpack_from(data, at)
    seed = CRC.unpack_from(data, at - 4)[0]
    block = BLOCK.pack(sync, index, first, frames or old, coding, len(payload)) + payload
    return data[:at] + block + CRC.pack(zlib.crc32(block, seed)) + data[at + BLOCK.size + size + CRC.size :]


# The coder


def test_symbols_come_back_and_cost_what_they_must():
    rng = np.random.default_rng(0)
    widths = np.array([1, 2, 10, 1000, 30000, (1 << SCALE) - 31013])
    starts = np.cumsum(widths) - widths
    symbols = rng.choice(6, 5000, p=widths / widths.sum()).tolist() + [0] * 50
    data = encode([int(starts[s]) for s in symbols], [int(widths[s]) for s in symbols])
    bits = (SCALE - np.log2(widths[symbols])).sum()
    assert len(data) < bits / 8 * 1.002 + 5
    decoder = Decoder(data)
    for symbol in symbols:
        assert starts[symbol] <= decoder.place < starts[symbol] + widths[symbol]
        decoder.take(int(starts[symbol]), int(widths[symbol]))
    assert decoder.at_end
    with pytest.raises(ValueError):
        Decoder(data[:3])


# The prior


def test_frequencies_are_whole_positive_and_add_up():
    for k in range(3):
        rows = np.array(KNOWN)[:, None].repeat(5, 1)
        table = PRIOR.frequencies(k, [rows] * PRIOR.context.order, np.zeros_like(rows))
        assert table.dtype == np.int64 and table.shape == (5, KNOWN[k]) and table.min() >= 1
        assert (table.sum(axis=1) == 1 << SCALE).all()


def test_the_table_of_exponentials_is_what_it_says():
    assert np.abs(_EXP - 2.0**24 * np.exp(-np.arange(len(_EXP)) / 64)).max() < 1.5


@pytest.mark.parametrize("context, k", [(NARROW, 2), (SUMMED, 1)])
def test_frequencies_by_whole_numbers_alone(context, k):
    """As docs/tok-format.md says, in Python's integers."""
    rng = np.random.default_rng(1)
    wide = random_prior((50, 40, 30), width=16, hidden=64, seed=3, scale=127, context=context)
    before = [np.stack([rng.integers(0, size + 1, 20) for size in wide.sizes]) for _ in range(context.order)]  # "none" among them
    now = np.stack([rng.integers(0, size, 20) for size in wide.sizes])
    t = {name: value.tolist() for name, value in wide.tensors.items()}
    table = wide.frequencies(k, before, now)

    def embedding(j, code):
        return t[f"embedding.{j}"][code] if code < wide.sizes[j] else [0] * 16

    for n in range(20):
        inputs = [[embedding(j, frame[j, n]) for j in range(3)] for frame in before] + [[embedding(j, now[j, n]) for j in range(k)]]
        if context.summed:
            inputs = [[sum(column) for column in zip(*frame)] for frame in inputs]
        else:
            inputs = [[x for each in frame for x in each] for frame in inputs]
        inputs = [x for frame in inputs for x in frame]
        hidden = [min(127, max(0, (sum(w * x for w, x in zip(row, inputs, strict=True)) + b) >> 6))
                  for row, b in zip(t[f"hidden.{k}.weight"], t[f"hidden.{k}.bias"])]
        scores = [sum(w * x for w, x in zip(row, hidden)) + b for row, b in zip(t[f"output.{k}.weight"], t[f"output.{k}.bias"])]
        weights = [int(_EXP[min(1023, (max(scores) - score) >> 4)]) for score in scores]
        expected = [1 + weight * (65536 - wide.sizes[k]) // sum(weights) for weight in weights]
        expected[scores.index(max(scores))] += 65536 - sum(expected)
        assert table[n].tolist() == expected


def test_batches_do_not_change_frequencies():
    rng = np.random.default_rng(2)
    rows = [np.stack([rng.integers(0, size, 300) for size in KNOWN]) for _ in range(3)]
    whole = PRIOR.frequencies(2, rows[:2], rows[2])
    for n in (0, 7, 299):
        alone = PRIOR.frequencies(2, [row[:, n : n + 1] for row in rows[:2]], rows[2][:, n : n + 1])
        assert np.array_equal(alone[0], whole[n])


def test_priors_that_are_none(tmp_path):
    good = PRIOR.tensors
    wrong = [
        {}, {**good, "more": good["embedding.0"]}, {k: v for k, v in good.items() if k != "hidden.2.bias"},
        {**good, "output.1.weight": good["output.1.weight"][:-1]}, {**good, "embedding.1": good["embedding.1"][:, :2]},
        {**good, "hidden.0.weight": good["hidden.0.weight"].astype(np.float32)},
        {**good, "output.0.bias": np.full(30, 1 << 30, np.int32)}, {**good, "embedding.0": np.zeros((4097, 4), np.int8)},
    ]
    for tensors in wrong:
        with pytest.raises(ValueError):
            Prior(tensors)
    with pytest.raises(ValueError, match="hidden.*too wide or too large for exact sums"):
        random_prior(KNOWN, width=32, scale=127, context=Context(100, summed=True))
    (tmp_path / "prior.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="holds no prior"):
        prior_of(tmp_path)
    with pytest.raises(ValueError, match="no prior.safetensors"):
        prior_of(tmp_path / "gone")
    with pytest.raises(ValueError, match="in the box"):
        priors_in_the_box("../pretrained/speech-16k")


def test_a_prior_is_saved_and_known_again(tmp_path):
    PRIOR.save(tmp_path)
    again = prior_of(tmp_path)
    assert again.id == PRIOR.id and again.sizes == KNOWN and random_prior(KNOWN, seed=1).id != PRIOR.id


@pytest.mark.parametrize("sizes", [(30,), (30, 64), KNOWN])
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("summed", [False, True])
def test_a_prior_tells_its_context(sizes, order, summed):
    found = random_prior(sizes, context=Context(order, summed)).context
    assert found == Context(order, summed and len(sizes) > 1)  # of one codebook there is nothing to add up


def test_fitting_learns_what_follows_what():
    spec = TokenSpec("tiny", 16000, 320, (16, 5), "0" * 16, "1" * 16)
    rng = np.random.default_rng(0)

    def recording(frames):  # each code is told by the one before, nine times of ten; the second codebook by the first
        codes = np.zeros((2, frames), np.int64)
        for t in range(1, frames):
            codes[0, t] = (codes[0, t - 1] * 5 + 3) % 16 if rng.random() < 0.9 else rng.integers(16)
        codes[1] = codes[0] % 5
        return codes

    vectors = torch.eye(16, 8), 0.2 * torch.eye(5, 8)
    state = torch.random.get_rng_state()
    prior = fit_prior([recording(1000) for _ in range(8)], spec, width=4, hidden=16, epochs=30, learning_rate=0.02)
    assert torch.equal(state, torch.random.get_rng_state())
    codes = recording(500)[None]
    sizes = spec.codebook_sizes
    assert np.array_equal(unpack(pack(codes, sizes, prior), codes.shape, sizes, prior), codes)
    assert len(pack(codes, sizes, prior)) < 0.25 * 500 * 7 / 8
    assert len(pack(codes[:, :1], sizes, prior)) < 0.4 * 500 * 4 / 8  # fewer codebooks
    assert fit_prior([codes[0]], spec, epochs=0, start=prior).id == prior.id  # goes on from just there
    wide = fit_prior([recording(1000) for _ in range(8)], spec, width=4, hidden=16, epochs=30, learning_rate=0.02, vectors=vectors, order=3)
    assert wide.context == SUMMED and len(pack(codes, sizes, wide)) < 0.25 * 500 * 7 / 8
    assert fit_prior([codes[0]], spec, epochs=0, start=wide).id == wide.id
    further = fit_prior([recording(1000) for _ in range(8)], spec, epochs=10, start=prior)
    assert further.id != prior.id and len(pack(codes, sizes, further)) < 1.05 * len(pack(codes, sizes, prior))
    with pytest.raises(ValueError, match="first 2 codebooks"):
        fit_prior([codes[0, :1]], spec)
    with pytest.raises(ValueError, match="one frame rate"):
        fit_prior([codes[0]], TokenSpec("slow", 16000, 320, (16, 16), "0" * 16, "1" * 16, strides=(2, 1)))


# Files


@pytest.mark.parametrize("codebooks", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("prior", [PRIOR, WIDE])
def test_round_trip_and_fewer_bytes(codebooks, channels, prior):
    codes = likely_codes(prior, SIZES[:codebooks], 700, channels)
    data, packed = write(codes, prior, block=1000), write(codes, prior=None, block=1000)
    got, reader = read(data, prior)
    assert got.dtype == np.int64 and np.array_equal(got, codes) and reader.complete
    assert [coding for _, coding, _ in blocks(data)] == [2, 2] and len(data) < 0.9 * len(packed)
    assert np.array_equal(read(packed, prior)[0], codes)


def test_random_codes_are_never_larger_than_bit_packed_ones():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, (2, 300)) for size in SIZES], axis=1)
    data = write(codes, block=1000)
    assert np.array_equal(read(data)[0], codes) and len(data) <= len(write(codes, prior=None, block=1000))
    assert np.array_equal(unpack(pack(codes, SIZES, PRIOR), codes.shape, SIZES, PRIOR), codes)  # even so


def test_live_blocks_of_single_frames():
    codes = likely_codes(PRIOR, SIZES, 12)
    data = write(codes, block=1)
    assert np.array_equal(read(data)[0], codes) and len(data) <= len(write(codes, prior=None, block=1))
    part = data[: blocks(data)[5][0]]
    got, reader = read(part, still_writing=True)
    assert np.array_equal(got, codes[..., :5]) and not reader.complete


def test_through_a_pipe():
    codes = likely_codes(PRIOR, SIZES, 600)
    out, into = os.pipe()

    def feed():
        with open(into, "wb") as pipe:
            pipe.write(write(codes))

    feeder = threading.Thread(target=feed)
    feeder.start()
    with open(out, "rb", buffering=0) as pipe:
        got = np.concatenate([part for _, part in TokReader(pipe, prior=PRIOR).blocks()], axis=2)
    feeder.join()
    assert np.array_equal(got, codes)


def test_tokens_save_and_load(tmp_path):
    codes = likely_codes(PRIOR, SIZES, 200, 2)
    tokens = Tokens(torch.from_numpy(codes), SPEC, 16000, (200 * 320,), channels=2)
    tokens.save(tmp_path / "a.tok", prior=PRIOR)
    tokens.save(tmp_path / "b.tok")
    assert (tmp_path / "a.tok").stat().st_size < (tmp_path / "b.tok").stat().st_size
    assert torch.equal(Tokens.load(tmp_path / "a.tok", prior=PRIOR).codes, tokens.codes)
    with pytest.raises(TokError, match="entropy-coded.*no prior for model 'tiny'"):
        Tokens.load(tmp_path / "a.tok")


def test_what_a_prior_does_not_fit_is_refused():
    slow = TokenSpec("slow", 16000, 320, SIZES, "0" * 16, "1" * 16, strides=(2, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="several frame rates"):
        TokWriter(io.BytesIO(), slow, 5, 16000, prior=PRIOR)
    other = TokenSpec("other", 16000, 320, (30, 65), "0" * 16, "1" * 16)
    with pytest.raises(ValueError, match="codebooks"):
        TokWriter(io.BytesIO(), other, 2, 16000, prior=PRIOR)


@pytest.mark.parametrize("name", models())
def test_models_in_the_box_have_a_prior_that_readers_find(name):
    prior, *others = priors_in_the_box(name)
    assert prior_of(name) is prior and len(others) == len(list((PRETRAINED / name).glob("*.safetensors"))) - 2
    if (PRETRAINED / name / "variable.safetensors").is_file():
        assert prior_of(name, variable=True) is others[0]
    config = CodecConfig.from_json(PRETRAINED / name / "config.json")
    spec = TokenSpec(name, 16000, 320, (1024,) * 8, "0" * 16, "1" * 16)
    assert config.frame_size == 320 and prior.sizes == (1024,) * 8
    codes = likely_codes(prior, spec.codebook_sizes, 60)
    data = write(codes, prior, spec, block=60)
    assert blocks(data)[0][1] == 2 and np.array_equal(read(data, prior=None)[0], codes)
    assert np.array_equal(read(data)[0], codes)  # where another prior is given
    for each in others:  # those of before, too
        codes = likely_codes(each, spec.codebook_sizes, 60)
        data = write(codes, each, spec, block=60)
        assert blocks(data)[0][1] == 2 and np.array_equal(read(data, prior=None)[0], codes)


@pytest.mark.parametrize("name, variable", [("prior", False), ("variable", True)])
def test_older_priors_are_kept_for_what_was_written_with_them(name, variable, tmp_path):
    older, newer = random_prior(SIZES), random_prior(SIZES, seed=4, context=SUMMED)
    older.save(tmp_path, variable)
    codes = likely_codes(older, SIZES, 100)
    data = write(codes, older, block=100)
    (tmp_path / f"{name}.safetensors").rename(tmp_path / f"{name}.1.safetensors")
    newer.save(tmp_path, variable)
    assert [each.id for each in priors_in(tmp_path)] == [newer.id, older.id] and prior_of(tmp_path, variable).id == newer.id
    assert blocks(data)[0][1] == 2 and np.array_equal(read(data, priors_in(tmp_path))[0], codes)


# Damage


@pytest.mark.parametrize("salvage", [False, True])
def test_another_prior_is_refused(salvage):
    data = write(likely_codes(PRIOR, SIZES, 40), block=20)
    for prior in (random_prior(KNOWN, seed=1), random_prior((30, 64, 3)), None):
        with pytest.raises(TokError, match="block 1 is entropy-coded"):
            read(data, prior=prior, salvage=salvage)


def test_a_damaged_block_takes_no_other_with_it():
    codes = likely_codes(PRIOR, SIZES, 200)
    data = write(codes, block=50)
    assert [coding for _, coding, _ in blocks(data)] == [2] * 4
    for n, (at, _, size) in enumerate(blocks(data)):
        for place in (at, at + 12, at + BLOCK.size, at + BLOCK.size + size // 2, at + BLOCK.size + size):
            damaged = bytearray(data)
            damaged[place] ^= 16
            with pytest.raises(TokError):
                read(bytes(damaged))
            got, reader = read(bytes(damaged), salvage=True)
            assert reader.lost == ((50 * n, 50 * n + 50),)
            good = np.r_[: 50 * n, 50 * n + 50 : 200]
            assert np.array_equal(got[..., good], codes[..., good])


def test_every_flipped_bit_and_every_cut_is_noticed():
    data = write(likely_codes(PRIOR, SIZES, 24), block=12)
    assert [coding for _, coding, _ in blocks(data)] == [2, 2]
    for at in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        for wrong in (bytes(damaged), data[:at]):
            with pytest.raises(TokError):
                read(wrong)
            try:
                read(wrong, salvage=True)
            except TokError:
                pass


def test_crafted_payloads_with_the_right_checksum():
    codes = likely_codes(PRIOR, SIZES, 60)
    data = write(codes, block=30)
    at, _, size = blocks(data)[0]
    payload = data[at + BLOCK.size : at + BLOCK.size + size]
    rng = np.random.default_rng(0)
    for wrong in (payload[:-1], payload + b"\0", payload[:8], payload[:5], payload[:4] + b"\xff" * (size - 4), payload[:4]):
        with pytest.raises(TokError, match="no codes that its prior can have made"):
            read(with_payload(data, wrong))
        got, reader = read(with_payload(data, wrong), salvage=True)
        assert reader.lost == ((0, 30),) and np.array_equal(got[..., 30:], codes[..., 30:])
    for _ in range(40):  # some are other codes, as those of a prior can be; the end block still tells
        wrong = bytearray(payload)
        wrong[int(rng.integers(4, size))] ^= 1 << int(rng.integers(8))
        for data_wrong in (with_payload(data, bytes(wrong)), with_payload(data, payload[:4] + rng.bytes(int(rng.integers(200))))):
            with pytest.raises(TokError):
                read(data_wrong)
            got, reader = read(data_wrong, salvage=True)
            assert reader.lost in ((), ((0, 30),)) and np.array_equal(got[..., 30:], codes[..., 30:])
            assert (got >= 0).all() and (got < np.array(SIZES)[:, None]).all()
    for wrong in (b"", payload[:3], b"xxxx" + payload[4:]):
        with pytest.raises(TokError, match="with prior"):
            read(with_payload(data, wrong))


def test_numbers_that_would_take_for_ever_are_refused_at_once():
    data = write(likely_codes(PRIOR, SIZES, 60), block=30)
    at, _, size = blocks(data)[0]
    with pytest.raises(TokError, match="more than 131072"):
        read(with_payload(data, data[at + BLOCK.size : at + BLOCK.size + size], frames=1 << 16))


# The format


def test_the_bytes_are_what_they_were():
    """Golden: a change here is a change of the format, and needs a new coding."""
    assert PRIOR.id.hex() == "c3dc53d2"
    steps = np.arange(40)
    codes = np.stack([steps * 7 % 30, steps * steps % 64, steps // 3 % 7, steps // 5 % 2, steps * 31 % 1000])[None]
    payload = pack(codes, SIZES, PRIOR)
    assert hashlib.sha256(payload).hexdigest() == "bc5124cc1221d3cb9d4afe893c5ff4019522094077b37c5851aa83d8ff6885b4"
    assert payload[:16].hex() == "c3dc53d203100e76039d39d4382e16ac"
    assert np.array_equal(unpack(payload, codes.shape, SIZES, PRIOR), codes)


PROGRAM = """
import sys, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from small_priors import random_prior
from codec.entropy import pack
torch.set_num_threads(2)
prior = random_prior((1024, 1000), width=16, hidden=64)
codes = np.random.default_rng(0).integers(0, 1000, (2, 2, 100))
print(pack(codes, (1024, 1000), prior).hex())
"""


def test_the_same_bytes_with_any_number_of_threads():
    found = set()
    for threads in ("1", "2"):
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)}
        done = subprocess.run([sys.executable, "-c", PROGRAM, os.path.dirname(__file__)], capture_output=True, text=True,
                              env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    prior = random_prior((1024, 1000), width=16, hidden=64)
    codes = np.random.default_rng(0).integers(0, 1000, (2, 2, 100))
    assert found == {pack(codes, (1024, 1000), prior).hex() + "\n"}
