"""The `codec` command: one file per verb in this folder.

A verb's file offers `add_arguments(parser)` and `run(args) -> int | None` (the exit code), its docstring is its help,
and what is heavy it imports inside `run`: `codec --help` must not wait for torch.

Exit codes: 0 done, 1 a bad input (one line on stderr), 2 wrong usage, 130 interrupted, 141 nobody reads the output.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import warnings
from typing import Sequence

from codec import __version__

VERBS = ("encode", "decode", "stream", "serve", "info", "models", "train", "features", "tokenize", "convert", "export", "transcribe", "probe", "sweep")  # as --help lists them


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        args = build_parser().parse_args(argv)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _note
            code = args.run(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        if _nobody_reads(error):
            return 141
        print(f"codec: {describe(error)}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise  # a mistake of ours: its traceback is worth reporting
        print("codec: not enough memory: close other programs, or choose another --device", file=sys.stderr)
        return 1
    finally:
        _settle_stdout()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codec", description="Speech and audio to discrete tokens and back.",
        epilog="`codec VERB --help` tells more. `-` as a file name is a pipe.",
    )
    parser.add_argument("--version", action="version", version=f"codec {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_VerbParser)
    for name in VERBS:
        verb = importlib.import_module(f"codec.cli.{name}")
        text = verb.__doc__ or ""
        sub = verbs.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run, usage_error=sub.error)
    return parser


class _VerbParser(argparse.ArgumentParser):
    """Options may also stand between the other arguments, before those that can be left out, which plain argparse refuses."""

    _inside = False

    def parse_known_args(self, args=None, namespace=None):
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def describe(error: BaseException) -> str:
    """An error on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _nobody_reads(error: BaseException | None) -> bool:
    """Whether a reader has closed the pipe that we write to, e.g. `head`: no reason to complain."""
    while error is not None:
        if getattr(error, "errno", None) == errno.EPIPE:
            return True
        error = error.__cause__
    return False


def _out_of_memory(error: BaseException) -> bool:
    """Also torch's own kinds, without importing torch."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate" in str(error)


def _note(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"note: {message}", file=sys.stderr)


def _settle_stdout() -> None:
    """What cannot be flushed to a closed or full stdout is dropped, or Python complains about it at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
