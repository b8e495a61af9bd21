"""What the authors of codecs published themselves: a configuration of their own, JSON or YAML, and a state dict.

Such a directory has one configuration (config.json, or a single YAML file) that `family` knows by its settings, and one file of
weights: model.safetensors, or a single .pt, .pth, .bin or .ckpt, of which only tensors and plain values are ever unpickled.
NeuCodec's has no configuration, nor have X-Codec 2's checkpoints of training: `settings_of_weights` knows them by their tensors.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.config import MAX_BYTES, ConfigError

SPEECHTOKENIZER = {"n_filters", "strides", "dimension", "n_q", "bidirectional"}  # DM-Codec's are the same
SNAC = {"sampling_rate", "encoder_rates", "decoder_rates", "vq_strides"}
WAVTOKENIZER = {"feature_extractor", "backbone", "head"}
NEUCODEC = {"sample_rate", "hop_length"}  # all of it
XCODEC2 = {"semantic_hidden_size", "codec_encoder_hidden_size", "codec_decoder_hidden_size"}
XCODEC2_HEAD = "generator.head.out.weight"  # (4 hops + 2, channels)
XCODEC2_WEIGHTS = {"CodecEnc.conv_blocks.0.bias", "fc_post_a.weight", XCODEC2_HEAD}  # NeuCodec's, too
TAUGHT = ("neucodec", "xcodec2_published")  # families that hear through a teacher of another file
NOT_SETTINGS = "meta.yaml"  # counts downloads of NeuCodec
TEACHER = "w2v-bert-2.0"  # the folder of NeuCodec's and X-Codec 2's
PICKLES = {".pt", ".pth", ".bin", ".ckpt"}
UNPICKLER = "WeightsUnpickler error:"  # what stands before torch's reason
NESTED = ("generator", "state_dict")  # where trainers keep the model's tensors


def family(config: dict[str, Any]) -> str | None:
    """The name of the family whose settings these are, or None."""
    if NEUCODEC == config.keys():
        return "neucodec"
    if XCODEC2 <= config.keys():  # their "model_type" says xcodec2 or, in version 0.1.5 of their package, xcodec
        return "xcodec2_published"
    if SPEECHTOKENIZER <= config.keys():
        return "speechtokenizer"
    if SNAC <= config.keys():
        return "snac"
    return "wavtokenizer" if WAVTOKENIZER <= parts(config).keys() else None


def parts(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a model in a configuration of lightning's command line, or those that stand there by themselves."""
    model = config.get("model")
    inner = model.get("init_args") if isinstance(model, dict) else None
    return inner if isinstance(inner, dict) else config


def find_yaml(directory: Path) -> Path | None:
    """The only YAML file of a directory without config.json."""
    found = [path for pattern in ("*.yaml", "*.yml") for path in directory.glob(pattern) if path.name != NOT_SETTINGS]
    return found[0] if len(found) == 1 else None


def settings_of_weights(directory: Path) -> dict[str, Any] | None:
    """The settings of a directory that holds weights and none, by the names of its tensors; None where they are not known."""
    pickles = [path for path in directory.glob("*") if path.suffix in PICKLES]
    tensors = read_weights(directory) if len(pickles) == 1 else {}
    if not XCODEC2_WEIGHTS <= tensors.keys():
        return None
    hop = (len(tensors[XCODEC2_HEAD]) - 2) // 4
    return dict.fromkeys(XCODEC2) if hop == 320 else {"sample_rate": 24_000, "hop_length": 480}


def with_teacher(directory: Path, tensors: dict[str, Tensor], fetch: Callable[[str], Path] | None = None) -> dict[str, Tensor]:
    """Tensors of NeuCodec or X-Codec 2 with those of w2v-BERT 2.0 where they lack them: of a folder of its own beside them,
    or of the one that `fetch` gives for its hub id."""
    from safetensors.torch import load_file

    if any(name.startswith("semantic_model.") for name in tensors):
        return tensors
    folder = directory / TEACHER
    if fetch is not None and not folder.is_dir():
        folder = fetch(f"facebook/{TEACHER}")
    path = folder / "model.safetensors"
    return tensors | {f"semantic_model.{name}": value for name, value in load_file(path).items()} if path.is_file() else tensors


def read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
        values = yaml.safe_load(text) if len(text) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML configuration ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a configuration: a mapping of settings in at most {MAX_BYTES} characters is one")
    return values


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a directory's pickled state dict, by name. Raises ConfigError where there is none, or more than one,
    and for pickles that hold more than tensors and plain values."""
    found = sorted(path for path in directory.iterdir() if path.suffix in PICKLES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"{directory}: one file of weights is needed, model.safetensors or {', '.join(sorted(PICKLES))}: "
                          f"there is {names}")
    path = found[0]
    values = unpickle(path)
    for key in NESTED:
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items()):
        raise ConfigError(f"{path}: no state dict: a mapping of names to tensors is one")
    return dict(values)


def unpickle(path: Path) -> Any:
    """Tensors and plain values. Raises ConfigError for pickles that hold more."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how pickles were written
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of the many that a pickle can raise, none may get further
        reason = str(error).rpartition(UNPICKLER)[2].split("\n")[0].strip()[:200]  # not torch's advice to load it all the same
        raise ConfigError(f"{path}: refused, not tensors alone ({type(error).__name__}: {reason}): load it where you trust it "
                          "and save its state dict with safetensors.torch.save_file as model.safetensors") from None
