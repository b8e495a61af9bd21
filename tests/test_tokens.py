"""The Tokens object: what it accepts, how it is cut, counted and saved."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from codec.tokens import Tokens, TokenSpec, frames_for, samples_for

SPEC = TokenSpec("tiny", 16000, 320, (1024,) * 8, "0123456789abcdef", "fedcba9876543210")


def make(num_samples=(3200,), channels=1, rate=16000, codebooks=8, spec=SPEC, seed=0):
    frames = [frames_for(n, rate, spec) for n in num_samples]
    generator = torch.Generator().manual_seed(seed)
    shape = (len(num_samples) * channels, max(frames))
    codes = [torch.randint(size, shape, generator=generator) for size in spec.codebook_sizes[:codebooks]]
    return Tokens(torch.stack(codes, 1), spec, rate, tuple(num_samples), channels)


def test_frames_of_samples():
    assert [frames_for(n, 16000, SPEC) for n in (0, 1, 320, 321)] == [0, 1, 1, 2]
    assert [frames_for(n, 8000, SPEC) for n in (1, 160, 161)] == [1, 1, 2]
    assert [frames_for(n, 48000, SPEC) for n in (960, 961)] == [1, 2]
    for rate in (8000, 11025, 22050, 44100, 48000, 96000):
        for frames in range(50):
            samples = samples_for(frames, rate, SPEC)
            assert frames_for(samples, rate, SPEC) == frames and frames_for(samples + 1, rate, SPEC) == frames + 1


def test_what_a_pipeline_reads():
    tokens = make((3200, 16000), channels=2, rate=16000, codebooks=6)
    assert (tokens.batch_size, tokens.num_codebooks, tokens.num_frames, tokens.channels) == (2, 6, 50, 2)
    assert tokens.codes.shape == (4, 6, 50) and tokens.codes.dtype == torch.int64
    assert tokens.lengths.tolist() == [10, 10, 50, 50] and tokens.lengths.dtype == torch.int64
    assert tokens.bitrate == 2 * 6 * 10 * 50 and make().bitrate == 4000
    assert SPEC.frame_rate == 50


def test_its_text_says_what_matters():
    text = repr(make((8000, 16000), channels=2, codebooks=4))
    for words in ("0.50 s, 1.00 s", "16000 Hz", "2 channels", "4 of 8 codebooks", "50 frames", "4 kbit/s", "'tiny'"):
        assert words in text


def test_truncate():
    tokens = make()
    assert torch.equal(tokens.truncate(3).codes, tokens.codes[:, :3]) and tokens.truncate(3).bitrate == 1500
    assert tokens.truncate(3).spec == SPEC and tokens.truncate(8).num_codebooks == 8
    for k in (0, -1, 9):
        with pytest.raises(ValueError, match="keep 1 to 8"):
            tokens.truncate(k)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_slices_tile_the_audio(rate):
    for samples in (rate // 3, rate // 3 + 1, 12345):
        tokens = make((samples,), rate=rate)
        for size in (1, 2, 3, 7, 10_000):
            parts = [tokens[i : i + size] for i in range(0, tokens.num_frames, size)]
            assert torch.equal(torch.cat([part.codes for part in parts], 2), tokens.codes)
            assert all(part.lengths.item() == part.num_frames for part in parts)
            assert abs(sum(part.num_samples[0] for part in parts) - samples) <= len(parts)  # at most rounding
            if 320 * rate % 16000 == 0:
                assert sum(part.num_samples[0] for part in parts) == samples


def test_slices_of_a_batch():
    tokens = make((3200, 1600, 310), channels=2)
    part = tokens[2:6]
    assert part.lengths.tolist() == [4, 4, 3, 3, 0, 0] and part.num_samples == (1280, 960, 0)
    assert tokens[:].num_samples == tokens.num_samples and tokens[-2:].num_samples == (640, 0, 0)
    assert tokens[4:2].num_frames == 0 and tokens[50:].num_samples == (0, 0, 0)
    assert tokens[:1].num_samples == (320, 320, 310)


def test_slices_that_are_refused():
    with pytest.raises(ValueError, match="leave the step out"):
        make()[::2]
    with pytest.raises(TypeError, match=r"tokens\[5:6\]"):
        make()[3]


def test_items():
    tokens = make((3200, 1000), channels=2)
    one = tokens.item(1)
    assert torch.equal(one.codes, tokens.codes[2:4, :, :4]) and one.num_samples == (1000,) and one.channels == 2
    assert torch.equal(tokens.item(-1).codes, one.codes)
    with pytest.raises(IndexError, match="2 items"):
        tokens.item(2)


def test_lost_spans_follow_the_cuts():
    codes = make().codes
    tokens = Tokens(codes, SPEC, 16000, (3200,), lost=((1, 3), (6, 8)))
    assert tokens[2:7].lost == ((0, 1), (4, 5)) and tokens[3:6].lost == () and tokens[2:2].lost == ()
    assert tokens.truncate(2).lost == tokens.lost == tokens.item(0).lost == tokens.to("cpu").lost
    assert "4 frames lost" in repr(tokens)
    with pytest.raises(ValueError, match="lost spans"):
        tokens.save("never.tok")
    for lost in (((3, 1),), ((1, 1),), ((0, 11),), ((-1, 2),), ((4, 5), (1, 2))):
        with pytest.raises(ValueError, match="lost="):
            Tokens(codes, SPEC, 16000, (3200,), lost=lost)


@pytest.mark.parametrize("change, words", [
    ({"codes": torch.zeros(1, 8, 10)}, "int64"),
    ({"codes": torch.zeros(1, 8, 10, dtype=torch.int32)}, "int64"),
    ({"codes": [[[1]]]}, "int64"),
    ({"codes": torch.zeros(8, 10, dtype=torch.int64)}, "rows, codebooks, frames"),
    ({"codes": torch.zeros(1, 9, 10, dtype=torch.int64)}, "1 to 8"),
    ({"codes": torch.zeros(1, 0, 10, dtype=torch.int64)}, "1 to 8"),
    ({"codes": torch.full((1, 8, 10), 1024)}, "0 to 1023"),
    ({"codes": torch.full((1, 8, 10), -1)}, "0 to 1023"),
    ({"codes": torch.zeros(2, 8, 10, dtype=torch.int64)}, "2 rows"),
    ({"codes": torch.zeros(1, 8, 9, dtype=torch.int64)}, "needs 10 frames"),
    ({"channels": 2}, "1 rows"), ({"channels": 0}, "1 rows"), ({"num_samples": ()}, "0 items"),
    ({"num_samples": (-1,)}, "negative"), ({"sample_rate": 0}, "positive"),
    ({"lengths": torch.tensor([9])}, "lengths"), ({"lengths": torch.tensor([10.0])}, "lengths"),
    ({"lengths": torch.tensor([10, 10])}, "lengths"),
])
def test_what_does_not_fit_is_refused(change, words):
    codes = torch.zeros(1, 8, 10, dtype=torch.int64)
    fields = {"codes": codes, "spec": SPEC, "sample_rate": 16000, "num_samples": (3200,)}
    Tokens(**fields)
    with pytest.raises(ValueError, match=words):
        Tokens(**(fields | change))


@pytest.mark.parametrize("change", [
    {"name": ""}, {"name": "a\nb"}, {"sample_rate": 0}, {"frame_size": -1}, {"codebook_sizes": ()},
    {"codebook_sizes": (1,)}, {"codebook_sizes": (70000,)}, {"codebook_sizes": (2,) * 257}, {"fingerprint": "abc"},
    {"decoder_fingerprint": "G" * 16},
])
def test_a_spec_that_makes_no_sense_is_refused(change):
    fields = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}
    with pytest.raises(ValueError):
        TokenSpec(**(fields | change))


@pytest.mark.parametrize("channels, rate, codebooks", [(1, 16000, 8), (2, 44100, 1), (6, 11025, 3)])
def test_save_and_load(channels, rate, codebooks, tmp_path):
    tokens = make((12345,), channels, rate, codebooks)
    tokens.save(tmp_path / "x.tok")
    back = Tokens.load(tmp_path / "x.tok")
    assert torch.equal(back.codes, tokens.codes) and torch.equal(back.lengths, tokens.lengths)
    for name in ("spec", "sample_rate", "num_samples", "channels", "lost"):
        assert getattr(back, name) == getattr(tokens, name)


def test_slices_can_be_saved(tmp_path):
    tokens = make((12345,), rate=11025)
    for start in range(0, tokens.num_frames, 7):
        part = tokens[start : start + 7]
        part.save(tmp_path / "x.tok")
        assert torch.equal(Tokens.load(tmp_path / "x.tok").codes, part.codes)


def test_a_batch_is_saved_item_by_item(tmp_path):
    tokens = make((3200, 1000))
    with pytest.raises(ValueError, match=r"tokens\.item\(i\)"):
        tokens.save(tmp_path / "x.tok")
    assert os.listdir(tmp_path) == []
    tokens.item(1).save(tmp_path / "x.tok")
    assert Tokens.load(tmp_path / "x.tok").num_samples == (1000,)


def test_salvaged_tokens_know_what_is_lost(tmp_path):
    tokens = make((16000 * 35,))
    tokens.save(tmp_path / "x.tok")
    data = bytearray((tmp_path / "x.tok").read_bytes())
    data[6500] ^= 1  # in the second of four blocks of 10 s
    (tmp_path / "x.tok").write_bytes(data)
    back = Tokens.load(tmp_path / "x.tok", salvage=True)
    assert back.lost == ((500, 1000),) and back.num_samples == tokens.num_samples
    assert torch.equal(back.codes[..., :500], tokens.codes[..., :500])
    assert torch.equal(back.codes[..., 1000:], tokens.codes[..., 1000:])


def test_nothing_but_what_is_needed_is_imported():
    script = "import sys, codec.audio, codec.tokens, codec.container\n"
    script += "heavy = {'torchaudio', 'lightning', 'transformers', 'auraloss', 'vector_quantize_pytorch'}\n"
    script += "bad = heavy & set(sys.modules)\n"
    script += "sys.exit(f'imported {bad}' if bad else 0)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
