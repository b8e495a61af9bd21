"""Feature stores: what is read is what was added, whatever is killed, forked or run again."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.semantic import FeatureStore, content_key
from codec.semantic.store_files import StoreError, shards

ROOT = Path(__file__).parents[2]


def rows(frames, dim=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((frames, dim)).astype(np.float32))


def half(features):
    return features.half().float()


def make(folder, **options):
    return FeatureStore(folder, "a teacher", 50, 6, "abc123", **options)


@pytest.fixture
def store(tmp_path):
    """Two shards on disk and one recording that is not written yet."""
    store = make(tmp_path, shard_bytes=1500)
    for number in range(3):
        store.add(f"key{number}", rows(100, seed=number))
    assert len(list(store.path.glob("*.safetensors"))) == 1 and len(store._pending) == 1
    return store


# Reading


@pytest.mark.parametrize("written", [False, True])
def test_any_range_of_rows(store, written):
    if written:
        store.flush()
        store = FeatureStore.open(store.path.parent)
    for number in range(3):
        for start, frames in [(0, 100), (37, 20), (99, 1), (0, 1), (40, 0)]:
            features, valid = store.read(f"key{number}", start, frames)
            assert features.dtype == torch.float32 and valid.dtype == torch.bool and valid.all()
            assert torch.equal(features, half(rows(100, seed=number)[start : start + frames]))
    assert len(store) == 3 and "key1" in store and "key9" not in store
    assert store.frames("key1") == 100 and store.rows == 300


def test_rows_before_behind_and_of_what_is_not_there_are_zero_and_not_valid(store):
    features, valid = store.read("key0", -3, 106)
    assert valid.tolist() == [False] * 3 + [True] * 100 + [False] * 3
    assert torch.equal(features[3:103], half(rows(100))) and features[~valid].eq(0).all()
    for key, start in [("key0", 100), ("key0", 500), ("key0", -50), ("no such key", 0)]:
        features, valid = store.read(key, start, 20)
        assert features.shape == (20, 6) and features.eq(0).all() and not valid.any()
    assert store.frames("no such key") == 0


@pytest.mark.parametrize("written", [False, True])
def test_rows_without_a_target(tmp_path, written):
    store = make(tmp_path)
    valid = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.5
    features = rows(100)
    features[~valid] = math.nan  # there is none
    store.add("some", features, valid)
    store.add("all", rows(100), torch.ones(100, dtype=torch.bool))
    if written:
        store.flush()
        store = make(tmp_path)
    assert store.keys() == ["all", "some"] or store.keys() == ["some", "all"]
    found, known = store.read("some", 20, 50)
    assert torch.equal(known, valid[20:70]) and found[~known].eq(0).all()
    assert torch.equal(found[known], half(features[20:70][known]))
    assert store.read("all", 0, 100)[1].all()


def test_a_range_is_read_without_its_shard(tmp_path):
    """Some rows out of 40 MB in a fresh process: the file is mapped, not read."""
    store = make(tmp_path)
    store.add("long", rows(3_300_000))
    store.flush()
    program = textwrap.dedent(f"""
        from codec.semantic.features import FeatureStore
        store = FeatureStore.open({str(tmp_path)!r})
        store.read("long", 10, 5)
        def memory():
            return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss:"))
        before = memory()
        for start in range(0, 3_000_000, 300_000):
            features, valid = store.read("long", start, 50)
            assert valid.all()
        print(memory() - before)
    """)
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KB, of 40,000


def _read(store, queue):
    try:
        features, valid = store.read("key0", 10, 20)
        queue.put((features.sum().item(), bool(valid.all())))
    except BaseException as error:  # noqa: BLE001
        queue.put(repr(error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_too(store, method):
    store.flush()
    store.read("key0", 0, 1)  # open in the parent
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_read, args=(store, queue))
    worker.start()
    assert queue.get(timeout=120) == (half(rows(100)[10:30]).sum().item(), True)
    worker.join()


def test_pickled_it_has_everything_and_no_open_files(store):
    store.read("key0", 0, 1)
    again = pickle.loads(pickle.dumps(store))
    assert not again._handles and again.keys() == store.keys()
    assert torch.equal(again.read("key2", 0, 100)[0], half(rows(100, seed=2)))


def test_many_shards_with_few_open(tmp_path, monkeypatch):
    monkeypatch.setattr("codec.semantic.features.OPEN_SHARDS", 3)
    store = make(tmp_path, shard_bytes=1)
    for number in range(10):
        store.add(f"key{number}", rows(4, seed=number))
    for number in [*range(10), 0, 9, 5]:
        assert torch.equal(store.read(f"key{number}", 0, 4)[0], half(rows(4, seed=number)))
    assert len(store._handles) == 3 and len(shards(store.path)) == 10


# Writing


def test_a_killed_writer_loses_its_open_shard_at_most(tmp_path):
    program = textwrap.dedent(f"""
        import os, signal, torch
        import codec.semantic.features as features
        from codec.atomic import Output
        store = features.FeatureStore({str(tmp_path)!r}, "a teacher", 50, 6, "abc123", shard_bytes=2000)
        for number in range(5):
            store.add(f"key{{number}}", torch.full((100, 6), float(number)))
        Output.commit = lambda output: os.kill(os.getpid(), signal.SIGKILL)
        store.add("key5", torch.zeros(100, 6))
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = make(tmp_path)
    assert sorted(store.keys()) == ["key0", "key1", "key2", "key3"]
    assert [path.name[0] for path in store.path.iterdir()].count(".") == 1  # the part that was being written
    assert all(store.read(f"key{number}", 0, 100)[0].eq(number).all() for number in range(4))
    store.add("key5", torch.ones(100, 6))
    store.flush()
    assert len(make(tmp_path)) == 5


def test_what_is_there_stays(store):
    store.add("key0", torch.zeros(100, 6))
    store.add("key2", torch.zeros(100, 6))
    store.flush()
    store.add("key2", torch.zeros(100, 6))
    store.flush()
    again = make(store.path.parent)
    assert all(torch.equal(again.read(f"key{n}", 0, 100)[0], half(rows(100, seed=n))) for n in range(3))


def test_two_writers_do_not_harm_each_other(tmp_path):
    one, two = make(tmp_path), make(tmp_path)
    for store, keys in ((one, "ab"), (two, "bc")):
        for key in keys:
            store.add(key, rows(10, seed=ord(key)))
        store.flush()
    both = make(tmp_path)
    assert sorted(both.keys()) == ["a", "b", "c"]
    assert all(torch.equal(both.read(key, 0, 10)[0], half(rows(10, seed=ord(key)))) for key in "abc")


@pytest.mark.parametrize(
    "features, valid, match",
    [
        (torch.zeros(5, 7), None, r"they must be \(F, 6\)"),
        (torch.zeros(0, 6), None, "at least one row"),
        (torch.full((5, 6), math.nan), None, "NaN, infinity or numbers above 65504"),
        (torch.full((5, 6), 1e5), None, "NaN, infinity or numbers above 65504"),
        (torch.zeros(5, 6), torch.ones(4, dtype=torch.bool), r"must be bool \(5,\)"),
        (torch.zeros(5, 6), torch.ones(5), r"must be bool \(5,\)"),
    ],
)
def test_features_that_cannot_be_kept(tmp_path, features, valid, match):
    store = make(tmp_path)
    with pytest.raises(StoreError, match=match):
        store.add("key", features, valid)
    assert "key" not in store


# Opening


def test_stores_of_many_teachers_in_one_folder(tmp_path):
    for name, mark in (("hubert/base 9", "aa1"), ("hubert/large", "bb2"), ("bert", "cc3")):
        store = FeatureStore(tmp_path, name, 50, 6, mark)
        store.add("key", rows(3))
        store.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert-cc3", "hubert-base-9-aa1", "hubert-large-bb2"]
    assert FeatureStore.open(tmp_path, "hubert-base").fingerprint == "aa1"
    assert FeatureStore.open(tmp_path, "bert-cc3").name == "bert"
    with pytest.raises(StoreError, match="2 stores are named hubert...: there is hubert-base-9-aa1, hubert-large-bb2"):
        FeatureStore.open(tmp_path, "hubert")
    with pytest.raises(StoreError, match="no stores are named wavlm...: there is bert-cc3, hubert"):
        FeatureStore.open(tmp_path, "wavlm")
    with pytest.raises(StoreError, match="make one by `codec features`"):
        FeatureStore.open(tmp_path / "nowhere")


def test_a_store_that_holds_something_else(store):
    store.flush()
    with pytest.raises(StoreError, match="has frame_rate 50.0, not 25.0"):
        FeatureStore(store.path.parent, "a teacher", 25, 6, "abc123")
    with pytest.raises(StoreError, match="letters and digits"):
        FeatureStore(store.path.parent, "a teacher", 25, 6, "../abc")
    shard = shards(store.path)[0]
    whole = shard.read_bytes()
    for spoilt in (whole[:-10], whole[:40], b"", b"\xff" * 100):
        shard.write_bytes(spoilt)
        with pytest.raises(StoreError, match="is damaged.*delete it and run again"):
            make(store.path.parent)
    shard.write_bytes(whole)
    info = store.path / "store.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"version": 9}))
    with pytest.raises(StoreError, match="version 9"):
        make(store.path.parent)
    info.write_text("[]")
    with pytest.raises(StoreError, match="not readable as a feature store's"):
        make(store.path.parent)


# Compressed


@pytest.fixture(scope="module")
def correlated():
    """40 recordings of 60 rows, 32 wide, of 4 independent numbers and a little noise."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((4, 32))
    made = [rng.standard_normal((60, 4)) @ basis + 0.1 * rng.standard_normal((60, 32)) for _ in range(40)]
    return [torch.from_numpy(features).float() for features in made]


def test_compressed_features(tmp_path, correlated, monkeypatch):
    monkeypatch.setattr("codec.semantic.features.FIT_ROWS", 1200)
    store = FeatureStore(tmp_path, "t", 50, 32, "abc", bytes_per_frame=2)
    assert not store.ready
    for number, features in enumerate(correlated):
        store.add(f"key{number}", features)
        assert store.ready == (number >= 19)  # fitted to the first 20, then all are coded
    store.flush()
    again = FeatureStore.open(tmp_path)
    assert again.bytes_per_frame == 2 and again.ready
    assert again.relative_error == pytest.approx(store.relative_error, rel=1e-9)
    decoded = torch.cat([again.read(f"key{n}", 0, 60)[0] for n in range(40)])
    exact = torch.cat(correlated)
    error = ((decoded - exact).square().sum() / (exact - again.quantizer.mean).square().sum()).item()
    assert error == pytest.approx(again.relative_error, rel=0.01) and error < 0.2
    assert torch.equal(again.read("key7", 20, 10)[0], again.read("key7", 0, 60)[0][20:30])
    plain = FeatureStore(tmp_path, "t", 50, 32, "abc")  # beside it, of the same teacher
    assert plain.path != again.path and len(plain) == 0 and math.isnan(plain.relative_error)
    assert sum(entry.stat().st_size for entry in shards(again.path)) < 2400 * 2 + 40 * 130 + 200
    resumed = FeatureStore(tmp_path, "t", 50, 32, "abc", bytes_per_frame=2)
    resumed.add("more", correlated[0])
    assert torch.equal(resumed.read("more", 0, 60)[0], again.read("key0", 0, 60)[0])  # with the quantizer that is there


def test_what_is_not_valid_is_not_fitted(tmp_path, correlated):
    with_gaps, without = (FeatureStore(tmp_path / name, "t", 50, 32, "abc", 1) for name in "ab")
    valid = torch.arange(120) < 60
    for number, features in enumerate(correlated):
        with_gaps.add(f"key{number}", torch.cat([features, torch.full((60, 32), 1000.0)]), valid)
        without.add(f"key{number}", features)
    with_gaps.flush(), without.flush()
    assert with_gaps.relative_error == pytest.approx(without.relative_error, rel=1e-3)
    features, known = with_gaps.read("key3", 0, 120)
    assert torch.equal(known, valid) and features[60:].eq(0).all()


def test_too_little_to_compress(tmp_path):
    store = FeatureStore(tmp_path, "t", 50, 6, "abc", 8)
    store.add("key", rows(100))
    with pytest.raises(StoreError, match="give at least 1024"):
        store.flush()
    assert torch.equal(store.read("key", 0, 100)[0], half(rows(100)))  # still there, with more to come


def test_codes_of_another_quantizer_are_refused(tmp_path, correlated):
    paths = []
    for number in range(2):
        store = FeatureStore(tmp_path / str(number), "t", 50, 32, "abc", 1)
        for key, features in enumerate(correlated):
            store.add(f"key{key}", features * (1 + number))
        store.flush()
        paths.append(store.path)
    (paths[1] / "quantizer.safetensors").replace(paths[0] / "quantizer.safetensors")
    with pytest.raises(StoreError, match="coded with another quantizer"):
        FeatureStore.open(tmp_path / "0")


def test_the_key_is_of_int16_samples():
    with pytest.raises(StoreError, match="mono int16 samples at 16 kHz"):
        content_key(np.zeros(5, np.float32))
    assert content_key(np.zeros(5, np.int16)) == hashlib.sha256(bytes(10)).hexdigest()
