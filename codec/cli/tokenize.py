"""Make a corpus of tokens of many recordings, in shards, once and exactly.

SRC is a folder of audio files and tar files, a list of names (.txt), a manifest (.jsonl, .json), a tar file of
WebDataset, or a dataset of Hugging Face: Parquet files, or what save_to_disk has made. OUT is a folder of shards. Stopped
in any way, the same command goes on with it; what is in a shard depends neither on that nor on --jobs or --engine.
Recordings that cannot be read are left out, and OUT/quarantine.jsonl says why.

  codec tokenize recordings/ tokens/
  codec tokenize manifest.jsonl tokens/ --model speech-16k-semantic --jobs 16 --format parquet

docs/corpora.md tells of the formats, and of codec.corpus.TokenDataset, which reads them.
"""

from __future__ import annotations

import argparse
import time

from codec.cli.common import add_device, check_device, count, duration, note
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder, .txt list, .jsonl or .json manifest, .tar or .parquet")
    parser.add_argument("output", metavar="OUT", help="folder of shards")
    parser.add_argument("--model", default="speech-16k", metavar="NAME|DIR", help="default: %(default)s")
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--codebooks", type=int, metavar="K", help="how many to keep (default: all)")
    quality.add_argument("--bitrate", type=float, metavar="KBITS", help="kbit/s of each channel, rounded down")
    parser.add_argument("--beam", type=int, metavar="N", help="choices of codes to follow at once, as in codec encode")
    parser.add_argument("--format", choices=("npy", "parquet", "webdataset"), default="npy",
                        help="of the shards (default: npy, which TokenDataset maps into memory)")
    parser.add_argument("--mono", action="store_true", help="average the channels (default: a row for each)")
    parser.add_argument("--split", help="keep only these entries of a manifest or dataset")
    parser.add_argument("--shard", type=float, metavar="MB", help="recordings in a shard (default: a 256th of all, 1 to 67 MB)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes of one thread (default: as many as cores, or GPUs)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: the machines of a cluster, by Ray Data")
    parser.add_argument("--address", help="of the Ray cluster (default: RAY_ADDRESS, or a Ray of this machine alone)")
    parser.add_argument("--retry", action="store_true", help="try again what was left out before")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least 1 is needed")
    if args.address is not None and args.engine != "ray":
        raise ValueError(f"--address {args.address}: that is for --engine ray")
    if args.shard is not None and not args.shard * 1e6 >= 1:
        raise ValueError(f"--shard {args.shard:g}: give MB above 0")
    from codec.corpus import tokenize

    began = time.monotonic()
    with Progress() as progress:
        def show(state) -> None:
            elapsed = time.monotonic() - began
            rest = elapsed * (state.all_bytes - state.bytes) / state.bytes if state.bytes else None
            lost = f", {count(state.workers_lost, 'worker')} lost" if state.workers_lost else ""
            progress.update(
                state.bytes, state.all_bytes, f"{state.recordings}/{state.all_recordings}, {state.seconds / elapsed:.3g} x real time"
                f"{'' if rest is None else f', {duration(round(rest))} left'}{lost}",
            )

        report = tokenize(
            args.model, args.source, args.output, format=args.format, num_codebooks=args.codebooks,
            bitrate=None if args.bitrate is None else 1000 * args.bitrate, beam=args.beam, mono=args.mono, split=args.split,
            jobs=args.jobs, device=check_device(args.device), retry=args.retry, progress=show,
            shard_bytes=None if args.shard is None else round(args.shard * 1e6), engine=args.engine, address=args.address,
        )
    if report.workers_lost:
        note(f"{count(report.workers_lost, 'worker')} lost on the way; their shards were done again")
    if report.quarantined:
        note(f"{count(report.quarantined, 'recording')} left out: {args.output}/quarantine.jsonl says why")
    speed = f"; {report.coded_seconds / report.elapsed:.3g} x real time" if report.coded_seconds else ""
    print(
        f"{args.output}: {count(report.recordings, 'recording')} ({duration(report.seconds)}), {count(report.frames, 'frame')} in "
        f"{count(report.shards, 'shard')}, {report.shards_before} done before{speed}"
    )
    return 0 if report.recordings else 1
