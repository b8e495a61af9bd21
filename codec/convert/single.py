"""Files of weights that come without a configuration, as the authors' packages read them: EnCodec's (`encodec`,
encodec_24khz-*.th), DAC's (`descript-audio-codec`, weights*.pth) and Mimi's (`moshi`, tokenizer-*.safetensors).

Their tensors are given the names that `transformers` has for them. Pickles are read if they hold tensors and plain values alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from codec.config import ConfigError
from codec.convert.original import PICKLES, unpickle

SUFFIXES = PICKLES | {".th", ".safetensors"}
ENCODEC = {"encoder.model.0.conv.conv.weight_v", "quantizer.vq.layers.0._codebook.embed"}
ENCODEC_48K = {"encoder.model.0.conv.norm.weight", "quantizer.vq.layers.0._codebook.embed"}
MIMI = {"encoder.model.0.conv.conv.weight", "downsample.conv.conv.conv.weight"}
DAC_SETTINGS = {  # theirs to those of `transformers`
    "encoder_dim": "encoder_hidden_size", "encoder_rates": "downsampling_ratios", "latent_dim": "hidden_size",
    "decoder_dim": "decoder_hidden_size", "decoder_rates": "upsampling_ratios", "n_codebooks": "n_codebooks",
    "codebook_size": "codebook_size", "codebook_dim": "codebook_dim", "sample_rate": "sampling_rate",
}
MIMI_HEADS = 8
LEAF = re.compile(r"(.*?)\.((?:parametrizations\.weight\.)?\w+)")  # a layer and the name of its tensor


def find(source: Path) -> Path | None:
    """The file: `source` itself, or the only one of weights in a directory without a configuration. None where the directory
    holds no such model."""
    if source.is_file():
        return source
    if not source.is_dir() or any(path.suffix in (".json", ".yaml", ".yml") for path in source.iterdir()):
        return None
    found = [path for path in source.iterdir() if path.suffix in SUFFIXES]
    return found[0] if len(found) == 1 and _family(*_names(found[0])) else None


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors as `transformers` would have them. Raises ConfigError for what is no such file."""
    names, values = _names(path)
    family = _family(names, values)
    if family == "dac":
        return _dac(values["metadata"]["kwargs"], values["state_dict"])
    if family is None:
        raise ConfigError(f"{path}: no weights of EnCodec 24 kHz, DAC or Mimi as their authors published them: give the folder of "
                          "a model with its config.json")
    tensors = _load(path) if path.suffix == ".safetensors" else values
    return _encodec(tensors) if family == "encodec" else _mimi(tensors)


def _names(path: Path) -> tuple[set[str], Any]:
    """Of the tensors, and of a pickle all that is in it."""
    if path.suffix != ".safetensors":
        values = unpickle(path) if path.suffix in SUFFIXES else None
        return {name for name in values if isinstance(name, str)} if isinstance(values, dict) else set(), values
    return set(_load(path, names=True)), None


def _load(path: Path, names: bool = False) -> Any:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        if not names:
            return load_file(path)
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not readable as safetensors ({error})") from None


def _family(names: set[str], values: Any) -> str | None:
    if {"state_dict", "metadata"} <= names:
        metadata, tensors = values["metadata"], values["state_dict"]
        settings = metadata.get("kwargs") if isinstance(metadata, dict) else None
        fitting = isinstance(settings, dict) and {"encoder_rates", "decoder_rates"} <= settings.keys()
        return "dac" if fitting and _are_tensors(tensors) else None
    if values is not None and not _are_tensors(values):
        return None
    if ENCODEC <= names or ENCODEC_48K <= names:
        return "encodec"
    return "mimi" if MIMI <= names else None


def _are_tensors(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items())


def _encodec(tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config: dict[str, Any] = {"model_type": "encodec"}
    if "encoder.model.0.conv.norm.weight" in tensors:
        config["norm_type"] = "time_group_norm"  # the 48 kHz model, which is refused in words
    return config, {_seanet_name(name): value for name, value in tensors.items()}


def _seanet_name(name: str) -> str:
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv\.conv|convtr\.convtr)\.", ".conv.", name)
    return re.sub(r"\.vq\.layers\.(\d+)\._codebook\.", r".layers.\1.codebook.", name)


def _dac(settings: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = {public: settings[name] for name, public in DAC_SETTINGS.items() if name in settings}
    widths = config.get("codebook_dim")
    if isinstance(widths, (list, tuple)) and widths and all(width == widths[0] for width in widths):  # all codebooks alike
        config["codebook_dim"] = widths[0]
    for name in ("downsampling_ratios", "upsampling_ratios"):
        config[name] = list(config[name]) if isinstance(config[name], (list, tuple)) else [config[name]]
    layers = _dac_layers(len(config["downsampling_ratios"]), len(config["upsampling_ratios"]))
    renamed = {}
    for name, value in tensors.items():
        match = LEAF.fullmatch(name)
        renamed[f"{layers[match[1]]}.{match[2]}" if match and match[1] in layers else name] = value
    return {"model_type": "dac", **config}, renamed


def _dac_layers(down: int, up: int) -> dict[str, str]:
    """Layers that they number to those that `transformers` names."""
    layers = {
        "encoder.block.0": "encoder.conv1", f"encoder.block.{down + 1}": "encoder.snake1",
        f"encoder.block.{down + 2}": "encoder.conv2", "decoder.model.0": "decoder.conv1",
        f"decoder.model.{up + 1}": "decoder.snake1", f"decoder.model.{up + 2}": "decoder.conv2",
    }
    for half, theirs, count, units, snake, conv in (("encoder", "encoder.block", down, 0, 3, "conv1"),
                                                    ("decoder", "decoder.model", up, 2, 0, "conv_t1")):
        for index in range(min(count, 256)):
            inner, block = f"{theirs}.{index + 1}.block", f"{half}.block.{index}"
            layers |= {f"{inner}.{snake}": f"{block}.snake1", f"{inner}.{snake + 1}": f"{block}.{conv}"}
            for unit in range(3):
                for number, name in enumerate(("snake1", "conv1", "snake2", "conv2")):
                    layers[f"{inner}.{units + unit}.block.{number}"] = f"{block}.res_unit{unit + 1}.{name}"
    return layers


MIMI_NAMES = [  # expressions for theirs, and the names of `transformers`
    (r"^(encoder|decoder)_transformer\.transformer\.", r"\1_transformer."),
    (r"\.self_attn\.out_proj(s\.0)?\.", ".self_attn.o_proj."), (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."), (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."), (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"^downsample\.conv\.conv\.", "downsample.conv."), (r"^upsample\.conv\.convtr\.", "upsample.conv."),
    (r"^quantizer\.rvq_first\.", "quantizer.semantic_residual_vector_quantizer."),
    (r"^quantizer\.rvq_rest\.", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\.codebook\.embedding_sum$", ".codebook.embed_sum"), (r"\.codebook\.(_initialized|inited)$", ".codebook.initialized"),
    (r"\.codebook\.cluster_size$", ".codebook.cluster_usage"), (r"\.codebook\.embed_avg$", ".codebook.embed_sum"),
]
PROJECTIONS = re.compile(r"(.*\.self_attn)\.in_proj(?:s\.0\.|_)weight")


def _mimi(tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        name = _seanet_name(name)
        for theirs, public in MIMI_NAMES:
            name = re.sub(theirs, public, name)
        match = PROJECTIONS.fullmatch(name)
        if match and value.dim() == 2 and value.shape[0] % (6 * MIMI_HEADS) == 0:
            query, key, values = value.chunk(3)
            renamed |= {f"{match[1]}.{letter}_proj.weight": part
                        for letter, part in (("q", _halves(query)), ("k", _halves(key)), ("v", values))}
        else:
            renamed[name] = value
    books = re.compile(r"quantizer\.(?:semantic|acoustic)_residual_vector_quantizer\.layers\.\d+\.codebook\.embed_sum")
    count = max(1, sum(bool(books.fullmatch(name)) for name in renamed))
    return {"model_type": "mimi", "num_quantizers": count, "whole_frames": True}, renamed


def _halves(weight: Tensor) -> Tensor:
    """Of queries or keys: moshi turns features 2 i and 2 i + 1 of a head together, `transformers` and we i and half a head more."""
    rows = weight.reshape(MIMI_HEADS, -1, 2, weight.shape[1])  # (heads, width / 2, 2, channels)
    return rows.transpose(1, 2).reshape(weight.shape)
