"""The files of a feature store: what they are called, what is in them, and whether it is whole.

store.json says what the features are, quantizer.safetensors codes them where they are compressed, and all other
*.safetensors are shards of rows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.atomic import put

if TYPE_CHECKING:
    from quantizers.mvq import MultiCodebookVQ

VERSION = 1
INFO, QUANTIZER = "store.json", "quantizer.safetensors"


class StoreError(ValueError):
    """A feature store cannot be used, or cannot take these features; one line that says why and how to mend it."""


def folder_name(name: str, fingerprint: str, bytes_per_frame: int | None) -> str:
    """Of the store of a teacher's features."""
    plain = re.sub(r"[^0-9A-Za-z.+]+", "-", name).strip("-.")[:100]
    return f"{plain}{f'-mvq{bytes_per_frame}' if bytes_per_frame is not None else ''}-{fingerprint}"


def put_info(path: Path, info: dict[str, Any]) -> None:
    """Make the store's folder and its store.json, where there is none yet."""
    if (path / INFO).is_file():
        return
    path.mkdir(parents=True, exist_ok=True)
    put(path / INFO, (json.dumps(info, indent=2) + "\n").encode())


def read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
        if info["version"] != VERSION:
            raise StoreError(f"{path / INFO} is of version {info['version']}: this program reads version {VERSION}")
        return {key: info[key] for key in ("version", "name", "frame_rate", "dim", "fingerprint", "bytes_per_frame")}
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path / INFO} is not readable as a feature store's ({error}): choose another folder"
        ) from None


def shards(path: Path) -> list[Path]:
    """Those that are whole: what is being written begins with a dot."""
    there = path.glob("*.safetensors")
    return sorted(path for path in there if path.name != QUANTIZER and path.name[0] != ".")


def read_header(shard: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensors by name, without opening all of them."""
    try:
        with open(shard, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
        if shard.stat().st_size != 8 + length + end:
            raise ValueError("cut short")
        return header
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise StoreError(f"{shard} is damaged ({error}): delete it and run again") from None


def put_quantizer(path: Path, quantizer: MultiCodebookVQ) -> None:
    from safetensors.torch import save

    put(path / QUANTIZER, save({name: value.contiguous() for name, value in quantizer.inference_state().items()}))


def load_quantizer(path: Path, dim: int, bytes_per_frame: int | None) -> MultiCodebookVQ | None:
    """The one in a store's folder, None where there is none."""
    path = path / QUANTIZER
    if not path.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from quantizers.mvq import MultiCodebookVQ

    try:
        quantizer = MultiCodebookVQ(dim, bytes_per_frame or 0, 256, settle=False)
        state = load_file(path)
        if state.keys() != quantizer.inference_state().keys():
            raise ValueError("tensors are missing")
        quantizer.load_state_dict(state, strict=False)  # what else it has, training alone needs
        return quantizer.eval()
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}): delete its folder and run again") from None
