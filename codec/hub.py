"""Where models come from: the ones in the box, directories, and Hugging Face hub ids."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from codec.atomic import Output, WriteError
from codec.config import CodecConfig, ConfigError
from codec.convert import convert, is_foreign
from codec.model import Codec

PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT = "speech-16k"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def models() -> list[str]:
    """Names of the models in the box."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{CONFIG}"))


def load(name: str | Path = DEFAULT, device: str | torch.device = "cpu") -> Codec:
    """Load a model in the box by name, a directory with config.json and model.safetensors, or a hub id `owner/name`
    (also `hf:owner/name`).

    A directory or hub id may hold a model of `transformers` (those of `codec.convert`), which is converted in memory. The
    model is in evaluation mode. Raises ValueError when there is no such model or its files do not fit together.
    """
    directory = find(str(name))
    if is_foreign(directory / CONFIG):
        return convert(directory).to(device)
    config = CodecConfig.from_json(directory / CONFIG)
    try:
        with torch.device("meta"):
            shapes = _state(Codec(config))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{directory / CONFIG} describes no model that can be built: {error}") from None
    tensors = _read(directory / WEIGHTS, shapes)  # fits: what the configuration asks for is what the file holds
    with torch.random.fork_rng(devices=[]):  # drawing initial weights must not change the caller's random numbers
        model = Codec(config)
    model.load_state_dict(tensors, strict=False)
    return model.to(device).eval().requires_grad_(False)


def save(model: Codec, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write config.json and model.safetensors into a directory, which is made. `load` reads them back.

    dtype: float16, or float32. Rounding to fp16 makes another encoder, so that tokens of the model in memory are not tokens
    of the saved one.
    Raises ValueError for weights that the dtype cannot hold, WriteError when the files cannot be written.
    """
    from safetensors.torch import save

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
    """The directory of a model, downloaded if need be. Raises ValueError when there is no such model."""
    if name.startswith("hf:"):
        return _download(name[3:])
    if (PRETRAINED / name / CONFIG).is_file():
        return PRETRAINED / name
    path = Path(name)
    if path.is_dir():
        missing = [file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()]
        if missing:
            raise ConfigError(f"{name} holds no model: {' and '.join(missing)} missing")
        return path
    if name.count("/") == 1 and not name.startswith((".", "/")) and not path.parent.is_dir():
        return _download(name)
    raise ConfigError(f"no model is named {name!r}: there is {', '.join(models()) or 'none'}, or give a directory")


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(f"there is no folder {name}; if it is a hub id: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # any of a dozen network and hub errors
        raise ConfigError(f"{name} is neither a directory nor to be had from the hub ({type(error).__name__})") from None


def _read(path: Path, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read weights as float32; names and shapes must be those of `own` exactly, and all values finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not readable as safetensors ({error})") from None
    problems = [f"missing {name}" for name in sorted(own.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - own.keys())]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys()) if tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ConfigError(f"{path} does not fit its config.json: {'; '.join(problems[:8])}{more}")
    whole = {name: value.float() for name, value in tensors.items() if value.dtype.is_floating_point}
    bad = [name for name in tensors if name not in whole or not whole[name].isfinite().all()]
    if bad:
        raise ConfigError(f"{path} holds what are no weights (NaN, infinite or not floating-point): {', '.join(bad[:5])}")
    return whole
