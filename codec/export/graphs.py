"""What is exported of a model: functions of tensors, with example inputs and which of their dimensions may vary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from codec.model import Codec
from codec.nn.state import State

BATCH, FRAMES = 2, 50  # of the example: a size of 1 would be taken for a constant


class ExportError(ValueError):
    """A model that cannot be exported; one line that says why."""


class Graph(nn.Module):
    """A function of tensors (B, ...) to a tuple of them.

    Attributes:
        name: of the file.
        inputs, outputs: their names.
        unit: inputs a frame along the last dimension of the first input; 0 where it is always one frame.
    """

    unit = 0

    def __init__(self, name: str, inputs: list[str], outputs: list[str]):
        super().__init__()
        self.name, self.inputs, self.outputs = name, inputs, outputs

    def example(self, batch: int = BATCH, frames: int = FRAMES) -> tuple[Tensor, ...]:
        """Inputs of that size."""
        raise NotImplementedError

    def dimensions(self) -> tuple[dict[int, Any], ...]:
        """What may vary of each input, as `torch.export` takes it."""
        batch, frames = torch.export.Dim("batch", min=1), torch.export.Dim("frames", min=2)
        first = {0: batch, 2: self.unit * frames if self.unit > 1 else frames} if self.unit else {0: batch}
        return (first, *({0: batch} for _ in self.inputs[1:]))

    def trials(self) -> Iterator[tuple[Tensor, ...]]:
        """Inputs to compare on."""
        for batch, frames in ((1, 2), (1, 7), (3, 120)):
            yield self.example(batch, frames)

    def description(self) -> dict[str, Any]:
        frames = f"frames * {self.unit}" if self.unit > 1 else "frames" if self.unit else None
        sizes = [["batch", *x.shape[1:]] for x in self.example()]
        sizes[0][2] = frames or sizes[0][2]
        types = [str(x.dtype).removeprefix("torch.") for x in self.example()]
        return {"inputs": dict(zip(self.inputs, sizes)), "types": dict(zip(self.inputs, types)), "outputs": self.outputs}


class Encode(Graph):
    def __init__(self, model: Codec, k: int):
        super().__init__("encoder", ["samples"], ["codes"])
        self.encoder, self.quantizer, self.k, self.unit = model.encoder, model.quantizer, k, model.frame_size

    def forward(self, samples: Tensor) -> tuple[Tensor]:
        """samples (B, 1, frames * frame_size) to codes (B, k, frames) int64."""
        return (self.quantizer.encode(self.encoder(samples)[0], self.k),)

    def example(self, batch: int = BATCH, frames: int = FRAMES) -> tuple[Tensor, ...]:
        return (noise(batch, 1, frames * self.unit),)


class Decode(Graph):
    unit = 1

    def __init__(self, model: Codec, k: int):
        super().__init__("decoder", ["codes"], ["samples"])
        self.decoder, self.quantizer, self.sizes = model.decoder, model.quantizer, model.codebook_sizes[:k]
        self.delay, self.frame = model.decoder.delay, model.output_frame_size
        self.silence = -(-self.delay // self.frame)

    def forward(self, codes: Tensor) -> tuple[Tensor]:
        """codes (B, k, frames) int64 to samples (B, 1, frames * output_frame_size), aligned with what was encoded."""
        latents = self.quantizer.decode(codes)
        size = latents.shape[2] * self.frame
        if self.delay:
            latents = torch.cat([latents, latents.new_zeros(latents.shape[0], latents.shape[1], self.silence)], 2)
        return (self.decoder(latents)[0][..., self.delay : self.delay + size],)

    def example(self, batch: int = BATCH, frames: int = FRAMES) -> tuple[Tensor, ...]:
        return (random_codes(batch, self.sizes, frames),)


class Step(Graph):
    """A frame and a state to what it makes and the state after it. The state at the start is zeros."""

    def __init__(self, name: str, source: str, target: str, network: nn.Module, structure: State):
        parts = list(leaves(structure))
        super().__init__(name, [source, *(f"state_{i}" for i in range(len(parts)))],
                         [target, *(f"next_state_{i}" for i in range(len(parts)))])
        self.network, self._structure = network, structure

    def start(self, batch: int) -> tuple[Tensor, ...]:
        return tuple(part.new_zeros(batch, *part.shape[1:]) for part in leaves(self._structure))

    def nested(self, parts: tuple[Tensor, ...]) -> State:
        return nest(self._structure, iter(parts))

    def first(self, batch: int) -> Tensor:
        raise NotImplementedError

    def example(self, batch: int = BATCH, frames: int = FRAMES) -> tuple[Tensor, ...]:
        return (self.first(batch), *self.start(batch))

    def trials(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in (1, 3):
            inputs = self.example(batch)
            for _ in range(3):  # from the start, then with the state of the live model
                yield inputs
                inputs = (self.first(batch), *self(*inputs)[1:])


class EncodeStep(Step):
    def __init__(self, model: Codec, k: int, structure: State):
        super().__init__("encoder_step", "samples", "codes", model.encoder, structure)
        self.quantizer, self.k, self.size = model.quantizer, k, model.frame_size

    def forward(self, samples: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """samples (B, 1, frame_size) to codes (B, k, 1) int64."""
        latents, after = self.network(samples, self.nested(state))
        return (self.quantizer.encode(latents, self.k), *leaves(after))

    def first(self, batch: int) -> Tensor:
        return noise(batch, 1, self.size)


class DecodeStep(Step):
    def __init__(self, model: Codec, k: int, structure: State):
        super().__init__("decoder_step", "codes", "samples", model.decoder, structure)
        self.quantizer, self.sizes = model.quantizer, model.codebook_sizes[:k]

    def forward(self, codes: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """codes (B, k, 1) int64 to samples (B, 1, output_frame_size), which lag by `decoder_delay` samples."""
        wav, after = self.network(self.quantizer.decode(codes), self.nested(state))
        return (wav, *leaves(after))

    def first(self, batch: int) -> Tensor:
        return random_codes(batch, self.sizes, 1)


def graphs(model: Codec, k: int) -> list[Graph]:
    """All that this model can be exported as. Raises ExportError where it sees more than a graph can be given."""
    if model.encoder.window or model.decoder.window:
        raise ExportError(f"{model.config.name} is coded in windows, which one graph does not hold: it cannot be exported")
    if not model.quantizer.decodes or model.quantizer.frame_multiple > 1:
        raise ExportError(f"{model.config.name}: its quantizer codes frames together or not back: it cannot be exported")
    if any(isinstance(part, nn.LSTM) for part in model.modules()):
        raise ExportError(f"{model.config.name} has an LSTM, of which torch.export makes a graph for one length alone: it cannot be "
                          "exported")
    made: list[Graph] = [Encode(model, k), Decode(model, k)]
    for step, network, first in (
        (EncodeStep, model.encoder, noise(1, 1, model.frame_size)),
        (DecodeStep, model.decoder, torch.zeros(1, model.config.dim, 1)),
    ):
        structure = _state(network, first)
        if structure is not None:
            made.append(step(model, k, structure))
    return made if len(made) == 4 else made[:2]


def _state(network: nn.Module, first: Tensor) -> State | None:
    """The structure of its state, where the state keeps its shape and zeros stand for the start; else None."""
    if network.context is not None or network.start_frames > 1:
        return None
    wav, state = network(first)
    again, after = network(first, nest(state, (part.new_zeros(part.shape) for part in leaves(state))))
    same = [part.shape for part in leaves(state)] == [part.shape for part in leaves(after)]
    return state if same and torch.allclose(wav, again, rtol=0, atol=1e-5 * float(wav.abs().max())) else None


def leaves(state: State) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from leaves(part)


def nest(structure: State, parts: Iterator[Tensor]) -> State:
    """The parts as a state of that structure."""
    if isinstance(structure, Tensor):
        return next(parts)
    return tuple(nest(part, parts) for part in structure)


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0] + shape[-1]))


def random_codes(batch: int, sizes: tuple[int, ...], frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch + frames)
    return torch.stack([torch.randint(size, (batch, frames), generator=generator) for size in sizes], 1)
