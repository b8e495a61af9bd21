"""Spectrograms of recordings and of what a codec makes of them with a quarter, half and all of its codebooks, one picture.

    python benchmarks/spectrograms.py speech-16k out.png a.flac b.flac c.flac d.flac        needs: pip install matplotlib
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile
import soxr
import torch
from torch import Tensor

import codec

SECONDS = 4.0
WINDOW, HOP = 512, 128
RANGE_DB = 80.0  # shown below a recording's loudest point


def decibels(wav: Tensor) -> Tensor:
    """(T,) -> (bins, frames)."""
    spectrum = torch.stft(wav, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    return 20 * torch.log10(spectrum.abs().clamp(min=1e-7))


def row(model: codec.Codec, path: str, counts: list[int]) -> list[Tensor]:
    """The spectrogram of a recording, and of it decoded with each number of codebooks."""
    wav, rate = soundfile.read(path, dtype="float32", always_2d=True, frames=-1)
    wav = soxr.resample(wav[: int(SECONDS * rate)].mean(1), rate, model.sample_rate)
    decoded = (model.decode(model.encode(wav, num_codebooks=k, normalize=True))[0, 0] for k in counts)
    return [decibels(torch.from_numpy(wav)), *map(decibels, decoded)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("picture")
    parser.add_argument("recordings", nargs="+")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model = codec.load(options.model)
    counts = [max(1, model.num_codebooks // part) for part in (4, 2, 1)]
    titles = ["recording", *(f"{model.bitrate(k) / 1000:g} kbit/s" for k in counts)]
    size = (3 * len(titles), 1.8 * len(options.recordings))
    figure, axes = plt.subplots(
        len(options.recordings), len(titles), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for number, (line, path) in enumerate(zip(axes, options.recordings)):
        pictures = row(model, path, counts)
        top = float(pictures[0].max())
        for axis, picture, title in zip(line, pictures, titles):
            extent = (0, picture.shape[1] * HOP / model.sample_rate, 0, model.sample_rate / 2000)
            axis.imshow(picture, origin="lower", aspect="auto", extent=extent, vmin=top - RANGE_DB, vmax=top, cmap="magma")
            axis.set_title(title if number == 0 else "", fontsize=10)
        line[0].set_ylabel(Path(path).stem + "\nkHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    figure.savefig(options.picture, dpi=80)


if __name__ == "__main__":
    main()
