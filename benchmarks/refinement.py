"""What patience in encoding buys: plain codes, a variable bitrate, and more and more steps of refinement at it.

    python benchmarks/refinement.py speech-16k a.flac b.flac c.flac --bitrate 1.5        needs: pip install pesq pystoi

Every recording is coded in all ways in turn, in one process and one thread. Prints the bitrate that was taken, PESQ-wb and STOI, means over
the recordings, how many times as fast as real time that was, and how many times as long as plain encoding.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import codec
from codec.entropy import prior_of
from codec.evaluation.metrics import judges
from codec.evaluation.metrics.base import Coded, Options
from codec.evaluation.sound import Sound, load
from codec.evaluation.systems.ours import payload_bits

STEPS = 0, 1, 4, 10, 30


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--bitrate", type=float, default=1.5, help="kbit/s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each recording")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, prior = codec.load(options.model), prior_of(options.model, variable=True)
    rate, bitrate, listeners = model.sample_rate, 1000 * options.bitrate, judges(["pesq-wb", "stoi"], Options())
    ways = {"plain": {"num_codebooks": model.codebooks_for(bitrate=bitrate)}}
    ways |= {f"--refine {n} --variable" if n else "--variable": {"bitrate": bitrate, "refine": n, "variable": prior} for n in options.steps}
    for how in ways.values():
        model.encode(0.1 * np.random.default_rng(0).standard_normal(rate), normalize=True, **how)  # warm
    figures = {way: [] for way in ways}
    for original in [load(path, rate, options.seconds) for path in options.recordings]:
        for way, how in ways.items():
            start = time.perf_counter()
            tokens = model.encode(original.wav, normalize=True, **how)
            elapsed = time.perf_counter() - start
            bits = payload_bits(tokens, prior) if "variable" in how else model.bitrate(tokens.num_codebooks) * original.seconds
            coded = Coded(Sound(model.decode(tokens)[0, 0].numpy(), rate), bits, elapsed, 0)
            heard = [value for judge in listeners for value in judge(original, coded).values()]
            figures[way].append([bits, original.seconds, elapsed, *heard])
    plain = np.sum(figures["plain"], axis=0)[2]
    print("| | kbit/s | PESQ-wb | STOI | x real time | x plain |\n|---|---|---|---|---|---|")
    for way, rows in figures.items():
        (bits, seconds, elapsed), (pesq, stoi) = np.sum(rows, axis=0)[:3], np.mean(rows, axis=0)[3:]
        print(f"| {way} | {bits / seconds / 1000:.2f} | {pesq:.2f} | {stoi:.3f} | {seconds / elapsed:.3g} | {elapsed / plain:.3g} |")


if __name__ == "__main__":
    main()
