"""Decode .tok files to audio.

IN is a .tok file, `-` for a pipe, or a folder. The format follows the name of OUT (.wav, .flac, .ogg, .mp3, ...); a
pipe takes WAV. A folder needs an OUT folder, keeps its tree there as .wav files, and skips what is done.
"""

from __future__ import annotations

import argparse
import os

from codec.cli.common import Decoders, add_device, check_input, check_output, count, duration, note, summary
from codec.cli.folder import Job, find, run_jobs
from codec.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help=".tok file, folder, or - for a pipe")
    parser.add_argument("output", metavar="OUT", help="audio file, folder, or - for a pipe")
    parser.add_argument("--model", metavar="NAME|DIR", help="default: the one that IN names")
    parser.add_argument("--salvage", action="store_true", help="decode what is left of a damaged file")
    add_device(parser)


def run(args: argparse.Namespace) -> int | None:
    check_input(args.input)
    decoders = Decoders(args.model, args.device)
    if os.path.isdir(args.input):
        if args.output == "-":
            args.usage_error(f"{args.input} is a folder: name the folder to write to")
        return _folder(args, decoders)
    check_output(args.output)
    with Progress() as progress:
        result = _decode(
            args.input, args.output, args.salvage, decoders,
            lambda done, total: progress.update(done, total, f"{duration(done)} decoded"),
        )
    _tell_lost(result, args.input)
    summary(
        f"{duration(result.seconds)}, {count(result.channels, 'channel')} at {result.sample_rate} Hz: "
        f"{count(result.num_codebooks, 'codebook')}; {result.seconds / result.elapsed:.3g} x real time",
        args.output,
    )
    return None


def _decode(source, target, salvage: bool, decoders: Decoders, progress=None):
    from codec.container import TokReader
    from codec.files import decode_reader, refuse_same_file

    refuse_same_file(source, target)
    with TokReader(source, salvage=salvage, prior=decoders.priors) as reader:
        return decode_reader(decoders.model_for(reader.spec), reader, target, progress)


def _tell_lost(result, name) -> None:
    """One line that says what salvage could not save."""
    parts = [f"{a:.2f} to {b:.2f} s" for a, b in result.lost[:8]]
    parts += [f"{count(len(result.lost) - 8, 'more span')}"] if len(result.lost) > 8 else []
    parts += [] if result.complete else [f"what came after {result.seconds:.2f} s"]
    if parts:
        silent = "; lost spans are silent" if result.lost else ""
        note(f"{name}: lost {', '.join(parts)}{silent}")


def _folder(args: argparse.Namespace, decoders: Decoders) -> int:
    jobs, failures = find(args.input, args.output, (".tok",), ".wav")

    def decode(job: Job) -> float:
        result = _decode(job.source, job.target, args.salvage, decoders)
        _tell_lost(result, job.source)
        return result.seconds

    return run_jobs(jobs, failures, lambda job: _is_done(job, args.salvage), decode, "decoded")


def _is_done(job: Job, salvage: bool) -> bool:
    """An output of the right rate, channels and length is done. Any other file of that name may be a recording."""
    import soundfile

    from codec.container import TokError, TokReader

    if not job.target.exists():
        return False
    try:
        found = soundfile.info(str(job.target))
        with TokReader(job.source) as reader:
            wanted = reader.sample_rate, reader.channels, reader.totals().num_samples
    except TokError:
        return salvage  # then it has been salvaged; else decoding tells what is wrong
    except (soundfile.LibsndfileError, OSError):
        found = wanted = None
    if found is None or (found.samplerate, found.channels, found.frames) != wanted:
        raise ValueError(f"{job.target} is there already and is other audio: move it away, or choose another folder")
    return True
