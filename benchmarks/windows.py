"""What share of codes differs where a recording is coded in windows instead of whole.

    python benchmarks/windows.py MODEL FILE [FILE ...] [--seconds 60]

MODEL sees all of a signal at once (SpeechTokenizer, DM-Codec, WavTokenizer, X-Codec). The files are joined to one recording of
so many seconds. Prints a line per codebook, and how much the decoded audio differs, in dB below the signal.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager

import torch
from torch import Tensor

WHOLE = 1 << 40  # frames: more than any recording has


@contextmanager
def whole(network):
    """Let a network see all of a signal."""
    window, network.window = network.window, None if network.window is None else (WHOLE, 0)
    try:
        yield
    finally:
        network.window = window


@torch.no_grad()
def share_of_other_codes(model, wav: Tensor) -> list[float]:
    """wav (B, 1, T) at the model's rate to the share of frames whose code differs, for each codebook."""
    codes = model.encode_frames(wav, model.num_codebooks)
    with whole(model.encoder):
        expected = model.encode_frames(wav, model.num_codebooks)
    return (codes != expected).float().mean((0, 2)).tolist()


@torch.no_grad()
def decoded_difference(model, codes: Tensor) -> float:
    """codes (B, K, T) to the level in dB of what windows change in the decoded audio, relative to the audio."""
    wav = model.decode_frames(codes)
    with whole(model.decoder):
        expected = model.decode_frames(codes)
    return (10 * torch.log10((wav - expected).square().mean() / expected.square().mean())).item()


def main(argv: list[str] | None = None) -> None:
    import codec
    from codec.training.data import decode

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args(argv)
    model = codec.load(args.model)
    if not (model.encoder.window or model.decoder.window):
        sys.exit(f"{args.model} needs no windows: its codes are those of the whole recording")
    wav = torch.cat([torch.from_numpy(decode(path, model.sample_rate)) for path in args.files]) / 32768
    wav = wav[: round(args.seconds * model.sample_rate)][None, None]
    if model.encoder.window:
        for index, share in enumerate(share_of_other_codes(model, wav)):
            print(f"codebook {index}: {100 * share:.2f} % of the codes differ")
    if model.decoder.window:
        print(f"decoded: {decoded_difference(model, model.encode_frames(wav, model.num_codebooks)):.1f} dB")


if __name__ == "__main__":
    main()
