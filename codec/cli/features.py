"""Compute a teacher's features of recordings once, for training semantic tokens.

SRC is a folder of audio files or a manifest, as training takes them. OUT is a folder of feature stores: each teacher
gets one in it, and what is there already is not computed again, so an interrupted run goes on where it stopped.

  codec features recordings/ --teacher facebook/hubert-base-ls960 --out features/
  codec features recordings/ --teacher hubert/ --layer 9 --out features/ --mvq 8      8 bytes a frame
  codec features recordings/ --text-teacher bert/ --transcripts transcripts.jsonl --out features/

docs/semantics.md tells of teachers, layers and stores.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

from codec.cli.common import add_device, add_part, check_device, count, duration, note
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder of audio files, or a manifest (.json, .jsonl)")
    teacher = parser.add_mutually_exclusive_group(required=True)
    teacher.add_argument("--teacher", metavar="NAME", help="folder, hub id, or torchaudio:PIPELINE")
    teacher.add_argument("--text-teacher", metavar="NAME", help="folder or hub id of a BERT, which reads transcripts")
    parser.add_argument("--transcripts", metavar="FILE", help="of the recordings, from `codec transcribe`")
    parser.add_argument("--padded", action="store_true", help="text from the first frame on, as in DM-Codec's code")
    parser.add_argument(
        "--layer", default="mean", metavar="N|N,N,...|mean", help="hidden state, or a mean of several or all (default)"
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="folder of feature stores")
    parser.add_argument("--mvq", type=int, metavar="BYTES", help="compress to 1, 2, 4, 8, 16 or 32 bytes a frame")
    parser.add_argument("--split", default="train", help="split of a manifest (default: train)")
    parser.add_argument("--resample", action="store_true", help="allow a teacher that hears another rate than 16 kHz")
    parser.add_argument("--bf16", action="store_true", help="run the teacher in bfloat16: faster, a little less exact")
    add_part(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    if args.mvq is not None and args.mvq not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"--mvq {args.mvq}: there is 1, 2, 4, 8, 16 and 32")
    if (args.text_teacher is None) != (args.transcripts is None) or args.padded and args.text_teacher is None:
        args.usage_error("--text-teacher goes with --transcripts, and --padded with both")
    layer = parse_layer(args.layer)

    from codec.semantic import FeatureStore, Transcripts, compute, compute_text, load_teacher, load_text_teacher
    from codec.training.data import list_audio

    first, step = args.part
    paths = [entry.path for entry in list_audio(args.source, args.split)][first - 1 :: step]
    device = check_device(args.device)
    if args.text_teacher is None:
        teacher, run_over = load_teacher(args.teacher, layer, device, args.resample, args.bf16), compute
    else:
        teacher = load_text_teacher(args.text_teacher, layer, padded=args.padded, device=device)
        run_over = partial(compute_text, transcripts=Transcripts(args.transcripts))
    store = FeatureStore.of(teacher, args.out, args.mvq)
    began = time.monotonic()
    with Progress() as progress:
        report = run_over(
            paths, teacher=teacher, store=store,
            progress=lambda done, total: progress.update(done, total, f"{done} of {total} files"),
        )
    wall = time.monotonic() - began
    for path, reason in report.skipped[:3]:
        note(f"left out {path}: {reason}")
    if len(report.skipped) > 3:
        note(f"and {len(report.skipped) - 3} more")
    if report.skipped and not report.added and not report.present:
        raise ValueError(f"none of {count(len(paths), 'file')} of {args.source} has features: {report.skipped[0][1]}")
    speed = f", {report.seconds / wall:.3g} times real time" if report.added else ""
    plain = store.rows * store.dim * 2
    squeezed = ""
    if args.mvq:
        squeezed = f", {plain / store.size:.3g} times smaller than float16, relative error {store.relative_error:.3g}"
    print(
        f"{store.path}: {count(report.added, 'file')} ({duration(report.seconds)}) added{speed}, "
        f"{report.present} there before, {len(report.skipped)} left out; {store.rows} rows of {store.dim} at "
        f"{store.frame_rate:g} frames/s, {store.size / 1e6:.4g} MB{squeezed}"
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
