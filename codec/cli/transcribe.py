"""Write the transcripts of a corpus into one file, for text teachers and probes.

SRC is a folder or a manifest (.json, .jsonl). Texts that come with it (`text` in a manifest, LibriSpeech's *.trans.txt) are
kept; what has none is heard by --asr. Word times come from --align, or else from --asr; without both there are none. The same
command again goes on where it stopped.

  codec transcribe recordings/ --asr base --language en --out transcripts.jsonl
"""

from __future__ import annotations

import argparse

from codec.cli.common import add_device, add_part, check_device, check_input, check_output, count, duration, summary
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder or manifest")
    parser.add_argument("--out", required=True, metavar="FILE", help="file of transcripts to write or to go on with (.jsonl)")
    parser.add_argument("--asr", metavar="MODEL|DIR", help="Whisper by size (base, large-v3), hub id or CTranslate2 folder")
    parser.add_argument("--align", metavar="MODEL|DIR", help="CTC model of transformers for the word times")
    parser.add_argument("--language", action="append", default=[], metavar="CODE",
                        help="keep this language alone, e.g. en; may be given again")
    parser.add_argument("--split", default="train", help="split of a manifest (default: train)")
    add_part(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    check_input(args.source)
    check_output(args.out)
    if args.out == "-":
        args.usage_error("--out needs a file: a pipe cannot be gone on with")
    try:
        from codec.semantic.alignment import CtcAligner
        from codec.semantic.recogniser import FasterWhisper
        from codec.semantic.transcribing import transcribe
        from codec.semantic.transcripts import Transcripts
    except ImportError as error:
        raise ValueError(f'transcribing needs more packages ({error}): pip install "neural-codec-toolkit[eval,teachers]"') from error
    device = check_device(args.device)
    asr = FasterWhisper(args.asr, args.language, device) if args.asr else None
    aligner = CtcAligner(args.align, device) if args.align else None
    with Transcripts(args.out, write=True) as out, Progress() as progress:
        report = transcribe(
            args.source, out, asr, aligner, args.language, args.split, args.part,
            progress=lambda done, total, path: progress.update(done, total, f"{done}/{total} {path}"),
        )
    for line in report.failed:
        summary(f"codec: {line}", "-")
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(report.skipped.items()))
    summary(
        f"{count(report.transcribed, 'file')} transcribed ({duration(report.seconds)} of audio), {report.done_before} done before"
        + (f", skipped: {reasons}" if reasons else "") + (f", {len(report.failed)} failed" if report.failed else ""),
        "-" if report.failed else None,
    )
    return 1 if report.failed else 0
