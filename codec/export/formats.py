"""How a graph is written to a file and run from it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codec.export.graphs import ExportError, Graph

Run = Callable[[tuple[Tensor, ...]], list[Tensor]]
MISSING = 'ONNX files need more packages: pip install "neural-codec-toolkit[export]"'


@dataclass(frozen=True)
class Format:
    suffix: str
    write: Callable[[Graph, Path], None]
    load: Callable[[Path], Run]


def _program(graph: Graph) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(graph, graph.example(), dynamic_shapes=_dimensions(graph), strict=False)
    except Exception as error:  # torch raises many kinds, some of them its own and private
        raise ExportError(f"{graph.name}: torch.export: {str(error).strip().splitlines()[0]}") from error


def _dimensions(graph: Graph) -> tuple:
    """A graph with *args takes them as one tuple."""
    first, *rest = graph.dimensions()
    return (first, tuple(rest)) if rest else (first,)


def _write_torch(graph: Graph, path: Path) -> None:
    torch.export.save(_program(graph), path)


def _load_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: list(module(*inputs))


def _write_onnx(graph: Graph, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"{MISSING} ({error})") from None
    program = _program(graph)
    with _quiet():
        try:
            written = torch.onnx.export(program, dynamo=True, input_names=graph.inputs, output_names=graph.outputs)
        except Exception as error:
            raise ExportError(f"{graph.name}: torch.onnx: {str(error).strip().splitlines()[0]}") from error
        written.save(path)


def _load_onnx(path: Path) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"{MISSING} ({error})") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised too
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, given)]

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its progress and what it does not need."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


FORMATS = {"onnx": Format(".onnx", _write_onnx, _load_onnx), "torch": Format(".pt2", _write_torch, _load_torch)}
