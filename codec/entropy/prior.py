"""What is known of a model's codes before they are read: how likely each is after the codes before it, in whole numbers.

A small network with whole weights, so that every machine computes the same frequencies. For codebook k it looks at
codebooks 0 to k of the frames before, and at codebooks 0 to k - 1 of the frame itself, code by code; or at the sums of what all
codes of each frame before stand for, and of those of the frame itself so far. The first kind is for the first codebooks where every frame
has the same number of them (residuals of residuals look like noise), the second for codes of a variable bitrate. See docs/tok-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from codec.entropy.ans import SCALE
from codec.tokens import TokenSpec

FILE = "prior.safetensors"
VARIABLE = "variable.safetensors"  # the prior for codes of a variable bitrate (`codec.allocation`)
OLDER = "prior.*.safetensors", "variable.*.safetensors"  # those before them, for the files that were written with them
FILES = FILE, VARIABLE, *OLDER
MAX_SIZE = 4096  # of a codebook: frequencies have 16 bits
HIDDEN_SHIFT = 6  # of the hidden sums, whose units are 1/2048
OUTPUT_SHIFT = 4  # of the outputs, whose units are 1/1024
EXP_STEPS = 1024  # of 1/64 each
_EXACT = 1 << 24  # below it, sums of whole numbers in float32 are exact in any order


def _exp_table() -> np.ndarray:
    """2^24 exp(-i / 64), i = 0 to EXP_STEPS - 1, by a product of whole numbers that is the same everywhere."""
    table, ratio = [1 << 40], 4228379999  # 2^32 exp(-1 / 64)
    for _ in range(EXP_STEPS - 1):
        table.append(table[-1] * ratio >> 32)
    return np.array([value >> 16 for value in table], dtype=np.int64)


_EXP = _exp_table()


Rows = Any  # an array of NumPy or a tensor


class Context(NamedTuple):
    """What codes are told from. order: frames before, at most. summed: embeddings of the codes of a frame are added up, of all codebooks in
    the frames before; otherwise they lie one behind the other, and of the frames before only those up to the code's own codebook."""

    order: int
    summed: bool = False

    def num_inputs(self, k: int) -> int:
        """In widths of an embedding, of codebook k."""
        return self.order + (k > 0) if self.summed else self.order * (k + 1) + k

    def before(self, k: int, frames: Sequence[Rows]) -> list[Rows]:
        """What codebook k is told from first, of the embeddings (K, N, R) of each frame before: (N, R) each."""
        return [frame.sum(0) for frame in frames] if self.summed else [each for frame in frames for each in frame[: k + 1]]

    def below(self, k: int, frame: Rows) -> list[Rows]:
        """And what follows, of the embeddings of codebooks 0 to k - 1 of the frame itself (>= k, N, R)."""
        return [frame[:k].sum(0)] if self.summed and k else list(frame[:k])


class Prior:
    """Frequencies of the codes of the first codebooks of one model.

    Args:
        tensors: for each of these codebooks, k, `embedding.k` (size, R) int8, `hidden.k.weight` (H, inputs) int8 and
            `hidden.k.bias` (H,) int32, `output.k.weight` (size, H) int8 and `output.k.bias` (size,) int32, of any H >= 1; the inputs are
            those of `Context`, R each, with zeros for frames before the first. Their number tells the context.

    Raises ValueError for tensors that do not fit each other.
    """

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.tensors = {name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())}
        count = sum(name.startswith("embedding.") for name in tensors)
        self._check(count)
        self.sizes = tuple(len(self.tensors[f"embedding.{k}"]) for k in range(count))
        tables = [np.pad(self.tensors[f"embedding.{k}"], ((0, 1), (0, 0))) for k in range(count)]  # a last row for "none"
        self.embeddings = np.vstack(tables).astype(np.float32)
        self.starts = np.cumsum([0, *map(len, tables[:-1])])[:, None]  # of each codebook's
        self.layers = [[self.tensors[f"{layer}.{k}.{part}"].T.astype(np.float32)
                         for layer in ("hidden", "output") for part in ("weight", "bias")] for k in range(count)]

    def _check(self, count: int) -> None:
        shapes, tensors = {}, self.tensors
        tables = [tensors.get(f"embedding.{k}") for k in range(count)]
        if not tables or any(table is None or table.ndim != 2 for table in tables):
            raise ValueError("it has no table of embeddings for each codebook")
        width = tensors["embedding.0"].shape[1]
        self.context = _context([tensors.get(f"hidden.{k}.weight") for k in range(min(count, 2))], width)
        for k in range(count):
            size, hidden = len(tensors[f"embedding.{k}"]), len(tensors.get(f"hidden.{k}.bias", ()))
            if not 2 <= size <= MAX_SIZE:
                raise ValueError(f"codebook {k} has {size} entries, and can have 2 to {MAX_SIZE}")
            shapes |= {
                f"embedding.{k}": (size, width), f"hidden.{k}.weight": (hidden, width * self.context.num_inputs(k)),
                f"hidden.{k}.bias": (hidden,), f"output.{k}.weight": (size, hidden), f"output.{k}.bias": (size,),
            }
        for name in sorted(shapes.keys() | tensors.keys()):
            dtype = np.int32 if name.endswith("bias") else np.int8
            found = tensors.get(name)
            if found is None or found.shape != shapes.get(name) or found.dtype != dtype or not found.size:
                raise ValueError(f"{name} is missing, too much, or of the wrong shape or type")
            if np.abs(found.astype(np.int64)).max() >= _EXACT // 2:
                raise ValueError(f"{name} is too large for exact sums")
        largest = np.stack([np.abs(table.astype(np.int64)).max(0)[None] for table in tables])
        for k in range(count):
            inputs = np.concatenate(self.context.before(k, [largest] * self.context.order) + self.context.below(k, largest), 1)[0]
            for name, most in ((f"hidden.{k}.weight", inputs), (f"output.{k}.weight", 127)):
                if (np.abs(tensors[name].astype(np.int64)) * most).sum(1).max() >= _EXACT // 2:
                    raise ValueError(f"{name} is too wide or too large for exact sums")

    def check(self, spec: TokenSpec, num_codebooks: int) -> None:
        """Raise ValueError unless it is for the first codebooks of a model, as far as they are used."""
        if max(spec.strides) > 1:
            raise ValueError(f"codebooks of several frame rates, as those of model {spec.name!r}, have no entropy coding")
        count = min(num_codebooks, len(self.sizes))
        if self.sizes[:count] != spec.codebook_sizes[:count]:
            raise ValueError(f"the prior is for codebooks of {self.sizes}, model {spec.name!r} has {spec.codebook_sizes}")

    @cached_property
    def id(self) -> bytes:
        """4 bytes that name this prior: the CRC-32 of names, shapes and values of its tensors, sorted by name."""
        crc = 0
        for name, value in self.tensors.items():
            crc = crc32(f"{name} {value.dtype.str[1:]} {value.shape}".encode(), crc)
            crc = crc32(value.astype(value.dtype.newbyteorder("<")).tobytes(), crc)
        return crc.to_bytes(4, "little")

    def frequencies(self, k: int, before: list[np.ndarray], below: np.ndarray) -> np.ndarray:
        """How often each code of codebook k comes: (N, size) int64, each at least 1, each row adding up to 1 << SCALE.

        Args:
            before: `context.order` arrays (K, N) of the frames before, the last one first; a code equal to the codebook's size
                stands for a frame that there is not.
            below: (>= k, N) the codes of the same frame.
        """
        frames = [self.embeddings[frame[: len(self.sizes)] + self.starts] for frame in before]
        inputs = self.context.before(k, frames) + self.context.below(k, self.embeddings[below[:k] + self.starts[:k]])
        weight, bias, out_weight, out_bias = self.layers[k]
        sums = np.concatenate(inputs, axis=1) @ weight + bias
        hidden = np.clip(sums.astype(np.int32) >> HIDDEN_SHIFT, 0, 127).astype(np.float32)
        scores = (hidden @ out_weight + out_bias).astype(np.int32)  # (N, size)
        best = scores.argmax(axis=1)
        below_best = scores[np.arange(len(scores)), best][:, None] - scores
        weights = _EXP[np.minimum(below_best >> OUTPUT_SHIFT, EXP_STEPS - 1)]
        frequencies = weights * ((1 << SCALE) - self.sizes[k]) // weights.sum(axis=1, keepdims=True) + 1
        frequencies[np.arange(len(best)), best] += (1 << SCALE) - frequencies.sum(axis=1)
        return frequencies

    def save(self, directory: str | os.PathLike[str], variable: bool = False) -> None:
        """Write prior.safetensors (variable.safetensors for codes of a variable bitrate) into the directory of a model. Raises
        WriteError when it cannot be written."""
        from safetensors.numpy import save

        from codec.atomic import put

        put(Path(directory) / (VARIABLE if variable else FILE), save(self.tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Prior:
        """Read a prior.safetensors. Raises ValueError when it is none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} holds no prior ({error}): fetch it again, or remove it if no file needs it") from None


def _context(weights: Sequence[np.ndarray | None], width: int) -> Context:
    """Of the hidden weights of the first two codebooks. What does not fit it is refused for its shape."""
    if not width or any(weight is None or weight.ndim != 2 for weight in weights):
        return Context(1)
    inputs = [weight.shape[1] // width for weight in weights]
    return Context(max(1, inputs[0]), summed=inputs[1:] == [inputs[0] + 1])


_BOX = Path(__file__).parent.parent / "pretrained"


def priors_in_the_box(name: str) -> tuple[Prior, ...]:
    """Of a model in the box, by its name, which is never taken as a path. Raises ValueError when there is none."""
    found = priors_in(_BOX / name) if name in {path.name for path in _BOX.iterdir()} else ()
    if not found:
        raise ValueError(f"there is no prior for model {name!r} in the box: name the folder of the model that has it")
    return found


def priors_in(folder: str | os.PathLike[str]) -> tuple[Prior, ...]:
    """All that lie in the directory of a model, for readers of files. Raises ValueError for one that cannot be read."""
    folder = Path(folder)
    older = [path for pattern in OLDER for path in sorted(folder.glob(pattern))]
    return tuple(_load(path) for path in (folder / FILE, folder / VARIABLE, *older) if path.is_file())


def prior_of(model: str | os.PathLike[str], variable: bool = False) -> Prior:
    """Of a model in the box by its name, or of the directory of a model. variable: the one for codes of a variable bitrate.

    Raises ValueError when it has none."""
    name = VARIABLE if variable else FILE
    inside = (_BOX / str(model) / name).is_file()
    path = (_BOX if inside else Path()) / model / name
    if not path.is_file():
        what, how = ("a variable bitrate", "variable_fitting.fit_variable") if variable else ("entropy coding", "fitting.fit_prior")
        raise ValueError(f"model {str(model)!r} has no {name} for {what}: copy that of a model with the same tokens, or fit one "
                         f"(codec.entropy.{how})")
    return _load(path)


def _load(path: Path) -> Prior:
    state = path.stat()
    return _loaded(path.resolve(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _loaded(path: Path, modified: int, size: int) -> Prior:
    return Prior.load(path)
