"""Multi-codebook VQ fitted to features: error on frames it has not seen, speed, and distance from Shannon's bound.

    python benchmarks/mvq.py [FEATURES.npy | FOLDER] [--bytes 8] [--frames 30000] [--threads 1]

FEATURES.npy is (N, D). Of a FOLDER's sound files the log-mel spectrum is taken, 64 bands every 10 ms, 8 of them in a row
as one frame of 512 every 20 ms. Without either, 512-wide Gaussian features are made whose variance falls along their axes.
The last tenth of the frames is held out. Times are of the processor, and of the clock in brackets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from quantizers.joint_search import BEAM
from quantizers.mvq import MultiCodebookVQ
from quantizers.mvq_fit import fit_mvq

SOUNDS = (".flac", ".wav", ".ogg", ".opus", ".mp3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="?", type=Path, metavar="FEATURES.npy | FOLDER")
    parser.add_argument("--bytes", type=int, default=8, help="bytes a frame")
    parser.add_argument("--frames", type=int, default=30_000, help="frames to fit")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    count = args.frames * 10 // 9
    features = made(count) if args.features is None else read(args.features, count)
    cut = features.shape[0] * 9 // 10
    print("\n".join(fitted_table(features[:cut], features[cut:], args.bytes)))
    print()
    print("\n".join(gaussian_table()))


def fitted_table(known: Tensor, unknown: Tensor, bytes_per_frame: int) -> list[str]:
    sizes = f"{len(known):,} frames of {known.shape[1]} fitted at {bytes_per_frame} bytes, {len(unknown):,} held out"
    lines = [sizes, ""]
    residual, cpu, wall = timed(fit_mvq, known, bytes_per_frame, iterations=0)
    lines.append(f"fit, residual k-means        {cpu:.1f} s ({wall:.1f})")
    fitted, cpu, wall = timed(fit_mvq, known, bytes_per_frame)
    lines += [f"fit, joint                   {cpu:.1f} s ({wall:.1f})", ""]
    predicted = fit_mvq(known, bytes_per_frame, start="predicted")
    residual.rounds, residual.beam = 0, 1
    lines.append("relative error  survive  re-encoded  used   30,000 frames in")
    lines.append(row("residual k-means, greedy", residual, unknown))
    for name, quantizer in (("predicted", predicted), ("beam 1", fitted), (f"beam {BEAM}", fitted)):
        quantizer.beam = 1 if name == "beam 1" else BEAM
        for quantizer.rounds in (0, 1, 3, 5):
            lines.append(row(f"{name}, {quantizer.rounds} rounds", quantizer, unknown))
    return lines


def row(name: str, quantizer: MultiCodebookVQ, rows: Tensor) -> str:
    """Relative error; the share of codes that survive decoding and encoding again, and by what factor the error then
    rises; the share of codes in use; time."""
    quantizer.encode_bytes(rows[:8])  # prepares the search
    codes, cpu, wall = timed(quantizer.encode_bytes, rows)
    cpu, wall = (seconds * 30_000 / len(rows) for seconds in (cpu, wall))
    decoded = quantizer.decode_bytes(codes)
    again = quantizer.encode_bytes(decoded)
    error, later = (float((quantizer.decode_bytes(c) - rows).square().sum()) for c in (codes, again))
    power = float((rows - rows.mean(0)).square().sum())
    used = np.mean([column.unique().numel() / quantizer.codebook_size for column in codes.T])
    survive = (again == codes).float().mean()
    idempotence = f"{survive:6.1%}     x {later / error:.3f}"
    return f"{name:24} {error / power:.4f}   {idempotence}  {used:6.1%}  {cpu:5.1f} s ({wall:.1f})"


def gaussian_table() -> list[str]:
    """Held-out error of white Gaussian frames against the least that any code of that rate has, D = 2^(-2R)."""
    lines = ["white Gaussian   bit/dim   bound     MVQ   above the bound"]
    generator = torch.Generator().manual_seed(0)
    for dim, size in ((8, 1), (8, 2), (16, 2), (32, 4)):
        rows = torch.randn(24_000, dim, generator=generator)
        quantizer, unknown = fit_mvq(rows[:20_000], size), rows[20_000:]
        decoded = quantizer.decode_bytes(quantizer.encode_bytes(unknown))
        error = float((decoded - unknown).square().mean() / unknown.square().mean())
        bits = 8 * size / dim
        bound = 2 ** (-2 * bits)
        gap = 10 * np.log10(error / bound)
        lines.append(f"{dim:3} dim, {size} x 256    {bits:5.2f}    {bound:.4f}  {error:.4f}   {gap:.2f} dB")
    return lines


def timed(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float, float]:
    """The result, and the seconds of the processor and of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(*args, **options)
    return result, time.process_time() - cpu, time.perf_counter() - wall


def made(count: int, dim: int = 512) -> Tensor:
    """(count, dim): Gaussian, the variance of axis n falling as 1 / n, turned at random."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    return (torch.randn(count, dim, generator=generator) / torch.arange(1, dim + 1).sqrt()) @ axes.T


def read(path: Path, count: int) -> Tensor:
    """(at most count, D)."""
    if path.suffix == ".npy":
        features = torch.from_numpy(np.load(path)).float()
        if features.dim() != 2:
            raise SystemExit(f"{path} holds {tuple(features.shape)}: it must be (N, D)")
        return features[:count]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SOUNDS)
    if not files:
        raise SystemExit(f"no sound files in {path}")
    frames, total = [], 0
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        found = log_mel(torch.from_numpy(samples.mean(1)), rate).unfold(0, 8, 2).mT.flatten(1)  # (N, 512)
        frames.append(found)
        total += len(found)
        if total >= count:
            break
    return torch.cat(frames)[:count]


def log_mel(wav: Tensor, rate: int) -> Tensor:
    """wav (T,) to (frames of 10 ms, at least 8, 64)."""
    window = round(rate * 0.025)
    wav = torch.nn.functional.pad(wav, (0, max(0, rate // 10 - wav.shape[0])))
    spectrum = torch.stft(wav, window, rate // 100, window=torch.hann_window(window), return_complex=True)
    return (mel_bands(rate, window, 64) @ spectrum.abs().square() + 1e-6).log().T


def mel_bands(rate: int, window: int, bands: int) -> Tensor:
    """Triangles (bands, window // 2 + 1), evenly spaced in mel up to 8 kHz."""
    top = 2595 * np.log10(1 + min(8000, rate / 2) / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = np.fft.rfftfreq(window, 1 / rate)
    slopes = np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle))
    return torch.from_numpy(np.clip(slopes, 0, None)).float()


if __name__ == "__main__":
    main()
