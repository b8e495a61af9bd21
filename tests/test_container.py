"""The .tok format: round trips, every damaged byte, every cut, salvage, hostile numbers."""

from __future__ import annotations

import io
import os
import struct
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from codec import container
from codec.atomic import WriteError
from codec.container import TokError, TokReader, TokWriter
from codec.packing import Layout
from codec.tokens import Tokens, TokenSpec, frames_for

SPEC = TokenSpec("tiny", 16000, 320, (1024,) * 8, "0123456789abcdef", "fedcba9876543210")
ODD = TokenSpec("odd", 24000, 480, (1000, 2, 3, 65536, 7), "0" * 16, "1" * 16)


def make_codes(spec, frames, codebooks, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, (channels, frames)) for size in spec.codebook_sizes[:codebooks]], axis=1)


def make_file(frames=40, spec=SPEC, codebooks=2, channels=1, rate=16000, block=10):
    """A .tok file in blocks of `block` frames, and its codes (channels, K, frames)."""
    codes, file = make_codes(spec, frames, codebooks, channels), io.BytesIO()
    with TokWriter(file, spec, codebooks, rate, channels) as writer:
        for start in range(0, frames, block):
            writer.write(codes[..., start : start + block])
            writer.flush()
        writer.finish(frames * spec.frame_size * rate // spec.sample_rate)
    return file.getvalue(), codes


def read(data, **how):
    """All codes (channels, K, T), and the reader."""
    reader = TokReader(io.BytesIO(data), **how)
    parts = list(reader.blocks())
    assert [start for start, _ in parts] == list(np.cumsum([0] + [codes.shape[2] for _, codes in parts]))[:-1]
    empty = np.zeros((reader.channels, reader.num_codebooks, 0), np.int64)
    return np.concatenate([empty, *(codes for _, codes in parts)], axis=2), reader


def block_places(data):
    """Where the blocks begin, and the end block."""
    places, at = [], container.PREFIX.size + container.PREFIX.unpack_from(data)[2] + 4
    while data[at : at + 4] == container.SYNC:
        places.append(at)
        at += container.BLOCK.size + container.BLOCK.unpack_from(data, at)[5] + 4
    return places, at


@pytest.mark.parametrize("spec, codebooks, channels, rate", [
    (SPEC, 8, 1, 16000), (SPEC, 1, 2, 44100), (SPEC, 3, 8, 8000), (ODD, 5, 3, 24000), (ODD, 2, 1, 11025),
])
def test_round_trip(spec, codebooks, channels, rate):
    codes = make_codes(spec, 1234, codebooks, channels)
    samples = 1234 * spec.frame_size * rate // spec.sample_rate - 3
    file = io.BytesIO()
    with TokWriter(file, spec, codebooks, rate, channels) as writer:
        for part in np.split(codes, [0, 1, 8, 700, 700], axis=2):
            writer.write(torch.from_numpy(part))
        writer.finish(samples)
    got, reader = read(file.getvalue())
    assert got.dtype == np.int64 and np.array_equal(got, codes)
    assert (reader.spec, reader.num_codebooks, reader.sample_rate, reader.channels) == (spec, codebooks, rate, channels)
    assert reader.num_samples == samples and reader.lost == ()


def test_no_frames():
    data, _ = make_file(frames=0)
    codes, reader = read(data)
    assert codes.shape == (1, 2, 0) and reader.num_samples == 0
    assert read(data, salvage=True)[1].num_samples == 0


def test_packing_is_tight_and_exact():
    widths = np.array([1, 16, 10, 3, 10])
    codes = np.random.default_rng(0).integers(0, (1 << widths)[:, None], (5, 77))
    layout = Layout(1 << widths, np.ones(5, int))
    payload = layout.pack(codes)
    assert len(payload) == layout.num_bytes(0, 77) == -(-77 * 40 // 8)
    assert np.array_equal(layout.unpack(payload, 0, 77), codes)
    bits = "".join(f"{codes[c, t]:0{w}b}" for t in range(77) for c, w in enumerate(widths))  # as in docs/tok-format.md
    assert payload == int(bits.ljust(len(payload) * 8, "0"), 2).to_bytes(len(payload), "big")


@pytest.mark.parametrize("first", [0, 1, 3, 4, 8])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9, 50])
def test_codes_of_lower_rates_are_stored_once(first, frames):
    strides = np.array([4, 1, 2, 4])
    layout = Layout(np.array([1000, 16, 1024, 2]), strides)
    rng = np.random.default_rng(first)
    slow = [rng.integers(0, size, 99).repeat(stride) for size, stride in zip(layout.sizes, strides)]
    codes = np.stack([column[first : first + frames] for column in slow])
    payload = layout.pack(codes, first)
    assert len(payload) == layout.num_bytes(first, frames)
    assert np.array_equal(layout.unpack(payload, first, frames), codes)
    stored = {stride: len({t // stride for t in range(first, first + frames)}) for stride in (1, 2, 4)}
    assert len(payload) == -(-4 * stored[1] // 8) + -(-10 * stored[2] // 8) + -(-11 * stored[4] // 8)


def test_a_code_that_changes_within_its_stride_is_refused():
    with pytest.raises(ValueError, match="hold each code for 2 frames"):
        Layout(np.array([16]), np.array([2])).pack(np.array([[3, 4]]))


def test_files_of_several_rates_and_of_codebooks_that_belong_together():
    spec = TokenSpec("slow", 16000, 320, (64, 64, 64), "0" * 16, "1" * 16, counts=(2, 3), strides=(4, 2, 1))
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 64, 1204).repeat(stride)[:1204] for stride in spec.strides])[None]
    file = io.BytesIO()
    with TokWriter(file, spec, 3, 16000) as writer:
        for part in np.split(codes, [1, 7, 600, 601], axis=2):  # live: blocks end anywhere
            writer.write(part)
            writer.flush()
        writer.finish(1204 * 320)
    got, reader = read(file.getvalue())
    assert reader.spec == spec and np.array_equal(got, codes)
    whole = io.BytesIO()
    with TokWriter(whole, spec, 3, 16000) as writer:
        writer.write(codes)
        writer.finish(1204 * 320)
    assert np.array_equal(read(whole.getvalue())[0], codes)
    assert len(whole.getvalue()) < 1204 * 6 * 1.75 / 8 + 900  # 1/4 + 1/2 + 1 codes of 6 bits a frame, and the frame of the blocks
    with pytest.raises(ValueError, match="first 2, 3"):
        TokWriter(io.BytesIO(), spec, 1, 16000)


def test_an_hour_costs_what_the_bits_cost():
    file = io.BytesIO()
    with TokWriter(file, SPEC, 8, 16000) as writer:
        codes = np.zeros((1, 8, 1000), np.int64)
        for _ in range(180):
            writer.write(codes)
        writer.finish(180_000 * 320)
    assert len(file.getvalue()) < 1.01 * 3600 * 500  # 4 kbit/s is 500 bytes a second


def test_writing_in_any_portions_gives_the_same_file():
    codes = make_codes(SPEC, 1700, 4)
    files = []
    for portions in ([1700], [1] * 1700, [499, 2, 1199], [500, 500, 700]):
        file = io.BytesIO()
        with TokWriter(file, SPEC, 4, 16000) as writer:
            for part in np.split(codes, np.cumsum(portions)[:-1], axis=2):
                writer.write(part)
            writer.finish(1700 * 320)
        files.append(file.getvalue())
    assert len(set(files)) == 1


# Damage


def test_every_flipped_bit_is_noticed():
    data, _ = make_file(frames=6, block=3)
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(TokError):
                read(bytes(damaged))


def test_every_flipped_bit_can_be_salvaged():
    data, codes = make_file(frames=6, block=3)
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            got, reader = read(bytes(damaged), salvage=True)
            good = np.ones(got.shape[2], bool)
            for start, stop in reader.lost:
                good[start:stop] = False
            assert good.sum() >= 3
            assert np.array_equal(got[..., good], codes[..., : got.shape[2]][..., good])


def test_every_cut_is_noticed_and_salvaged():
    data, codes = make_file(frames=30, block=10)
    places, end = block_places(data)
    for size in range(len(data)):
        with pytest.raises(TokError):
            read(data[:size])
        whole = sum(stop <= size for stop in [*places[1:], end]) * 10
        if whole == 0:
            with pytest.raises(TokError):
                read(data[:size], salvage=True)
        else:
            got, reader = read(data[:size], salvage=True)
            assert np.array_equal(got, codes[..., :whole]) and reader.num_samples == whole * 320 and not reader.lost


def test_noise_in_a_file_raises_nothing_else():
    rng = np.random.default_rng(0)
    data, _ = make_file(frames=30, block=5)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 6)):
            at, size = int(rng.integers(len(data))), int(rng.integers(0, 60))
            new = rng.bytes(int(rng.integers(0, 60)))
            damaged[at : at + size] = new
        if bytes(damaged) == data:
            continue
        with pytest.raises(TokError):
            read(bytes(damaged))
        try:
            read(bytes(damaged), salvage=True)
        except TokError:
            pass


def test_errors_name_the_block_and_the_seconds():
    data, _ = make_file(frames=100, block=25)
    places, end = block_places(data)
    damaged = bytearray(data)
    damaged[places[2] + 40] ^= 1
    with pytest.raises(TokError, match=r"block 3, from 1\.00 s to 1\.50 s, is damaged: .*--salvage"):
        read(bytes(damaged))
    with pytest.raises(TokError, match=r"cut short in block 4; 1\.50 s are whole"):
        read(data[: places[3] + 30])
    with pytest.raises(TokError, match=r"cut short after block 4; 2\.00 s are whole"):
        read(data[:end])


def test_a_lost_block_keeps_the_time_line():
    data, codes = make_file(frames=40, block=10)
    places, end = block_places(data)
    gone = data[: places[1]] + data[places[3] :]
    scratched = data[: places[1]] + bytes(places[3] - places[1]) + data[places[3] :]
    for damaged in (gone, scratched):
        got, reader = read(damaged, salvage=True)
        assert reader.lost == ((10, 30),) and reader.num_samples == 40 * 320
        assert np.array_equal(got[..., :10], codes[..., :10]) and np.array_equal(got[..., 30:], codes[..., 30:])
        assert (got[..., 10:30] == codes[..., 9:10]).all()
    got, reader = read(data[: places[0]] + data[places[1] :], salvage=True)  # the first: nothing before it to repeat
    assert reader.lost == ((0, 10),) and (got[..., :10] == codes[..., 10:11]).all()
    got, reader = read(data[: places[3]] + data[end:], salvage=True)  # the last: the end block tells
    assert reader.lost == ((30, 40),) and got.shape[2] == 40


def test_a_lost_header_comes_back_from_the_end(tmp_path):
    data, codes = make_file()
    damaged = b"\0" * 30 + data[30:]
    got, reader = read(damaged, salvage=True)
    assert np.array_equal(got, codes) and reader.spec == SPEC
    with pytest.raises(TokError, match="not a .tok file; and no copy of its header"):
        TokReader(io.BytesIO(damaged[:-1]), salvage=True)


def test_blocks_of_another_file_are_not_taken():
    data, codes = make_file(frames=20)
    other, _ = make_file(frames=20, rate=8000)
    (a, b), _ = block_places(data)
    (c, d), _ = block_places(other)
    mixed = data[:a] + other[c:d] + data[b:]
    with pytest.raises(TokError, match="block 1"):
        read(mixed)
    assert read(mixed, salvage=True)[1].lost == ((0, 10),)


def test_swapped_and_doubled_blocks_are_noticed():
    data, _ = make_file(frames=30)
    (a, b, c), end = block_places(data)
    for mixed in (data[:a] + data[b:c] + data[a:b] + data[c:], data[:b] + data[a:], data + data, data + b"\0"):
        with pytest.raises(TokError):
            read(mixed)


# Live


def test_readable_while_being_written():
    file = io.BytesIO()
    codes = make_codes(SPEC, 20, 2)
    writer = TokWriter(file, SPEC, 2, 16000)
    assert read(file.getvalue(), still_writing=True)[0].shape[2] == 0
    writer.write(codes[..., :7])
    writer.flush()
    with pytest.raises(TokError, match="cut short"):
        read(file.getvalue())
    got, reader = read(file.getvalue(), still_writing=True)
    assert np.array_equal(got, codes[..., :7]) and reader.num_samples == 7 * 320
    writer.write(codes[..., 7:])
    writer.finish(20 * 320 - 5)
    got, reader = read(file.getvalue(), still_writing=True)
    assert np.array_equal(got, codes) and reader.num_samples == 20 * 320 - 5
    got, _ = read(file.getvalue()[:-80], still_writing=True)  # a block under way
    assert np.array_equal(got, codes)


def feed(into, data):
    with open(into, "wb") as pipe:
        pipe.write(data)


def test_through_a_pipe():
    data, codes = make_file(frames=900, codebooks=8)
    out, into = os.pipe()
    feeder = threading.Thread(target=feed, args=(into, data))
    feeder.start()
    with open(out, "rb", buffering=0) as pipe:
        reader = TokReader(pipe)
        with pytest.raises(TokError, match="pipe"):
            reader.totals()
        got = np.concatenate([part for _, part in reader.blocks()], axis=2)
    feeder.join()
    assert np.array_equal(got, codes) and reader.num_samples == 900 * 320


def test_totals_read_only_the_end():
    data, _ = make_file(frames=40)
    places, _ = block_places(data)
    damaged = bytearray(data)
    damaged[places[1] + 40] ^= 1  # in a block, which is not read
    reader = TokReader(io.BytesIO(bytes(damaged)))
    totals = reader.totals()
    assert (totals.num_frames, totals.num_samples, totals.num_blocks) == (40, 40 * 320, 4)
    with pytest.raises(TokError, match="its end is missing"):
        TokReader(io.BytesIO(data[:-1])).totals()
    assert np.array_equal(np.concatenate([c for _, c in TokReader(io.BytesIO(data)).blocks()], 2), read(data)[0])


# Hostile and foreign files


def forge(fields=None, blocks=(), totals=None, spec=SPEC, version=1, header=None):
    """A file with right checksums and wrong contents."""
    text = header if header is not None else container.Header(spec, 2, 16000, 1).to_json()
    for old, new in (fields or {}).items():
        assert old in text
        text = text.replace(old, new)
    prefix = container.PREFIX.pack(container.MAGIC, version, len(text)) + text
    seed = running = zlib.crc32(prefix)
    data = prefix + struct.pack("<I", seed)
    for index, first, frames, coding, payload in blocks:
        block = container.BLOCK.pack(container.SYNC, index, first, frames, coding, len(payload)) + payload
        crc = struct.pack("<I", zlib.crc32(block, seed))
        running, data = zlib.crc32(crc, running), data + block + crc
    if totals:
        size = container.ENDING.size + len(text) + container.TOTALS.size + 4
        end = container.ENDING.pack(container.END, len(text)) + text + container.TOTALS.pack(*totals, running, size)
        data += end + struct.pack("<I", zlib.crc32(end))
    return data


ONE = (0, 0, 1, 0, b"\0\0\0")  # a block of one frame of two 10-bit codes


def test_the_forger_can_make_a_good_file():
    assert read(forge(blocks=[ONE], totals=(1, 320, 1)))[1].num_samples == 320


@pytest.mark.parametrize("data", [
    forge({b'"num_codebooks":2': b'"num_codebooks":999999999999'}),
    forge({b'"channels":1': b'"channels":999999999'}),
    forge({b'"channels":1': b'"channels":256', b'"num_codebooks":2': b'"num_codebooks":8'},
          blocks=[(0, 0, 2**32 - 1, 0, b"")]),
    forge({b'"frame_size":320': b'"frame_size":0'}),
    forge({b'"sample_rate":16000,"channels"': b'"sample_rate":0,"channels"'}),
    forge({b'"sample_rate":16000,"channels"': b'"sample_rate":1e3,"channels"'}),
    forge({b"[1024,": b"[1,"}), forge({b"[1024,": b"[99999999,"}), forge({b"[1024,": b"[true,"}),
    forge({b"[1024,": b"[" + b"1024," * 300}), forge({b"[1024,": b'["1024",'}),
    forge({b'"tiny"': b'"\\u001b[2J"'}), forge({b'"tiny"': b'""'}), forge({b"0123456789abcdef": b"not a fingerprint"}),
    forge(header=b"[" * 16000), forge(header=b"[]"), forge(header=b"\xff\xfe"), forge(header=b""),
    forge(header=b'{"channels":' + b"9" * 9000 + b"}"), forge(header=b" " * 16384),
    container.PREFIX.pack(container.MAGIC, 1, 2**32 - 1) + b"\0" * 100,
    forge(blocks=[(0, 0, 2**31, 0, b"\0" * 8)]),
    forge(blocks=[(0, 0, 1, 0, b"\0" * 8)]), forge(blocks=[(0, 0, 0, 0, b"")]),
    forge(blocks=[(0, 2**60, 1, 0, b"\0\0\0")]), forge(blocks=[(2**31, 2**60, 1, 0, b"\0\0\0")]),
    forge(blocks=[ONE, (2, 2**40, 1, 0, b"\0\0\0")]),
    forge(blocks=[ONE], totals=(2**50, 2**50 * 320, 2)), forge(blocks=[ONE], totals=(1, 2**63, 1)),
    forge(blocks=[ONE], totals=(1, 0, 1)), forge(blocks=[ONE], totals=(1, 320, 2)), forge(totals=(1, 320, 1)),
], ids=range(32))
def test_hostile_numbers_are_refused_without_allocating(data):
    tracemalloc.start()
    try:
        with pytest.raises(TokError):
            read(data)
        try:
            read(data, salvage=True)
        except TokError:
            pass
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_code_beyond_its_codebook_is_refused():
    spec = TokenSpec("odd", 16000, 320, (1000, 1000), "0" * 16, "1" * 16)
    bad = Layout(np.array([1024, 1024]), np.ones(2, int)).pack(np.array([[999], [1000]]))
    with pytest.raises(TokError, match="codebooks do not have"):
        read(forge(spec=spec, blocks=[(0, 0, 1, 0, bad)], totals=(1, 320, 1)))


def test_newer_files_say_so():
    with pytest.raises(TokError, match="version 2.*newer"):
        TokReader(io.BytesIO(forge(version=2)))
    with pytest.raises(TokError, match="coding 3.*newer"):
        read(forge(blocks=[(0, 0, 1, 3, b"whatever it is")], totals=(1, 320, 1)))


def test_header_fields_of_later_writers_do_no_harm():
    data = forge({b'"model":': b'"comment":"hello","model":'}, blocks=[ONE], totals=(1, 320, 1))
    assert read(data)[1].num_samples == 320


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"RIFF\0\0\0\0WAVE", "not a .tok"), (b"\x93TO", "cut short"),
])
def test_other_files(data, words, tmp_path):
    path = tmp_path / "x.tok"
    path.write_bytes(data)
    for salvage in (False, True):
        with pytest.raises(TokError, match=words) as caught:
            Tokens.load(path, salvage=salvage)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(TokError, match="no such file"):
        TokReader(tmp_path / "nothing.tok")
    with pytest.raises(TokError, match="folder"):
        TokReader(tmp_path)


# Writing


def test_a_failure_leaves_nothing(tmp_path):
    path = tmp_path / "x.tok"
    path.write_bytes(b"precious")
    with pytest.raises(RuntimeError):
        with TokWriter(path, SPEC, 2, 16000) as writer:
            writer.write(make_codes(SPEC, 2000, 2))
            assert path.read_bytes() == b"precious"
            raise RuntimeError
    with pytest.raises(ValueError, match="finish"):
        with TokWriter(path, SPEC, 2, 16000) as writer:
            writer.write(make_codes(SPEC, 5, 2))
    with pytest.raises(ValueError, match="5 were written"):
        with TokWriter(path, SPEC, 2, 16000) as writer:
            writer.write(make_codes(SPEC, 5, 2))
            writer.finish(7 * 320)
    assert os.listdir(tmp_path) == ["x.tok"] and path.read_bytes() == b"precious"


def test_the_name_appears_when_all_is_written(tmp_path):
    path = tmp_path / "x.tok"
    with TokWriter(path, SPEC, 2, 16000) as writer:
        writer.write(make_codes(SPEC, 5, 2))
        assert not path.exists()
        writer.finish(5 * 320)
        assert os.listdir(tmp_path) == ["x.tok"]
    assert Tokens.load(path).num_samples == (1600,)


@pytest.mark.parametrize("codes", [
    np.zeros((1, 3, 4), int), np.zeros((2, 2, 4), int), np.zeros((2, 4), int), np.zeros((1, 2, 4)),
    np.full((1, 2, 4), -1), np.full((1, 2, 4), 1024),
])
def test_codes_that_do_not_fit_are_refused(codes):
    with pytest.raises(ValueError):
        TokWriter(io.BytesIO(), SPEC, 2, 16000).write(codes)


def test_unwritable_places_are_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "no" / "x.tok", tmp_path, tmp_path / "file" / "x.tok"):
        with pytest.raises(WriteError, match="cannot write") as caught:
            TokWriter(place, SPEC, 2, 16000)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named():
    with pytest.raises(WriteError, match="disk is full"):
        with TokWriter("/dev/full", SPEC, 8, 16000) as writer:
            writer.write(make_codes(SPEC, 5000, 8))
            writer.finish(5000 * 320)
    assert os.path.exists("/dev/full")


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.tok").symlink_to(tmp_path / "real.tok")
    with TokWriter(tmp_path / "link.tok", SPEC, 2, 16000) as writer:
        writer.finish(0)
    assert (tmp_path / "link.tok").is_symlink() and (tmp_path / "real.tok").is_file()


def test_memory_does_not_grow_with_length(tmp_path):
    def peak(minutes):
        tracemalloc.start()
        codes = np.zeros((1, 8, 750), np.int64)
        with TokWriter(tmp_path / "x.tok", SPEC, 8, 16000) as writer:
            for _ in range(4 * minutes):
                writer.write(codes)
            writer.finish(minutes * 60 * 16000)
        with TokReader(tmp_path / "x.tok") as reader:
            assert sum(part.shape[2] for _, part in reader.blocks()) == minutes * 3000
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)
    assert peak(60) < 1.1 * peak(2)


def test_frames_follow_from_samples():
    assert frames_for(0, 44100, SPEC) == 0 and frames_for(1, 44100, SPEC) == 1
    assert frames_for(882, 44100, SPEC) == 1 and frames_for(883, 44100, SPEC) == 2
