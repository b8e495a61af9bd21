"""What becomes of residual codes and MVQ's that are decoded and coded again: python benchmarks/recoding.py [FOLDER]

Each family is trained alone, as benchmarks/shannon.py does, on white and on correlated Gaussian data and, with a FOLDER
of speech, on what the encoder of `speech-16k` makes of its recordings, of which the last fifth is held out. For the
default search and for every beam of --beams:

    error   mean squared error over the variance
    kept    share of codes that survive codes -> decode -> encode
    rise    of the error by that, over the error
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from shannon import BATCH, covariance, draw, train
from torch import Tensor

import quantizers

HELD_OUT, RUN, RECORDINGS = 4000, 200, 150  # frames; frames in a row of which batches of latents are made
CASES = (
    ("rvq", 2, 256, {}),
    ("rvq", 8, 256, {}),
    ("grouped_rvq", 4, 256, {"groups": 2}),
    ("grouped_rvq", 8, 256, {"groups": 2}),
    ("factorized_rvq", 2, 256, {}),
    ("factorized_rvq", 8, 256, {}),
    ("split_rvq", 2, 256, {"codebook_dim": 16}),
    ("split_rvq", 8, 256, {"codebook_dim": 16}),
    ("split_rvq", 8, 256, {"codebook_dim": 16, "parallel": True}),
    ("multiscale_rvq", 2, 256, {"strides": (2, 1)}),
    ("multiscale_rvq", 8, 256, {"strides": (4, 4, 2, 2, 1, 1, 1, 1)}),
    ("simvq", 2, 256, {}),
    ("simvq", 8, 256, {}),
    ("residual_fsq", 2, 6561, {}),
    ("residual_fsq", 8, 6561, {}),
    ("mvq", 2, 256, {}),
    ("mvq", 2, 256, {"stages": (1, 1)}),
    ("mvq", 8, 256, {"stages": (3, 3, 2)}),
    ("mvq", 8, 256, {"settle": False}),
    ("mvq", 8, 256, {}),
)


def gaussian(kind: str) -> tuple[Callable[[int], Tensor], Tensor]:
    """To train on: frames to latents (1, DIM, frames); held out: (1, DIM, HELD_OUT)."""
    factor, generator = torch.linalg.cholesky(covariance(kind)).float(), torch.Generator().manual_seed(1)
    held_out = draw(factor, HELD_OUT, generator)
    return (lambda frames: draw(factor, frames, generator)), held_out


@torch.no_grad()
def speech(
    folder: str, recordings: int = RECORDINGS, held_out: int = HELD_OUT, share: int = 5
) -> tuple[Callable[[int], Tensor], Tensor]:
    """The same of speech-16k's latents of recordings, one in `share` of which is held out."""
    import codec
    from codec.coding import run_over
    from codec.training.listing import decode, list_audio

    model, parts, entries = codec.load("speech-16k"), [], list_audio(folder)
    for entry in entries[:: max(1, len(entries) // recordings)]:
        wav = torch.from_numpy(decode(entry.path, model.sample_rate).astype("float32") / 32767)
        whole = len(wav) // model.frame_size * model.frame_size
        parts.append(torch.cat(list(run_over(model.encoder, model.frame_size, 1).finish(wav[None, None, :whole])), 2))
    last = max(1, len(parts) // share)
    training, unseen = torch.cat(parts[:-last], 2), torch.cat(parts[-last:], 2)[..., :held_out]
    generator = torch.Generator().manual_seed(1)

    def pick(frames: int) -> Tensor:
        starts = torch.randint(training.shape[2] - RUN, (-(-frames // RUN),), generator=generator)
        return torch.cat([training[..., start : start + RUN] for start in starts.tolist()], 2)[..., :frames]

    return pick, unseen


@torch.no_grad()
def measure(quantizer: quantizers.Quantizer, latents: Tensor, beam: int | None) -> tuple[float, float, float, float]:
    """error, kept, rise, and microseconds a frame."""
    started = time.process_time()
    codes = quantizer.encode(latents, beam=beam)
    spent = time.process_time() - started
    decoded = quantizer.decode(codes)
    again = quantizer.encode(decoded, beam=beam)
    error, recoded = (
        float((of - latents).square().mean() / latents.var()) for of in (decoded, quantizer.decode(again))
    )
    kept = float((codes == again).float().mean())
    return error, kept, recoded / error - 1, 1e6 * spent / latents.shape[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="of speech")
    parser.add_argument("--beams", type=int, nargs="*", default=(4, 16))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", default="", help="one family")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("white", "correlated", "speech-16k's latents"):
        if kind not in ("white", "correlated") and not args.folder:
            continue
        source, held_out = speech(args.folder) if kind.startswith("speech") else gaussian(kind)
        print(f"\n{kind}, {held_out.shape[1]} dimensions, {args.steps} steps of {BATCH} frames; "
              f"default search / beam of {' / '.join(map(str, args.beams))}")
        print("| quantizer | codebooks | error | kept | rise | us/frame |\n|---|---|---|---|---|---|")
        for name, books, size, options in CASES:
            if args.only not in ("", name):
                continue
            torch.manual_seed(0)
            quantizer = quantizers.build(name, held_out.shape[1], books, size, **options)
            train(quantizer, source, args.steps)
            has_beam = quantizer.beam is not None and quantizer.counts != (books,)
            beams = (None, *args.beams) if has_beam else (None,)
            rows = [measure(quantizer, held_out, beam) for beam in beams]
            words = ", ".join(f"{key}={value}" for key, value in options.items())
            cells = zip(*((f"{e:.4f}", f"{100 * k:.2f}", f"{100 * r:.2f}", f"{us:.0f}") for e, k, r, us in rows))
            title = f"{name}{f' ({words})' if words else ''}"
            print(f"| {title} | {books} x {size} | {' | '.join(map(' / '.join, cells))} |", flush=True)


if __name__ == "__main__":
    main()
