"""What entropy coding saves on a folder of recordings: python benchmarks/entropy.py MODEL FOLDER [--fit TRAIN_FOLDER --out DIR] [--variable]

With --fit, a prior is fitted to the recordings of another folder first, and written to DIR (the model's own folder, to be found
there). FOLDER should hold nothing that the model or its prior was trained on. Prints, for several numbers of codebooks, the bytes of
all payloads and of all .tok files, bit-packed and entropy-coded, and the processor's time per second of audio.

With --variable the prior is the one for a variable bitrate, and what is printed is what recordings take that are encoded at 1.5 and 3 kbit/s
in 4 steps of refinement.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import codec
from codec.audio import AudioReader, resample
from codec.cli.encode import AUDIO
from codec.container import BLOCK, CRC, SYNC, TokReader, TokWriter
from codec.entropy import Prior, prior_of
from codec.entropy.fitting import fit_prior
from codec.entropy.residual_fitting import fit_residual
from codec.entropy.variable_fitting import fit_variable, smallest_vectors
from codec.model import Codec
from quantizers.rvq import ResidualVQ


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder")
    parser.add_argument("folder", help="recordings to measure on")
    parser.add_argument("--fit", metavar="FOLDER", help="recordings to fit a prior to")
    parser.add_argument("--out", metavar="DIR", help="where the fitted prior goes")
    parser.add_argument("--epochs", type=int, default=3, help="without --variable")
    parser.add_argument("--variable", action="store_true", help="the prior for a variable bitrate")
    args = parser.parse_args(argv)
    if (args.fit is None) != (args.out is None):
        parser.error("--fit and --out belong together")
    if args.out is not None:
        Path(args.out).mkdir(parents=True, exist_ok=True)  # now, not when the prior is fitted
    torch.set_num_threads(1)
    model = codec.load(args.model)
    if args.variable:
        if args.fit is not None:
            fit_variable(model, list(channels_of(model, args.fit)), progress=print).save(args.out, variable=True)
        measure_variable(model, list(channels_of(model, args.folder)), prior_of(args.out or args.model, variable=True))
        return
    if args.fit is not None:
        fit(model, [encode(model, wav) for wav in channels_of(model, args.fit)], args.epochs).save(args.out)
    measure(model, [encode(model, wav) for wav in channels_of(model, args.folder)], prior_of(args.out or args.model))


def channels_of(model: Codec, folder: str) -> Iterator[torch.Tensor]:
    """Each channel (T,) of each recording, at the model's rate."""
    for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO):
        with AudioReader(path) as reader:
            wav = np.concatenate(list(reader.blocks()), axis=1)  # (channels, T)
            yield from torch.from_numpy(resample(wav, reader.sample_rate, model.sample_rate))


def encode(model: Codec, wav: torch.Tensor) -> np.ndarray:
    return model.encode(wav, normalize=True).codes[0].numpy()


def fit(model: Codec, codes: list[np.ndarray], epochs: int) -> Prior:
    if isinstance(model.quantizer, ResidualVQ):
        return fit_residual(model, codes, epochs, progress=tell)
    return fit_prior(codes, model.spec, epochs=epochs, progress=tell)


def tell(step: int, steps: int, bits: float) -> None:
    if step % 100 == 0:
        print(f"step {step} of {steps}: {bits:.3f} bits a code", flush=True)


def measure(model: Codec, recordings: list[np.ndarray], prior: Prior) -> None:
    seconds = sum(codes.shape[1] for codes in recordings) / model.frame_rate
    print(f"{len(recordings)} recordings, {seconds:.0f} s\n")
    print("| codebooks | payloads, kbit/s | | saved | files, kbit/s | | saved | encode, ms per s | decode, ms per s |")
    print("|---" * 9 + "|")
    for count in sorted({1, 2, 4, model.num_codebooks} & set(model.quantizer.counts)):
        files, times = {None: [], prior: []}, []
        for which, written in files.items():
            start = time.process_time()
            written += [write(model, codes[None, :count], which) for codes in recordings]
            times.append(time.process_time() - start)
        start = time.process_time()
        for data, codes in zip(files[prior], recordings):
            parts = [part for _, part in TokReader(io.BytesIO(data), prior=prior).blocks()]
            if not np.array_equal(np.concatenate(parts, axis=2)[0], codes[:count]):
                raise RuntimeError("codes came back as others")
        decoding = time.process_time() - start
        rows = []
        for count_bytes in (payload_bytes, len):
            packed, coded = (sum(map(count_bytes, written)) for written in files.values())
            rows += [f"{packed * 8 / seconds / 1000:.3f}", f"{coded * 8 / seconds / 1000:.3f}", f"{1 - coded / packed:.1%}"]
        print(f"| {count} | {' | '.join(rows)} | {1000 * (times[1] - times[0]) / seconds:.1f} | {1000 * decoding / seconds:.1f} |",
              flush=True)


def measure_variable(model: Codec, recordings: list[torch.Tensor], prior: Prior) -> None:
    seconds = sum(len(wav) for wav in recordings) / model.sample_rate
    print(f"{len(recordings)} recordings, {seconds:.0f} s\n\n| asked for, kbit/s | taken | codes of no weight, by codebook |\n|---|---|---|")
    smallest = smallest_vectors(model)
    for bitrate in (1500, 3000):
        codes = [model.encode(wav, bitrate=bitrate, refine=4, variable=prior, normalize=True).codes for wav in recordings]
        taken = sum(payload_bytes(write(model, each.numpy(), prior)) for each in codes) * 8 / seconds / 1000
        rest = (torch.cat(codes, 2)[0] == smallest).float().mean(1)
        print(f"| {bitrate / 1000:g} | {taken:.3f} | {' '.join(f'{share:.2f}' for share in rest)} |", flush=True)


def write(model: Codec, codes: np.ndarray, prior: Prior | None) -> bytes:
    """The bytes of a .tok file of codes (1, K, T)."""
    file = io.BytesIO()
    with TokWriter(file, model.spec, codes.shape[1], model.sample_rate, prior=prior) as writer:
        writer.write(codes)
        writer.finish(codes.shape[2] * model.frame_size)
    return file.getvalue()


def payload_bytes(data: bytes) -> int:
    """Of all blocks of a .tok file."""
    total, at = 0, data.index(SYNC)
    while data[at : at + len(SYNC)] == SYNC:
        size = BLOCK.unpack_from(data, at)[-1]
        total += size
        at += BLOCK.size + size + CRC.size
    return total


if __name__ == "__main__":
    main()
