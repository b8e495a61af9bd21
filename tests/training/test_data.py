"""Crops are a pure function of (seed, step, rank, item); the cache survives bad files and crashes."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from codec.training.data import DataError, SpeechCrops, decode, list_audio, step_loader

RATE = 16_000


def noise(seconds, seed=0, level=0.1, rate=RATE, channels=1):
    wav = level * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))
    return wav.clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for name, seconds, rate, channels in [
        ("a/1.wav", 2, 16_000, 1),
        ("a/deep/2.flac", 1, 44_100, 2),
        ("b/3.ogg", 1, 48_000, 1),
        ("b/4.wav", 0.05, 8_000, 1),
    ]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, noise(seconds, len(name), rate=rate, channels=channels), rate)
    (root / "notes.txt").write_text("not audio")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


EFFECTS = {"room": 0.5, "mix": 0.5, "noise": 0.5, "eq": 0.5, "clip": 0.5}


@pytest.fixture
def crops(folder, cache):
    return SpeechCrops(folder, RATE, 1600, batch_size=4, seed=7, cache=cache, effects=EFFECTS)


def test_shape_type_and_range(crops):
    for step in range(20):
        batch = crops.batch(step)
        assert batch.shape == (4, 1, 1600) and batch.dtype == torch.float32
        assert 0 < batch.abs().max() <= 1


def test_the_same_position_gives_the_same_bits_and_another_gives_others(crops, folder, cache):
    again = SpeechCrops(folder, RATE, 1600, batch_size=4, seed=7, cache=cache, effects=EFFECTS)
    assert torch.equal(crops.batch(5, rank=1), again.batch(5, rank=1))
    assert not torch.equal(crops.batch(5, rank=1), crops.batch(5, rank=0))
    assert not torch.equal(crops.batch(5), crops.batch(6))
    assert not torch.equal(crops.batch(5)[0], crops.batch(5)[1])
    other = SpeechCrops(folder, RATE, 1600, batch_size=4, seed=8, cache=cache, effects=EFFECTS)
    assert not torch.equal(crops.batch(5), other.batch(5))


def test_a_larger_batch_begins_with_the_smaller(crops, folder, cache):
    larger = SpeechCrops(folder, RATE, 1600, batch_size=6, seed=7, cache=cache, effects=EFFECTS)
    assert torch.equal(larger.batch(3)[:4], crops.batch(3))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_a_step_is_running_through_and_leaves_torchs_random_state(crops, workers):
    state = torch.get_rng_state()
    through = list(step_loader(crops, 0, 6, workers=workers))
    resumed = list(step_loader(crops, 4, 6, workers=workers))
    assert len(through) == 6 and len(resumed) == 2
    assert all(torch.equal(a, b) for a, b in zip(through[4:], resumed))
    assert torch.equal(through[2], crops.batch(2))
    assert torch.equal(state, torch.get_rng_state())


def test_ranks_draw_different_data_through_the_loader(crops):
    first, second = (next(iter(step_loader(crops, 0, 1, rank=rank))) for rank in (0, 1))
    assert not torch.equal(first, second)


def test_pickling_does_not_carry_the_audio(crops):
    crops.batch(0)
    data = pickle.dumps(crops)
    assert len(data) < 10_000
    assert torch.equal(pickle.loads(data).batch(1), crops.batch(1))


def test_levels_and_polarities_vary_within_the_range(folder, cache):
    crops = SpeechCrops(folder / "a", RATE, 16_000, batch_size=64, cache=cache, gain_db=(-20.0, 0.0))
    peaks = crops.batch(0).abs().amax(-1).flatten()
    assert peaks.max() <= 1 and peaks.max() > 0.6 and peaks.min() < 0.2
    plain = SpeechCrops(_only(folder, "1.wav"), RATE, 32_000, batch_size=64, cache=cache, gain_db=(0.0, 0.0)).batch(0)[
        :, 0
    ]
    assert len({bool(w[torch.argmax(w.abs())] > 0) for w in plain}) == 2  # both signs of one recording


def test_short_files_are_padded_with_zeros(folder, cache):
    crop = SpeechCrops(_only(folder, "4.wav"), RATE, 3200, 1, cache=cache).batch(0)[0, 0]
    assert crop[:780].abs().max() > 0 and not crop[810:].any()


def _only(folder, name):
    manifest = folder.parent / f"{folder.name}-{name}.jsonl"
    path = next(folder.rglob(name))
    manifest.write_text(json.dumps({"path": str(path)}) + "\n")
    return manifest


def test_unaugmented_crops_are_the_file(folder, cache):
    crops = SpeechCrops(_only(folder, "1.wav"), RATE, 32_000, 1, cache=cache, augment=False)
    np.testing.assert_allclose(
        crops.batch(0)[0, 0].numpy(), soundfile.read(folder / "a" / "1.wav", dtype="float32")[0], atol=1e-4
    )


@pytest.mark.parametrize("name, samples", [("1.wav", 32_000), ("2.flac", 16_000), ("3.ogg", 16_000), ("4.wav", 800)])
def test_decode_mixes_and_resamples(folder, name, samples):
    path = next(folder.rglob(name))
    wav = decode(path, RATE)
    assert wav.dtype == np.int16 and wav.shape == (samples,)


def test_decode_averages_channels_and_keeps_a_tone(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(44_100) / 44_100)
    soundfile.write(tmp_path / "x.wav", np.stack([tone, np.zeros_like(tone)], 1), 44_100, subtype="FLOAT")
    wav = decode(tmp_path / "x.wav", RATE) / 32767
    expected = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(wav[200:-200], expected[200:-200], atol=2e-3)


def test_groups_are_drawn_by_the_power_of_their_hours(tmp_path, cache):
    for name, seconds, sign in (("big", 9, 1), ("small", 1, -1)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", sign * np.abs(noise(seconds)), RATE)
    for power, share in ((0.5, 0.25), (1.0, 0.1), (0.0, 0.5)):
        crops = SpeechCrops(tmp_path, RATE, 400, 1000, cache=cache, group_power=power, augment=False)
        small = (crops.batch(0).mean(-1) < 0).float().mean().item()
        assert small == pytest.approx(share, abs=0.05)


def test_manifest_keeps_its_split_groups_and_weights(folder, tmp_path, cache):
    rows = [
        {"path": str(folder / "a/1.wav"), "split": "train", "source": "s1", "weight": 0},
        {"path": str(folder / "a/deep/2.flac"), "split": "eval", "source": "s1"},
        {"path": str(folder / "b/3.ogg"), "source": "s2"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    kept = list_audio(tmp_path / "manifest.json")
    assert [(e.group, e.weight) for e in kept] == [("s1", 0.0), ("s2", 1.0)]
    assert list_audio(tmp_path) == kept  # a folder with a manifest is read through it
    assert [e.path for e in list_audio(tmp_path, split="eval")] == [rows[1]["path"], rows[2]["path"]]
    crops = SpeechCrops(tmp_path, RATE, 400, 50, cache=cache)
    read = Counter()
    crops.corpus.read = lambda file, *a, _read=crops.corpus.read: read.update([file["group"]]) or _read(file, *a)
    crops.batch(0)
    assert set(read) == {"s2"}  # weight 0 is never drawn


def test_relative_paths_start_at_the_manifest(folder):
    (folder / "list.jsonl").write_text('{"path": "a/1.wav"}\n\n{"path": "b/3.ogg"}\n')
    assert [e.path for e in list_audio(folder / "list.jsonl")] == [str(folder / "a/1.wav"), str(folder / "b/3.ogg")]


def test_bad_files_are_left_out_and_counted(folder, tmp_path, cache):
    (tmp_path / "good.wav").write_bytes((folder / "a/1.wav").read_bytes())
    (tmp_path / "junk.wav").write_bytes(b"junk")
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "headless.raw").write_bytes(bytes(1000))  # no format that can be recognised: not even tried
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    for _ in range(2):  # decoded, then from the cache
        with pytest.warns(UserWarning, match="4 of 5 training files were left out"):
            crops = SpeechCrops(tmp_path, RATE, 1600, 1, cache=cache)
        assert len(crops.corpus.files) == 1 and len(crops.corpus.skipped) == 4


def test_the_cache_is_used_and_renewed(folder, tmp_path, monkeypatch):
    root, cache = tmp_path / "data", tmp_path / "cache"
    root.mkdir()
    (root / "x.wav").write_bytes((folder / "a/1.wav").read_bytes())
    first = SpeechCrops(root, RATE, 1600, 1, cache=cache).batch(0)
    npy = next(cache.glob("*.npy"))
    assert np.load(npy).dtype == np.int16 and not list(cache.glob(".*"))
    monkeypatch.setattr("codec.training.data.decode", lambda *a: pytest.fail("decoded again"))
    assert torch.equal(SpeechCrops(root, RATE, 1600, 1, cache=cache).batch(0), first)
    monkeypatch.undo()
    npy.write_bytes(npy.read_bytes()[:1000])  # a damaged cache is built again
    assert torch.equal(SpeechCrops(root, RATE, 1600, 1, cache=cache).batch(0), first)
    soundfile.write(root / "x.wav", noise(1, seed=99), RATE)  # a changed file is decoded again
    assert not torch.equal(SpeechCrops(root, RATE, 1600, 1, cache=cache).batch(0), first)


def test_a_failed_build_leaves_nothing(folder, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("codec.training.data.decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SpeechCrops(folder, RATE, 1600, 1, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_silent_crops_are_drawn_again(tmp_path, cache):
    wav = np.zeros((RATE * 4, 1), np.float32)
    wav[-RATE:] = noise(1)
    soundfile.write(tmp_path / "x.wav", wav, RATE)
    batch = SpeechCrops(tmp_path, RATE, 1600, 32, cache=cache).batch(0)
    assert (batch.square().mean(-1) > 0).all()


def write_silence(root):
    soundfile.write(root / "x.wav", np.zeros((RATE, 1)), RATE)


def write_click(root):
    soundfile.write(root / "x.wav", np.eye(1, RATE * 60, dtype=np.float32).T, RATE)


@pytest.mark.parametrize(
    "prepare, says",
    [
        (lambda root: None, "names no audio file"),
        (write_silence, "are silent"),
        (write_click, "crops of 160 samples in a row were silent"),
        (lambda root: (root / "x.wav").write_bytes(b"junk"), "none of 1 training files can be read"),
        (lambda root: (root / "manifest.json").write_text("{}"), "JSON list"),
        (lambda root: (root / "manifest.json").write_text("["), "cannot be read"),
        (lambda root: (root / "manifest.json").write_text("[1]"), "entry 1 .* has no 'path'"),
        (lambda root: (root / "manifest.json").write_text('[{"path": "x.wav", "weight": -1}]'), "weight -1"),
        (lambda root: (root / "manifest.json").write_text('[{"path": "x.wav", "split": "eval"}]'), "split 'train'"),
    ],
)
def test_unusable_data_is_answered_on_one_line(prepare, says, tmp_path, cache):
    prepare(tmp_path)
    with pytest.raises(DataError, match=says) as caught:
        SpeechCrops(tmp_path, RATE, 160, 1, cache=cache).batch(0)
    assert "\n" not in str(caught.value)


def test_a_missing_source_and_bad_settings(folder, tmp_path, cache):
    with pytest.raises(DataError, match="no training data at"):
        SpeechCrops(tmp_path / "nowhere", RATE, 160, 1, cache=cache)
    with pytest.raises(DataError, match="at least 1"):
        SpeechCrops(folder, RATE, 0, 1, cache=cache)
    with pytest.raises(DataError, match="would clip"):
        SpeechCrops(folder, RATE, 160, 1, cache=cache, gain_db=(-3.0, 3.0))
