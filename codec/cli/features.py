"""Compute a teacher's features of recordings once, for training semantic tokens.

SRC is a folder of audio files or a manifest, as training takes them. OUT is a folder of feature stores: each teacher gets
one in it, and what is there already is not computed again, so an interrupted run goes on where it stopped.

  codec features recordings/ --teacher facebook/hubert-base-ls960 --out features/
  codec features recordings/ --teacher hubert/ --layer 9 --out features/ --mvq 8      8 bytes a frame

docs/semantics.md tells of teachers, layers and stores.
"""

from __future__ import annotations

import argparse
import time

from codec.cli.common import add_device, check_device, count, duration, note
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder of audio files, or a manifest (.json, .jsonl)")
    parser.add_argument("--teacher", required=True, metavar="NAME", help="folder, hub id, or torchaudio:PIPELINE")
    parser.add_argument("--layer", default="mean", metavar="N|N,N,...|mean", help="hidden state, or the mean of several (default: mean of all)")
    parser.add_argument("--out", required=True, metavar="OUT", help="folder of feature stores")
    parser.add_argument("--mvq", type=int, metavar="BYTES", help="compress to 1, 2, 4, 8, 16 or 32 bytes a frame")
    parser.add_argument("--split", default="train", help="split of a manifest (default: train)")
    parser.add_argument("--resample", action="store_true", help="allow a teacher that hears another rate than 16 kHz")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    if args.mvq is not None and args.mvq not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"--mvq {args.mvq}: there is 1, 2, 4, 8, 16 and 32")
    layer = parse_layer(args.layer)

    from codec.semantic import FeatureStore, compute, load_teacher
    from codec.training.data import list_audio

    paths = [entry.path for entry in list_audio(args.source, args.split)]
    teacher = load_teacher(args.teacher, layer, check_device(args.device), args.resample)
    store = FeatureStore.of(teacher, args.out, args.mvq)
    began = time.monotonic()
    with Progress() as progress:
        report = compute(paths, teacher, store, lambda done, total: progress.update(done, total, f"{done} of {total} files"))
    wall = time.monotonic() - began
    for path, reason in report.skipped[:3]:
        note(f"left out {path}: {reason}")
    if len(report.skipped) > 3:
        note(f"and {len(report.skipped) - 3} more")
    if not report.added and not report.present:
        raise ValueError(f"none of {count(len(paths), 'file')} of {args.source} has features: {report.skipped[0][1]}")
    speed = f", {report.seconds / wall:.3g} times real time" if report.added else ""
    plain = store.rows * store.dim * 2
    squeezed = f", {plain / store.size:.3g} times smaller than float16, relative error {store.relative_error:.3g}" if args.mvq else ""
    print(
        f"{store.path}: {count(report.added, 'file')} ({duration(report.seconds)}) added{speed}, {report.present} there before, "
        f"{len(report.skipped)} left out; {store.rows} rows of {store.dim} at {store.frame_rate:g} frames/s, {store.size / 1e6:.4g} MB{squeezed}"
    )


def parse_layer(text: str) -> int | list[int] | str:
    """9, "3,6,9" or "mean"."""
    if text == "mean":
        return text
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--layer {text}: it is a number, numbers with commas, or mean") from None
    return layers[0] if len(layers) == 1 else layers
