"""Where models come from: the ones in the box, directories, and Hugging Face hub ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from codec import entropy
from codec.atomic import Output, WriteError
from codec.config import CodecConfig, ConfigError
from codec.convert import convert, is_foreign, shards
from codec.model import Codec
from codec.nn.teacher import LeftOut, left_out

PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT = "speech-16k"
CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
SHOWN = 20  # tensors in an error message
LATER = {"quantizer.cells"}  # what models saved by earlier versions lack; as it is built, they code as they did


def models() -> list[str]:
    """Names of the models in the box."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{CONFIG}"))


def prior_of(name: str, variable: bool = False) -> entropy.Prior:
    """The prior for entropy coding of a model by its name, folder or hub id. Raises ValueError when it has none."""
    return entropy.prior_of(name if name in models() else find(name), variable)


def load(name: str | Path = DEFAULT, device: str | torch.device = "cpu", without: str | None = None) -> Codec:
    """Load a model in the box by name, a directory with config.json and model.safetensors, or a hub id `owner/name`
    (also `hf:owner/name`).

    without: the "encoder" or the "decoder", for a process that only decodes or only encodes. Its weights are read
    for its fingerprint alone, one by one. Using the part raises ValueError.

    A directory or hub id may hold a model of `transformers` or its authors (those of `codec.convert`), which is converted in
    memory, as is a single file of weights of EnCodec, DAC or Mimi. `FILE.py:FUNCTION` is a codec that stays outside, see
    `codec.adapters.load`. The model is in evaluation mode. Raises ValueError when
    there is no such model or its files do not fit together.
    """
    if without not in (None, "encoder", "decoder"):
        raise ValueError(f"without={without!r}: there is encoder and decoder")
    directory = find(str(name))
    if _is_program(str(name)):
        from codec import adapters

        model = adapters.load(str(name)).to(device).eval()
        if without:
            model.release(without)
        return model
    if is_foreign(directory):
        model = convert(directory, fetch_for(str(name))).to(device)
        if without:
            model.release(without)
        return model
    config = CodecConfig.from_json(directory / CONFIG)
    parts = left_out if without == "encoder" else nullcontext
    try:
        with torch.device("meta"), Undrawn(), parts():
            plan = Codec(config)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{directory / CONFIG} describes no model that can be built: {error}") from None
    unbuilt = _check(directory / WEIGHTS, plan)  # before anything large is made
    with torch.random.fork_rng(devices=[]), Undrawn(), parts():  # the caller's random numbers stay as they are
        model = Codec(config).to(device)
    own = _state(model)
    unused = [name for name in own if without and name.startswith(f"{without}.")] + unbuilt
    _fill({name: value for name, value in own.items() if name not in unused}, directory / WEIGHTS)
    if without:
        model.release(without, _Stored(directory / WEIGHTS, {name.removeprefix("decoder."): name for name in unused}))
    model = model.eval().requires_grad_(False)
    return model if without else _ready(model)


def _ready(model: Codec) -> Codec:
    """One frame there and back where it can run live: weights are laid out and libraries started now, not while somebody
    listens."""
    if model.encoder.context is None and model.decoder.context is None and not (model.encoder.window or model.decoder.window):
        with model.stream() as stream:
            stream.decode(stream.encode(torch.zeros(1, 1, model.frame_size)))
    return model


def save(model: Codec, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write config.json and model.safetensors into a directory, which is made. `load` reads them back.

    dtype: float16, or float32. Rounding to fp16 makes another encoder, so that tokens of the model in memory are not tokens
    of the saved one.
    Raises ValueError for weights that the dtype cannot hold or that were released, WriteError when the files cannot be written.
    """
    from safetensors.torch import save

    if released := [name for name, value in _state(model).items() if value.is_meta]:
        raise ValueError(f"the weights of the {released[0].split('.')[0]} were released: load the model again to save it")
    state = {name: value.detach().cpu() for name, value in _state(model).items()}
    state = {name: value.to(dtype).contiguous() for name, value in state.items()}
    bad = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"weights that are NaN or too large for {'fp16' if dtype == torch.float16 else dtype}: "
                         f"{', '.join(bad[:5])}")
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(str(directory), error) from error
    config = json.dumps(model.config.to_dict(), indent=2) + "\n"
    for name, content in ((WEIGHTS, save(state)), (CONFIG, config.encode())):
        file = Output(directory / name)
        try:
            file.write(content)
            file.commit()
        finally:
            file.discard()


def exact_dtype(model: Codec) -> torch.dtype:
    """float16 where that holds every weight as it is, else float32."""
    exact = all(torch.equal(value.half().to(value.dtype), value) for value in _state(model).values())
    return torch.float16 if exact else torch.float32


def _state(model: Codec) -> dict[str, torch.Tensor]:
    """The tensors that a decoder of tokens needs: no trainers of codebooks."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("quantizer.trainer")}


def find(name: str) -> Path:
    """The directory of a model, or its file, downloaded if need be. Raises ValueError when there is no such model."""
    if name.startswith("hf:"):
        return _download(name[3:])
    if (PRETRAINED / name / CONFIG).is_file():
        return PRETRAINED / name
    path = Path(name.rpartition(":")[0] if _is_program(name) else name)
    if path.is_file():
        return path
    if path.is_dir():
        if is_foreign(path):
            return path
        missing = [file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()]
        if missing:
            raise ConfigError(f"{name} holds no model: {' and '.join(missing)} missing")
        return path
    if _may_be_hub_id(name):
        return _download(name)
    raise ConfigError(f"no model is named {name!r}: there is {', '.join(models()) or 'none'}, or give a directory")


def _is_program(name: str) -> bool:
    """Whether it is FILE.py:FUNCTION."""
    return name.rpartition(":")[0].endswith(".py")


def fetch_for(name: str) -> Callable[[str], Path] | None:
    """What gets the folder of another hub id where the model `name` needs one: nothing unless it came from the hub itself."""
    return _download if name.startswith("hf:") or not Path(name).exists() and _may_be_hub_id(name) else None


def _may_be_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).parent.is_dir()


def _download(name: str) -> Path:
    """The folder of a hub id, with its configuration and weights: safetensors, or the pickle where there are none."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(f"there is no folder {name}; if it is a hub id: pip install huggingface_hub") from None
    try:
        path = Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, *entropy.FILES, shards.INDEX, shards.FILES]))
        there = (path / WEIGHTS).is_file() or (path / shards.INDEX).is_file()
        return path if there else Path(snapshot_download(name, allow_patterns=[CONFIG, PICKLE]))
    except Exception as error:  # any of a dozen network and hub errors
        raise ConfigError(f"{name} is neither a directory nor to be had from the hub ({type(error).__name__})") from None


class Undrawn(TorchFunctionMode):
    """Models are built without drawing initial weights: it takes long, and on the "meta" device 150 MB of torch's parts. They are
    not even written to, as memory that never is is never taken."""

    INITS = ("torch.nn.init", "transformers.initialization")
    METHODS = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.copy_}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in self.METHODS and isinstance(args[0], torch.nn.Parameter):
            return args[0]
        if function in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return args[0].zero_()  # torch draws a truncated normal distribution again until all numbers lie inside
        if getattr(function, "__module__", None) in self.INITS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _check(path: Path, plan: Codec) -> list[str]:
    """Raise ConfigError unless names and shapes in a file of weights are those of a model exactly. Gives the names of weights
    of what the model was built without."""
    with _open(path) as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    own = _state(plan)
    left = tuple(f"{name}." for name, module in plan.named_modules() if isinstance(module, LeftOut))
    unbuilt = [name for name in shapes if name.startswith(left)]
    shapes = {name: shape for name, shape in shapes.items() if name not in unbuilt}
    problems = [f"missing {name}" for name in sorted(own.keys() - shapes.keys() - LATER)]
    problems += [f"unexpected {name}" for name in sorted(shapes.keys() - own.keys())]
    problems += [
        f"{name} is {shapes[name]} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & shapes.keys()) if shapes[name] != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ConfigError(f"{path} does not fit its config.json: {'; '.join(problems[:SHOWN])}{more}")
    return unbuilt


@torch.no_grad()
def _fill(own: dict[str, torch.Tensor], path: Path) -> None:
    with _open(path) as tensors:
        there = set(tensors.keys())
    for name, value in own.items():
        if name in there or name not in LATER:
            value.copy_(_read(path, name))


class _Stored(Mapping[str, torch.Tensor]):
    """Weights in a file, each of which is read when it is asked for. names: in the file, by key."""

    def __init__(self, path: Path, names: dict[str, str]):
        self._path, self._names = path, names

    def __getitem__(self, key: str) -> torch.Tensor:
        return _read(self._path, self._names[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read(path: Path, name: str) -> torch.Tensor:
    """A weight in float32, from an opening of its own: all that was read of an open file stays in memory."""
    with _open(path) as tensors:
        value = tensors.get_tensor(name)
    if not value.dtype.is_floating_point or not _finite(value := value.float()):
        raise ConfigError(f"{path} holds what are no weights (NaN, infinite or not floating-point): {name}")
    return value


def _finite(value: torch.Tensor) -> bool:
    """Of what is contiguous; without the masks of its size that torch.isfinite takes on the way."""
    return value.numel() == 0 or all(end.isfinite() for end in value.aminmax())


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not readable as safetensors ({error})") from None
