"""The reader: every sample once over ranks and workers, seeded, resumable, fast enough."""

from __future__ import annotations

import pickle
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import codec
from codec.corpus import CorpusError, TokenDataset
from codec.corpus.formats import NpyShard
from codec.corpus.plan import MANIFEST, PLAN, SHARDS, write_json
from codec.tokens import TokenSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import corpus as benchmark  # noqa: E402

LENGTHS = [[7, 30, 1], [25, 10], [], [64]]
SPEC = TokenSpec("made", 16_000, 160, (1000, 60_000), "a" * 16, "b" * 16)


def write(folder: Path, lengths: list[list[int]] = LENGTHS, spec: TokenSpec = SPEC) -> list[np.ndarray]:
    """A corpus whose codes are all different; its rows (frames, K)."""
    (folder / SHARDS).mkdir(parents=True)
    header, rows, at = {"model": asdict(spec), "num_codebooks": len(spec.codebook_sizes)}, [], 0
    for number, shard in enumerate(lengths):
        writer = NpyShard(folder / SHARDS / f"{number:05d}", header)
        for frames in shard:
            codes = np.stack([np.arange(at, at + frames), 50_000 + np.arange(at, at + frames)], 1).astype(np.uint16)
            writer.add({"path": f"{len(rows)}", "frames": frames, "sample_rate": 16_000, "num_samples": 160 * frames}, [codes])
            rows.append(codes)
            at += frames
        writer.commit()
    settings = {"format": "npy", "num_codebooks": 2, "beam": None, "mono": False, "shard_bytes": 1}
    write_json(folder / PLAN, {"version": 1, "settings": settings, **header, "digest": "", "stops": []})
    write_json(folder / MANIFEST, {"shards": [{"shard": number} for number in range(len(lengths))]})
    return rows


def frames_seen(batches) -> list[int]:
    return [int(frame) for batch in batches for codes, n in zip(batch["codes"], batch["lengths"]) for frame in codes[0, :n]]


def test_samples_are_the_codes_padded(tmp_path):
    rows = write(tmp_path)
    data = TokenDataset(tmp_path, crop=10, pad=-100)
    assert data.num_rows == 6 and len(data) == 1 + 3 + 1 + 3 + 1 + 7 and data.num_frames == 137
    seen = []
    for sample in (data[i] for i in range(len(data))):
        row, start, n = rows[sample["row"]], sample["start"], sample["length"]
        assert sample["codes"].dtype == torch.int64 and sample["codes"].shape == (2, 10)
        assert np.array_equal(sample["codes"][:, :n].T, row[start : start + n])
        assert (sample["codes"][:, n:] == -100).all()
        seen += sample["codes"][0, :n].tolist()
    assert seen == list(range(137))
    assert torch.equal(data[-1]["codes"], data[len(data) - 1]["codes"])
    with pytest.raises(IndexError):
        data[len(data)]
    whole = TokenDataset(tmp_path, num_codebooks=1)
    assert len(whole) == 6 and whole.batch([0, 1])["codes"].shape == (2, 1, 30)
    assert data.row(3)["path"] == "3" and data.tokens(3).codes.shape == (1, 2, 25)


def test_random_crops_follow_from_seed_and_epoch_and_do_not_overlap(tmp_path):
    write(tmp_path)
    data = TokenDataset(tmp_path, crop=10, random=True, seed=3)
    assert len(data) == 1 + 3 + 1 + 2 + 1 + 6
    epochs = []
    for epoch in range(20):
        data.set_epoch(epoch)
        seen = [int(f) for i in range(len(data)) for f in data[i]["codes"][0, : data[i]["length"]]]
        assert len(seen) == len(set(seen))
        epochs.append(tuple(seen))
    assert len(set(epochs)) > 5 and set().union(*epochs) == set(range(137))  # nothing is never heard
    again = TokenDataset(tmp_path, crop=10, random=True, seed=3, epoch=4)
    assert tuple(int(f) for i in range(len(again)) for f in again[i]["codes"][0, : again[i]["length"]]) == epochs[4]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_cover_every_sample_once(tmp_path, workers):
    write(tmp_path)
    data = TokenDataset(tmp_path, crop=10)
    for shuffle in (False, True):
        ranks = [list(DataLoader(data.batches(2, shuffle, rank=rank, world=3, even=False), batch_size=None, num_workers=workers))
                 for rank in range(3)]
        assert sorted(frame for batches in ranks for frame in frames_seen(batches)) == list(range(137))
        even = [data.batches(2, shuffle, rank=rank, world=3) for rank in range(3)]
        assert [len(list(batches)) for batches in even] == [len(batches) for batches in even] == [2, 2, 2]
        assert len({frame for batches in even for frame in frames_seen(batches)}) >= 50


def test_the_order_is_seeded_the_same_for_any_workers_and_goes_on_where_it_was(tmp_path):
    write(tmp_path)
    data = TokenDataset(tmp_path, crop=5, random=True)
    plain = [frames_seen([batch]) for batch in data.batches(3, seed=5, epoch=1)]
    loaded = [frames_seen([batch]) for batch in DataLoader(data.batches(3, seed=5, epoch=1), batch_size=None, num_workers=2)]
    assert plain == loaded and len(plain) == len(data) // 3
    later = data.batches(3, seed=5, epoch=1, start=4)
    assert [frames_seen([batch]) for batch in later] == plain[4:] and len(later) == len(plain) - 4
    assert [frames_seen([batch]) for batch in data.batches(3, seed=6, epoch=1)] != plain
    later.set_epoch(2)
    assert len(later) == len(plain) and [frames_seen([batch]) for batch in later] != plain


def test_several_corpora_and_kept_rows(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", [[5], [12, 3]])
    data = TokenDataset([tmp_path / "a", tmp_path / "b"], crop=10, keep=lambda row: row["frames"] > 9)
    assert data.num_rows == 4 + 1 and data.num_frames == 30 + 25 + 10 + 64 + 12
    assert data.row(int(data[len(data) - 1]["row"]))["frames"] == 12
    assert torch.equal(pickle.loads(pickle.dumps(data)).batch([3])["codes"], data.batch([3])["codes"])


def test_crops_start_where_all_codebooks_do(tmp_path):
    write(tmp_path, spec=TokenSpec("held", 16_000, 160, (1000, 60_000), "a" * 16, "b" * 16, counts=(2,), strides=(4, 1)))
    data = TokenDataset(tmp_path, crop=8, random=True)
    for epoch in range(5):
        data.set_epoch(epoch)
        assert not any(data[i]["start"] % 4 for i in range(len(data)))
    with pytest.raises(CorpusError, match="multiple of 4"):
        TokenDataset(tmp_path, crop=10)


def test_what_does_not_fit_is_refused(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", spec=TokenSpec("other", 16_000, 160, (1000, 60_000), "c" * 16, "b" * 16))
    with pytest.raises(CorpusError, match="read each on its own"):
        TokenDataset([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(CorpusError, match="holds no corpus"):
        TokenDataset(tmp_path)
    with pytest.raises(CorpusError, match="the corpus holds 2"):
        TokenDataset(tmp_path / "a", num_codebooks=3)
    with pytest.raises(CorpusError, match="below world"):
        TokenDataset(tmp_path / "a").batches(1, rank=2, world=2)


def test_it_reads_over_a_million_tokens_a_second(tmp_path):
    """A hundredth of what it does: this is about losing it altogether."""
    benchmark.make(tmp_path, hours=1, shards=3)
    rate, _ = benchmark.measure(tmp_path, seconds=0.2)
    assert rate > 1e6


def test_it_is_there_when_asked_for():
    assert codec.corpus.TokenDataset is TokenDataset
