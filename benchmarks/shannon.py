"""How far each quantizer is from the Shannon bound, and what its codes are like: python benchmarks/shannon.py

Every family is trained alone, the way a codec trains it: codebooks start from data, then `forward` for some steps, with
Adam on (quantized - latents)^2 and the family's own losses where it has parameters. Measured on held-out data:

    rate      bits per dimension
    error     mean squared error over the variance
    bound     the least error that any code of this rate can have (white: 2^(-2R); correlated and uneven: reverse
              water-filling; Laplacian: Shannon's lower bound, e / pi 2^(-2R), as e / pi is its entropy power)
    gap       error over bound, in dB
    kept      share of codes that survive codes -> decode -> encode
    rise      of the error when they do not, over the variance
    used      share of the codes of all codebooks that occur
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

import quantizers

DIM, BATCH, HELD_OUT = 16, 2000, 20_000
KINDS = ("white", "correlated", "uneven", "laplacian")
CASES = (
    ("rvq", 2, 256, {}),
    ("rvq", 2, 256, {"gradient": "rotation"}),
    ("grouped_rvq", 2, 256, {"groups": 2}),
    ("factorized_rvq", 2, 256, {}),
    ("split_rvq", 2, 256, {}),
    ("multiscale_rvq", 3, 256, {"strides": (2, 1, 1)}),
    ("single", 1, 4096, {}),
    ("product", 2, 256, {}),
    ("fsq", 2, 6561, {}),
    ("residual_fsq", 4, 6561, {}),
    ("lfq", 2, 256, {}),
    ("bsq", 2, 256, {}),
    ("simvq", 2, 256, {}),
    ("kmeans", 2, 256, {}),
    ("mvq", 2, 256, {}),
    ("mvq", 8, 256, {"stages": (3, 3, 2)}),
    ("rvq", 8, 256, {}),
)


def covariance(kind: str) -> Tensor:
    """(DIM, DIM) of unit variance: a first-order autoregressive process of correlation 0.9, variances from 1 to 0.001 of the
    widest along axes turned at random, or white."""
    steps = torch.arange(DIM, dtype=torch.float64)
    if kind == "correlated":
        return 0.9 ** (steps[:, None] - steps).abs()
    if kind == "uneven":
        generator, variances = torch.Generator().manual_seed(0), torch.logspace(0, -3, DIM, dtype=torch.float64)
        axes = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64, generator=generator)).Q
        return axes @ (variances / variances.mean()).diag() @ axes.T
    return torch.eye(DIM, dtype=torch.float64)


def bound(matrix: Tensor, bits: float) -> float:
    """Least mean squared error per dimension of `bits` per vector: reverse water-filling over the eigenvalues (Cover and
    Thomas, section 10.3.3)."""
    values = torch.linalg.eigvalsh(matrix)
    low, high = 0.0, float(values.max())
    for _ in range(200):
        level = (low + high) / 2
        rate = 0.5 * torch.log2((values / level).clamp_min(1)).sum()
        low, high = (level, high) if rate > bits else (low, level)
    return float(values.clamp_max(level).mean())


def draw(factor: Tensor, frames: int, generator: torch.Generator, kind: str = "") -> Tensor:
    """(1, DIM, frames) of the Gaussian with covariance factor factor^T; of independent Laplacian numbers for that kind."""
    if kind == "laplacian":
        two = torch.empty(2, frames, DIM).exponential_(generator=generator)
        return ((two[0] - two[1]) / math.sqrt(2)).T[None]
    return (torch.randn(frames, DIM, generator=generator) @ factor.T).T[None]


def train(quantizer: quantizers.Quantizer, source: Callable[[int], Tensor], steps: int) -> None:
    """source: a number of frames to so many latents (1, dim, frames), others at every call."""
    quantizer.train()
    quantizer.prepare_training(BATCH)
    quantizer.initialize(source(20_000))
    parameters = [p for p in quantizer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3) if parameters else None
    for step in range(steps):
        latents = source(BATCH)
        output = quantizer(latents)
        if optimizer:
            optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = (output.quantized - latents).square().mean() + sum(output.losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    quantizer.eval()


@torch.no_grad()
def measure(quantizer: quantizers.Quantizer, least: float, latents: Tensor) -> dict[str, float]:
    started = time.process_time()
    codes = quantizer.encode(latents)
    seconds = time.process_time() - started
    decoded = quantizer.decode(codes)
    again = quantizer.encode(decoded)
    error = float((decoded - latents).square().mean())
    recoded = float((quantizer.decode(again) - latents).square().mean())
    used = [len(codes[:, k].unique()) / size for k, size in enumerate(quantizer.codebook_sizes)]
    return {
        "rate": quantizer.bits_per_frame() / DIM, "error": error, "bound": least, "gap": 10 * math.log10(error / least),
        "kept": float((codes == again).float().mean()), "rise": recoded - error, "used": sum(used) / len(used),
        "us_per_frame": 1e6 * seconds / latents.shape[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", default="", help="one family")
    parser.add_argument("--data", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--out", default="", help="write the rows as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in args.data:
        matrix = covariance(kind)
        factor = torch.linalg.cholesky(matrix).float()
        data = kind if kind == "laplacian" else f"{kind} Gaussian"
        print(f"\n{data} data of {DIM} dimensions, {args.steps} steps of {BATCH} frames, one thread")
        print("| quantizer | codebooks | bit/dim | error | bound | gap dB | kept | rise when coded again | used | "
              "us/frame |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, books, size, options in CASES:
            if args.only not in ("", name):
                continue
            torch.manual_seed(0)
            generator = torch.Generator().manual_seed(1)
            quantizer = quantizers.build(name, DIM, books, size, **options)
            train(quantizer, lambda frames: draw(factor, frames, generator, kind), args.steps)
            least = bound(matrix, quantizer.bits_per_frame()) * (math.e / math.pi if kind == "laplacian" else 1)
            row = measure(quantizer, least, draw(factor, HELD_OUT, generator, kind))
            if row["gap"] <= 0:
                raise SystemExit(f"{name} beats the bound: {row}")
            rows.append({"data": kind, "quantizer": name, "codebooks": books, "size": size, "options": options} | row)
            words = ", ".join(f"{key}={value}" for key, value in options.items())
            print(
                f"| {name}{f' ({words})' if words else ''} | {books} x {size} | {row['rate']:.3f} | "
                f"{row['error']:.4f} | "
                f"{row['bound']:.4f} | {row['gap']:.2f} | {100 * row['kept']:.1f} % | {100 * row['rise']:.2f} % | "
                f"{100 * row['used']:.0f} % | {row['us_per_frame']:.1f} |", flush=True,
            )
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
