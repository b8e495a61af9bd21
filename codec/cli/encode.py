"""Encode recordings to .tok files.

IN is an audio file of any format, rate and number of channels, `-` for a pipe, or a folder. Without OUT a file gets a
.tok beside it, which must not be there yet; a folder needs an OUT folder, keeps its tree there, and skips what is done.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from codec.cli.common import add_device, check_input, check_output, count, duration, kbits, load_model, note, summary
from codec.cli.folder import Job, find, run_jobs
from codec.cli.progress import Progress

if TYPE_CHECKING:
    from codec.allocation import Variable
    from codec.audio import Normal
    from codec.entropy import Prior

DEFAULT_MODEL = "speech-16k"
AUDIO = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".voc", ".sph", ".nist", ".avr", ".iff", ".svx", ".8svx", ".mp2", ".mp1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="audio file, folder, or - for a pipe")
    parser.add_argument("output", metavar="OUT", nargs="?", help=".tok file, folder, or - (default: beside IN)")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="default: %(default)s")
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--codebooks", type=int, metavar="K", help="how many to keep (default: all)")
    quality.add_argument("--bitrate", type=float, metavar="KBITS", help="kbit/s of each channel, rounded down to whole "
                         "codebooks; with --variable as it is")
    parser.add_argument("--beam", type=int, metavar="N", help="choices of codes to follow at once (1 in most models): "
                        "more is slower and nearer to the audio; decoders do not care")
    parser.add_argument("--refine", type=int, default=0, metavar="STEPS", help="analysis by synthesis: change the codes in so many "
                        "steps until they sound nearer to the audio; 30 take longer than the audio on one core; for speech")
    parser.add_argument("--variable", action="store_true", help="spend bits where they bring most: --bitrate on average, all codebooks; "
                        "entropy-coded by the model's variable.safetensors; with --refine where they are heard")
    parser.add_argument("--entropy", action="store_true", help="fewer bytes for the same codes, by what the model's "
                        "prior.safetensors knows of them; decoders need it too")
    parser.add_argument("--no-normalize", dest="normalize", action="store_false", help="code recordings at their own level and spectrum, as a stream "
                        "does, and not at those that the model codes best; either way they are decoded at their own")
    add_device(parser)


def run(args: argparse.Namespace) -> int | None:
    if args.input == "-" and args.output is None:
        args.usage_error("a pipe as input needs the name of an output")
    if args.variable and args.bitrate is None:
        args.usage_error("--variable distributes --bitrate over all codebooks: give it, for example 1.5, in the place of --codebooks")
    check_input(args.input)
    if os.path.isdir(args.input):
        if args.output in (None, "-"):
            args.usage_error(f"{args.input} is a folder: name the folder to write to")
        return _folder(args)
    return _file(args)


def _file(args: argparse.Namespace) -> None:
    output = args.output
    if output is None:
        output = str(Path(args.input).with_suffix(".tok"))
        if os.path.exists(output):
            raise ValueError(f"{output} is there already: name the output to write over it")
    check_output(output)
    if output.lower().endswith(AUDIO):  # `codec encode *.wav` names two recordings, not a recording and an output
        raise ValueError(f"{output}: is named like a recording, but would hold tokens: name a .tok file")
    prior = _prior(args)
    model = load_model(args.model, args.device, without=None if args.refine else "decoder")
    from codec.files import encode_file

    with Progress() as progress:
        result = encode_file(
            model, args.input, output, *_quality(args), beam=args.beam, prior=prior, refine=args.refine, variable=args.variable,
            normalize=args.normalize, progress=lambda done, total: progress.update(
                done, total, f"{duration(done)}{'' if total is None else f' of {duration(total)}'}"
            ),
        )
    if result.note:
        note(result.note)
    size = "" if result.size is None else f", {count(result.size, 'byte')}"
    summary(
        f"{duration(result.seconds)}, {count(result.channels, 'channel')}: {count(result.num_frames, 'frame')}, "
        f"{count(result.num_codebooks, 'codebook')}, {kbits(result.bitrate)}{size}; "
        f"{result.seconds / result.elapsed:.3g} x real time",
        output,
    )


def _quality(args: argparse.Namespace) -> tuple[int | None, float | None]:
    """Codebooks and bit/s, as far as they are given."""
    return args.codebooks, None if args.bitrate is None else 1000 * args.bitrate


def _prior(args: argparse.Namespace):
    if not (args.entropy or args.variable):
        return None
    from codec import hub

    return hub.prior_of(args.model, args.variable)


def _folder(args: argparse.Namespace) -> int:
    jobs, failures = find(args.input, args.output, AUDIO, ".tok")
    prior = _prior(args)
    model = load_model(args.model, args.device, without=None if args.refine else "decoder")
    from codec.files import encode_file
    from codec.allocation import variable_of
    from codec.refinement import check

    spec, quality = model.spec, _quality(args)
    spent = variable_of(model, *quality, prior if args.variable else None)
    codebooks = model.num_codebooks if spent else model.codebooks_for(*quality)
    quality = quality if spent else (codebooks, None)
    model.quantizer.check_beam(args.beam)
    if args.refine:
        check(model, args.refine)
    losing, kept = [], []

    def is_done(job: Job) -> bool:
        done = _is_done(job, spec, codebooks, prior, spent, model.normal if args.normalize else None)
        kept.extend([job.target] * done)
        return done

    def encode(job: Job) -> float:
        result = encode_file(
            model, job.source, job.target, *quality, beam=args.beam, prior=prior, refine=args.refine, variable=args.variable,
            normalize=args.normalize,
        )
        if result.note:
            losing.append(job.source)
        return result.seconds

    code = run_jobs(jobs, failures, is_done, encode, "encoded")
    if kept and (args.refine or args.beam or args.variable):
        note(f"{count(len(kept), 'file')} done before, maybe with another --refine or --beam, which files do not tell: remove those to be made again")
    if losing:
        others = " and others" if len(losing) > 1 else ""
        band = f"{model.sample_rate / 2000:g} kHz"
        note(f"{count(len(losing), 'file')} with much energy above {band}, which is lost: {losing[0]}{others}")
    return code


def _is_done(job: Job, spec, codebooks: int, prior: Prior | None, spent: Variable | None, normal: Normal | None) -> bool:
    """A whole .tok of this model with as many codebooks, not older than the recording, is not made again; at a variable bitrate
    (`spent`) if the same was asked for, by the same prior; and if it was brought to the level and spectrum that are wanted (`normal`), or to none."""
    from codec.container import TokError, TokReader

    wanted = normal is not None, normal is not None and bool(normal.spectrum)
    try:
        if job.target.stat().st_mtime < job.source.stat().st_mtime:
            return False
        with TokReader(job.target, prior=prior) as reader:
            header = reader.header
            found = bool(header.correction.gain_db), bool(header.correction.eq_db)
            if header.spec.fingerprint != spec.fingerprint or header.num_codebooks != codebooks:
                return False
            if header.bitrate != (spent and spent.bitrate) or found != wanted:
                return False
            for _ in reader.blocks():
                pass
            return spent is None or reader.prior_ids <= {spent.prior.id}
    except (OSError, TokError):
        return False
