"""Rate-quality curves as a picture, from the report of `codec sweep`.

    python benchmarks/plot.py report/report.json quality.png        needs: pip install matplotlib
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def curves(cells: list[dict], metric: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """(kbit/s, mean, low, high) by system."""
    lines: dict[str, list] = {}
    for cell in cells:
        if metric in cell["metrics"]:
            one = cell["metrics"][metric]
            lines.setdefault(cell["model"], []).append((cell["bitrate"] / 1000, one["mean"], one["low"], one["high"]))
    return {codec: sorted(points) for codec, points in lines.items()}


def main(results: Path, target: Path, metrics: tuple[str, ...] = ("pesq-wb", "stoi")) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    report = json.loads(results.read_text())
    figure, axes = plt.subplots(1, len(metrics), figsize=(10, 4), constrained_layout=True)
    for axis, metric in zip(axes, metrics):
        for codec, points in curves(report["cells"], metric).items():
            rate, mean, low, high = zip(*points)
            (line,) = axis.plot(rate, mean, marker="o", label=codec)
            axis.fill_between(rate, low, high, alpha=0.15, color=line.get_color())
        axis.set(xlabel="kbit/s", ylabel=report["metrics"][metric]["title"], xscale="log", xticks=(0.5, 1, 2, 4, 8, 12))
        axis.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
