"""Models for other runtimes: ONNX files and `torch.export` packages, checked against the live model on their way out."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch

from codec.export import formats
from codec.export.graphs import Graph, ExportError, graphs
from codec.model import Codec

__all__ = ["ExportError", "export"]

DESCRIPTION = "codec.json"


def export(model: Codec, out: str | os.PathLike[str], format: str = "onnx", num_codebooks: int | None = None) -> Path:
    """Write `encoder` and `decoder`, which take whole signals, and where the model streams `encoder_step` and `decoder_step`,
    which take a frame and the state that the step before has given; `.onnx` or `.pt2` files. docs/export.md has shapes.

    out: a new folder, which appears whole or not at all; codec.json in it says what goes in and comes out.
    format: "onnx", float32, opset 18 or later; "torch" for packages that `torch.export.load` reads.
    num_codebooks: that the encoder gives and the decoder takes, all by default.

    Every file is run, by ONNX Runtime or torch, on signals of several lengths and on two at once; codes and samples must be those
    of the live model. Raises ExportError for what cannot be exported or does not agree, and for packages that are missing.
    """
    if format not in formats.FORMATS:
        raise ExportError(f"format={format!r}: there is {' and '.join(formats.FORMATS)}")
    out, kind = Path(out).absolute(), formats.FORMATS[format]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: is there already: name a new folder")
    if not out.parent.is_dir():
        raise ExportError(f"cannot write {out}: {out.parent} does not exist: make it first")
    beside = out.with_name(f".{out.name[:100]}.{secrets.token_hex(4)}.part")
    beside.mkdir()
    device, model = model.device, model.to("cpu").eval()
    try:
        with torch.no_grad():
            made = graphs(model, model.quantizer.check_count(num_codebooks))
            for graph in made:
                path = beside / f"{graph.name}{kind.suffix}"
                kind.write(graph, path)
                _check(graph, _loaded(graph, kind, path))
        (beside / DESCRIPTION).write_text(json.dumps(_description(model, made, kind.suffix), indent=2) + "\n")
        os.replace(beside, out)
    finally:
        model.to(device)
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _loaded(graph: Graph, kind: formats.Format, path: Path) -> formats.Run:
    try:
        return kind.load(path)
    except ExportError:
        raise
    except Exception as error:  # of many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{graph.name} cannot be read back: this model cannot be exported ({reason[0]})") from None


def _check(graph: Graph, run: formats.Run) -> None:
    """Raise ExportError unless `run` gives what the live graph does."""
    for inputs in graph.trials():
        try:
            given = run(inputs)
        except Exception as error:  # of many kinds
            raise ExportError(f"{graph.name} does not run on inputs {[tuple(x.shape) for x in inputs[:1]]}: this model cannot be "
                              f"exported ({str(error).strip().splitlines()[0]})") from None
        for name, live, other in zip(graph.outputs, graph(*inputs), given):
            if live.shape != other.shape:
                raise ExportError(f"{graph.name}: {name} has shape {tuple(other.shape)} instead of {tuple(live.shape)}: "
                                  "this model cannot be exported")
            if live.is_floating_point():
                error = float((live - other).abs().max() / live.abs().max().clamp(min=1.0)) if live.numel() else 0.0
                if not error <= 1e-4:  # nor NaN
                    raise ExportError(f"{graph.name}: {name} is off by {error:.2g}: this model cannot be exported")
            elif float((live == other).double().mean()) < 0.999:
                raise ExportError(f"{graph.name}: {float((live != other).double().mean()):.1%} of {name} differ: this model cannot "
                                  "be exported")


def _description(model: Codec, made: list[Graph], suffix: str) -> dict[str, Any]:
    return {
        "name": model.config.name, "sample_rate": model.sample_rate, "frame_size": model.frame_size,
        "output_sample_rate": model.output_sample_rate, "output_frame_size": model.output_frame_size,
        "codebook_sizes": list(model.codebook_sizes), "decoder_delay": model.decoder.delay,
        "fingerprint": model.spec.fingerprint,
        "files": {f"{graph.name}{suffix}": graph.description() for graph in made},
    }
