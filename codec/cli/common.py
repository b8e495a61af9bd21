"""What the verbs share: options, loading models, words for numbers."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.entropy import Prior
    from codec.model import Codec
    from codec.tokens import TokenSpec


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="where the model runs (default: cpu)")


def check_device(name: str) -> str:
    """The device, if it is there. Raises ValueError when it is not."""
    import torch

    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"--device {name}: there is cpu and cuda (or cuda:1 and so on)")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("cuda is not available: use --device cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return name


def add_part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="I/N",
                        help="every N-th recording from the I-th on: N processes, each with a device, share a corpus and OUT")


def _part(text: str) -> tuple[int, int]:
    """3/8 as (3, 8)."""
    index, _, number = text.partition("/")
    if not (index.isdecimal() and number.isdecimal() and 1 <= int(index) <= int(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: there is 1/8 to 8/8, for instance")
    return int(index), int(number)


def load_model(name: str, device: str, without: str | None = None) -> Codec:
    """without: the "encoder" or the "decoder" where it is not needed."""
    from codec import hub
    from codec.heap import return_large

    return_large()
    return hub.load(name, check_device(device), without)


class Decoders:
    """The models that decode: the one of --model, or those that the files name, each loaded once."""

    def __init__(self, name: str | None, device: str):
        self._name, self._device = name, device
        self._loaded: dict[str | None, Codec] = {}

    @property
    def priors(self) -> tuple[Prior, ...]:
        """Of --model, where that has any; priors of models in the box are found without."""
        return () if self._name is None else priors_of(self._name)

    def model_for(self, spec: TokenSpec) -> Codec:
        from codec.files import load_for
        from codec.heap import return_large

        key = None if self._name is not None else spec.name
        if key not in self._loaded:
            if self._name is not None:
                self._loaded[key] = load_model(self._name, self._device, without="encoder")
            else:
                return_large()
                self._loaded[key] = load_for(spec, check_device(self._device), without="encoder")
        return self._loaded[key]


def priors_of(name: str) -> tuple[Prior, ...]:
    """For entropy coding, of a model by its name, folder or hub id. Raises ValueError for no such model."""
    from codec import hub
    from codec.entropy import priors_in

    return priors_in(hub.find(name))


def check_input(name: str) -> None:
    """Raise ValueError early, before anything slow, when there is nothing to read."""
    if name == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("`-` reads from a pipe, and nothing is piped in")
    elif not os.path.lexists(name):
        raise ValueError(f"{name}: no such file")


def check_output(name: str) -> None:
    """Raise ValueError early for an output that no single file can be written to."""
    if name == "-":
        if sys.stdout is None or sys.stdout.isatty():
            raise ValueError("`-` writes to a pipe or a file, not to a terminal: add > FILE")
    elif os.path.isdir(name):
        raise ValueError(f"{name}: is a folder: name the file to write")
    elif not Path(name).absolute().parent.is_dir():
        parent = Path(name).parent
        problem = "is a file, not a folder" if parent.exists() else "does not exist: make it first"
        raise ValueError(f"cannot write {name}: {parent} {problem}")


def summary(line: str, output: str | None = None) -> None:
    """A line for the user: on stdout, or on stderr when the output itself goes to stdout."""
    print(line, file=sys.stderr if output == "-" else sys.stdout)


def note(line: str) -> None:
    print(line if line.startswith("note: ") else f"note: {line}", file=sys.stderr)


def duration(seconds: float) -> str:
    """0.05 s, 12.3 s, 4 min 5 s, 2 h 3 min 4 s."""
    if seconds < 60:
        return f"{seconds:.4g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def kbits(bits: float) -> str:
    return f"{bits / 1000:.4g} kbit/s"
