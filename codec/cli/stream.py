"""Encode or decode live on pipes.

`codec stream encode` reads mono samples without a header from standard input and writes a .tok stream, which holds every
frame as soon as its last sample is there; `codec stream decode` makes samples of it as they come. What is in between may be
a pipe, a network or a file, which `codec decode` reads, too. At the end of the input, or Ctrl-C, the stream is completed.
"""

from __future__ import annotations

import argparse
import signal
import sys

from codec.cli.common import Decoders, add_device, check_input, check_output, count, duration, load_model, note, summary
from codec.cli.encode import DEFAULT_MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("direction", choices=("encode", "decode"), help="samples to codes, or codes to samples")
    parser.add_argument("--format", choices=("s16le", "f32le"), default="s16le", help="of the samples (default: %(default)s)")
    parser.add_argument("--rate", type=int, metavar="HZ",
                        help="encode: of the samples (default: the model's); decoding gives it back")
    parser.add_argument("--model", metavar="NAME|DIR",
                        help=f"encode: default {DEFAULT_MODEL}; decode: default is the one that the stream names")
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--codebooks", type=int, metavar="K", help="encode: how many to keep (default: all)")
    quality.add_argument("--bitrate", type=float, metavar="KBITS", help="encode: kbit/s, rounded down")
    add_device(parser)


def run(args: argparse.Namespace) -> int | None:
    if args.direction == "decode":
        for option in ("rate", "codebooks", "bitrate"):
            if getattr(args, option) is not None:
                args.usage_error(f"--{option} is for encoding: the stream says what it holds")
    check_input("-")
    check_output("-")
    return _encode(args) if args.direction == "encode" else _decode(args)


def _encode(args: argparse.Namespace) -> int | None:
    model = load_model(args.model or DEFAULT_MODEL, args.device)
    codebooks = model.codebooks_for(args.codebooks, None if args.bitrate is None else 1000 * args.bitrate)
    from codec.live import encode_live

    with _UntilInterrupted() as source:
        report = encode_live(model, source, "-", args.format, args.rate, codebooks)
    if report.rest:
        note(f"the input ended inside a sample: {count(report.rest, 'byte')} left out")
    summary(f"{duration(report.seconds)}: {count(report.num_frames, 'frame')}, {count(codebooks, 'codebook')}", "-")
    return 130 if source.stopped else None


def _decode(args: argparse.Namespace) -> None:
    from codec.container import TokReader
    from codec.live import decode_live

    decoders = Decoders(args.model, args.device)
    with TokReader("-", still_writing=True, prior=decoders.priors) as reader:
        model = decoders.model_for(reader.spec)
        report = decode_live(model, reader, "-", args.format)
    summary(f"{duration(report.seconds)} at {report.sample_rate} Hz: {count(report.num_frames, 'frame')}", "-")


class _UntilInterrupted:
    """Standard input that ends at Ctrl-C, so that a recording which is stopped is whole."""

    def __init__(self):
        self.stopped = self._reading = False

    def __enter__(self) -> _UntilInterrupted:
        self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _stop(self, *_: object) -> None:
        if self.stopped:  # once more: at once
            raise KeyboardInterrupt
        self.stopped = True
        if self._reading:
            raise KeyboardInterrupt

    def read1(self, size: int) -> bytes:
        self._reading = True
        try:
            return b"" if self.stopped else sys.stdin.buffer.read1(size)
        except KeyboardInterrupt:
            return b""
        finally:
            self._reading = False
