"""Fitting a prior to the codes of recordings that a model has encoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.prior import HIDDEN_SHIFT, MAX_SIZE, Context, Prior
from codec.tokens import TokenSpec

UNIT = 32  # of embeddings, hidden values and output weights; hidden weights have twice as many
BATCH = 1024  # frames
LOUDNESS = 4.0  # RMS of the length of the first codebook's embeddings, where they begin as its vectors
_UNITS = {
    ("embedding",): UNIT, ("hidden", "weight"): 2 * UNIT, ("hidden", "bias"): UNIT << HIDDEN_SHIFT,
    ("output", "weight"): UNIT, ("output", "bias"): UNIT * UNIT,
}


def fit_prior(
    recordings: Sequence[Tensor | np.ndarray], spec: TokenSpec, codebooks: int = 3, width: int = 16, hidden: int = 64,
    epochs: int = 3, learning_rate: float = 4e-3, seed: int = 0, start: Prior | None = None,
    progress: Callable[[int, int, float], None] | None = None, vectors: Sequence[Tensor] | None = None, order: int = 2,
) -> Prior:
    """A prior for a model's codes, by Adam on their likelihood under the network with its weights rounded.

    Args:
        recordings: codes (K, T) of each. Take none that the prior is judged by.
        spec: of the model.
        codebooks: the first ones, which it is for; codes of all others are taken as equally likely.
        width: of the embeddings. hidden: units for each codebook.
        epochs: times that each frame is seen.
        start: a prior to go on from, whose codebooks, width, hidden units and context are taken.
        progress: is told (step, steps, bits per code) after every step.
        vectors: (size, dim) of each of the codebooks, which are residual ones: embeddings begin as these, in the `width` directions in
            which they differ most, and those of a frame are added up. Without, embeddings begin at random and lie one behind the other.
        order: frames before, at most.

    Raises ValueError for codes or codebooks that a prior cannot have.
    """
    sizes = spec.codebook_sizes[:codebooks] if start is None else start.sizes
    context = Context(order, summed=vectors is not None) if start is None else start.context
    if max(spec.strides) > 1 or max(sizes) > MAX_SIZE:
        raise ValueError(f"a prior is for codebooks of one frame rate with at most {MAX_SIZE} entries")
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        frames = torch.cat([_with_past(torch.as_tensor(np.asarray(codes)), sizes, context.order) for codes in recordings])
        network = _Network(sizes, width, hidden, context) if start is None else _Network.of(start)
        if start is None and vectors is not None:
            network.begin(vectors)
        _train(network, frames, epochs, learning_rate, progress)
        return Prior(network.tensors())
    finally:
        torch.random.set_rng_state(torch_state)


def _with_past(codes: Tensor, sizes: Sequence[int], order: int) -> Tensor:
    """Codes (K, T) as (T, 1 + order, K) int32: each frame and those before it."""
    if codes.dim() != 2 or len(codes) < len(sizes):
        raise ValueError(f"codes of shape {tuple(codes.shape)}: a prior is for the first {len(sizes)} codebooks, (K, T)")
    none = torch.tensor(sizes).expand(order, -1)
    rows = torch.cat([none, codes[: len(sizes)].T.long()])  # (order + T, K)
    return torch.stack([rows[order - o : len(rows) - o] for o in range(order + 1)], dim=1).to(torch.int32)


def _train(network: _Network, frames: Tensor, epochs: int, learning_rate: float, progress) -> None:
    batch = min(BATCH, len(frames))
    steps, step = epochs * (len(frames) // batch), 0
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
    for _ in range(epochs):
        order = torch.randperm(len(frames))
        for at in range(0, len(frames) - batch + 1, batch):
            rate = learning_rate * min(1.0, (step + 1) / 50) * (1 - step / steps) + 1e-5
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = network(frames[order[at : at + batch]].long())
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            step += 1
            if progress is not None:
                progress(step, steps, float(loss.detach().mean()) / math.log(2))


class _Network(nn.Module):
    """What `Prior.frequencies` computes, in floats that hold its whole numbers exactly, and with gradients."""

    def __init__(self, sizes: Sequence[int], width: int, hidden: int, context: Context):
        super().__init__()
        self.sizes, self.context = tuple(sizes), context
        self.embeddings = nn.ParameterList(0.3 * torch.randn(size, width) for size in sizes)
        self.hidden = nn.ModuleList(nn.Linear(width * context.num_inputs(k), hidden) for k in range(len(sizes)))
        self.output = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        for layer in self.output:
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 1 + order, K) to the mean cost of each codebook's codes in nats (K,)."""
        inputs = []  # (K, N, width) each
        tables = [F.pad(_rounded(table, UNIT), (0, 0, 0, 1)) for table in self.embeddings]
        for o in range(self.context.order + 1):
            inputs.append(torch.stack([F.embedding(frames[:, o, k], table) for k, table in enumerate(tables)]))
        costs = []
        for k in range(len(self.sizes)):
            seen = self.context.before(k, inputs[1:]) + self.context.below(k, inputs[0])
            layer = self.hidden[k]
            sums = F.linear(torch.cat(seen, dim=1), _rounded(layer.weight, 2 * UNIT), layer.bias)
            kept = sums.clamp(0, 127 / UNIT)
            kept = kept + ((kept * UNIT).floor() / UNIT - kept).detach()
            layer = self.output[k]
            scores = F.linear(kept, _rounded(layer.weight, UNIT), layer.bias)
            costs.append(F.cross_entropy(scores, frames[:, 0, k]))
        return torch.stack(costs)

    @classmethod
    @torch.no_grad()
    def of(cls, prior: Prior) -> _Network:
        tables = [prior.tensors[f"embedding.{k}"] for k in range(len(prior.sizes))]
        network = cls(prior.sizes, tables[0].shape[1], len(prior.tensors["hidden.0.bias"]), prior.context)
        for name, value in prior.tensors.items():
            kind, k, *part = name.split(".")
            unit = _UNITS[(kind, *part)]
            own = network.embeddings[int(k)] if kind == "embedding" else getattr(getattr(network, kind)[int(k)], part[0])
            own.copy_(torch.from_numpy(value) / unit)
        return network

    @torch.no_grad()
    def begin(self, vectors: Sequence[Tensor]) -> None:
        """Embeddings begin as vectors (size, dim) of each codebook, in the directions in which these are largest."""
        vectors = [each.detach().float().cpu() for each in vectors[: len(self.sizes)]]
        rows = torch.cat(vectors)
        directions = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, : self.embeddings[0].shape[1]]
        scale = LOUDNESS / vectors[0].square().sum(1).mean().sqrt()
        for table, own in zip(self.embeddings, vectors):
            table.zero_()[:, : directions.shape[1]] = own @ directions * scale

    @torch.no_grad()
    def tensors(self) -> dict[str, np.ndarray]:
        out = {}
        for k, table in enumerate(self.embeddings):
            found = {("embedding",): table}
            for kind in ("hidden", "output"):
                layer = getattr(self, kind)[k]
                found |= {(kind, "weight"): layer.weight, (kind, "bias"): layer.bias}
            for (kind, *part), value in found.items():
                dtype = np.int32 if part == ["bias"] else np.int8
                out[".".join([kind, str(k), *part])] = _whole(value, _UNITS[(kind, *part)], dtype)
        return out


def _rounded(value: Tensor, unit: int) -> Tensor:
    """As it will be stored, with gradients as if it were not."""
    return value + ((value * unit).round().clamp(-127, 127) / unit - value).detach()


def _whole(value: Tensor, unit: int, dtype: type) -> np.ndarray:
    limit = 127 if dtype is np.int8 else (1 << 23) - 1
    return (value * unit).round().clamp(-limit, limit).cpu().numpy().astype(dtype)
