"""How many tokens a second one core reads from a corpus: crops of 10 s in batches of 32.

    python benchmarks/corpus.py [CORPUS] [--seconds 3] [--hours 100]

Without CORPUS one of random codes is made (K = 8 of 1024, 50 frames/s). Each batch is shuffled, cut, padded and int64, as a language
model takes it. The time is CPU time of this process.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from codec.corpus import TokenDataset
from codec.corpus.formats import NpyShard
from codec.corpus.plan import MANIFEST, PLAN, SHARDS, write_json
from codec.tokens import TokenSpec

SPEC = TokenSpec("random", 16_000, 320, (1024,) * 8, "0" * 16, "0" * 16)


def make(folder: Path, hours: float, shards: int = 50) -> None:
    """A corpus of random codes, rows of 2 to 20 s."""
    (folder / SHARDS).mkdir()
    header, rng = {"model": dataclasses.asdict(SPEC), "num_codebooks": 8}, np.random.default_rng(0)
    for number in range(shards):
        writer, left = NpyShard(folder / SHARDS / f"{number:05d}", header), int(hours * 3600 * 50 / shards)
        while left > 0:
            frames = int(rng.integers(100, 1000))
            writer.add({"path": "random", "frames": frames}, [rng.integers(0, 1024, (frames, 8), dtype=np.uint16)])
            left -= frames
        writer.commit()
    settings = {"format": "npy", "num_codebooks": 8, "beam": None, "mono": False, "shard_bytes": 1}
    write_json(folder / PLAN, {"version": 1, "settings": settings, **header, "digest": "", "stops": []})
    write_json(folder / MANIFEST, {"shards": [{"shard": number} for number in range(shards)]})


def measure(folder: Path, seconds: float, batch_size: int = 32) -> tuple[float, float]:
    """Tokens a second, padding not counted, and seconds until the first batch."""
    began = time.process_time()
    data = TokenDataset(folder, crop=round(10 * 50), random=True)
    batches = data.batches(batch_size)
    first = next(iter(batches))
    opening, tokens, epoch = time.process_time() - began, 0, 0
    assert first["codes"].shape[2] == 500
    began = time.process_time()
    while True:
        batches.set_epoch(epoch)
        for batch in batches:
            tokens += int(batch["lengths"].sum()) * batch["codes"].shape[1]
            if time.process_time() - began > seconds:
                return tokens / (time.process_time() - began), opening
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hours", type=float, default=100.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.corpus or Path(temporary)
        if args.corpus is None:
            make(folder, args.hours)
        rate, opening = measure(folder, args.seconds)
    print(f"{rate / 1e6:.3g} million tokens a second of one core; open and ready after {opening:.3f} s")


if __name__ == "__main__":
    main()
