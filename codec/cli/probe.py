"""Measure what the codes of models hold: small networks are trained on frozen codes.

MODEL is a name or a folder, as for `codec encode --model`. --data is a folder or a manifest (.json, .jsonl). Tasks:
  slots       what spoken commands ask for; needs a labels.json beside the recordings
  speaker     who speaks; needs `speaker` in the manifest, or names like LibriSpeech's
  characters  what is said, letter by letter; needs texts: --transcripts, or `text` in the manifest
  words       whether words are nearer to themselves than to others (ABX); needs --transcripts with times
  dwer        what Whisper still hears in the decoded speech; needs --asr
Codes are kept between runs; the same command gives the same figures.

  codec probe speech-16k my-model/ --data speech/ --codebooks 1,1-8 --out probe.json
"""

from __future__ import annotations

import argparse

from codec.cli.common import add_device, check_device, check_input, check_output, note, summary
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="name or folder of a model")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder or manifest of recordings")
    parser.add_argument("--out", metavar="FILE", help="file of results to write (.json)")
    parser.add_argument("--tasks", default="slots,speaker", metavar="A,B", help="which tasks (default: slots,speaker)")
    parser.add_argument("--codebooks", default="1,all", metavar="1,1-8", help="sets of codebooks: 3 alone, 1-8 together, `each` "
                        "alone, all `prefixes`, `all` together (default: 1,all)")
    parser.add_argument("--split", default="train", help="which entries of a manifest to take (default: train)")
    parser.add_argument("--transcripts", default="", metavar="FILE", help="texts and times of words, from `codec transcribe`")
    parser.add_argument("--asr", default="", metavar="MODEL|DIR", help="Whisper for dwer: a size (base), hub id or CTranslate2 folder")
    parser.add_argument("--seed", type=int, default=0, help="of the networks and the intervals (default: 0)")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps of each network (default: each task's own)")
    parser.add_argument("--start", choices=("vectors", "learnt"), default="vectors",
                        help="what the vectors of codes start from: the quantizer's, or random numbers (default: vectors)")
    parser.add_argument("--cache", default="", metavar="DIR", help="where codes are kept (default: the user's cache folder)")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    check_input(args.data)
    if args.out:
        check_output(args.out)
    from codec.evaluation.probe import probe

    with Progress() as progress:
        report = probe(
            args.models, args.data, [task for task in args.tasks.replace(" ", "").split(",") if task], args.codebooks, args.split,
            args.transcripts, args.asr, args.seed, args.steps, args.start, args.cache, check_device(args.device), progress.update,
        )
    if args.out:
        report.save(args.out)
    if report.rows:
        summary(report.markdown(), args.out)
    for left in report.skipped:
        where = " ".join(filter(None, [left["model"], left["codebooks"] and f"codebooks {left['codebooks']}"]))
        note(f"{left['task']}{f' of {where}' if where else ''} is left out: {left['reason']}")
