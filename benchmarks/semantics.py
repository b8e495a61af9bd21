"""Does distillation make tokens semantic? The same small codec, trained the same way but for its targets.

    codec features speech/ --teacher whisper-base/ --layer 6 --out features/
    codec transcribe speech/ --asr whisper-base-ct2/ --out transcripts.jsonl
    codec features speech/ --text-teacher MiniLM-L6/ --transcripts transcripts.jsonl --out features/
    python benchmarks/semantics.py --data speech/ --features features/ --speech whisper --text MiniLM --out ablation/

Cells: nothing distilled; SM, a speech model, on codebook 1; LM, a language model, on codebook 1; LM on 1 and SM on the mean of
all (DM-Codec's best); a causal student beside the encoder (X-Codec's fusion, without the teacher at inference); and, with
--transcripts, the letters of the text on codebook 1 by CTC (PAST's). Each with several seeds. A cell that is done is kept in OUT:
the same command goes on where it stopped, also inside a run.

--data is a folder or manifest with `train` for training and probes and `eval` for PESQ. docs/semantics.md has the table and what
it says.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import codec
from codec.atomic import Output
from codec.backbones.fused import FusedEncoder
from codec.evaluation.probe import probe
from codec.semantic.features import FeatureStore, content_key
from codec.training import recipe as recipes
from codec.training.data import decode, list_audio
from codec.training.run import train

RATE, EVAL_FILES = 16_000, 16
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided 95 %, by the number of seeds
CELLS = ("none", "SM on 1", "LM on 1", "LM on 1, SM on 1..8", "fusion", "CTC on 1")
ALL = list(range(1, 9))
ENCODER = {"name": "convnext_stft", "window": 640, "channels": 192, "hidden": 576, "blocks": 3, "kernel_size": 7}
DECODER = {
    "name": "convnext_stft", "window": 320, "channels": 192, "hidden": 576, "blocks": 3, "upsample": 4, "fine_channels": 96,
    "fine_hidden": 288, "fine_blocks": 2, "kernel_size": 7, "delay": 320,
}


def targets(cell: str, speech: str, text: str, transcripts: str = "", shift: int = 2) -> list[dict[str, Any]]:
    """Weights are as large beside the reconstruction as the papers' 120 (D axis); the student's and that of letters have no
    precedent."""
    if cell == "none":
        return []
    on_one = {"codebooks": [1], "loss": "d_axis", "weight": 20.0, "shift": shift}
    if cell == "SM on 1":
        return [{"teacher": speech, **on_one}]
    if cell == "LM on 1":
        return [{"teacher": text, **on_one}]
    if cell == "LM on 1, SM on 1..8":
        return [{"teacher": text, **on_one, "weight": 10.0}, {"teacher": speech, **on_one, "weight": 10.0, "codebooks": ALL, "combine": "mean"}]
    if cell == "CTC on 1":
        return [{"transcripts": transcripts, "codebooks": [1], "loss": "ctc", "weight": 2.0, "shift": shift, "head": "conv"}]
    return [
        {"teacher": speech, "source": "content", "loss": "cosine", "weight": 5.0, "shift": shift},
        {"teacher": speech, "codebooks": ALL, "loss": "cosine", "weight": 5.0, "shift": shift, "head": "conv"},
    ]


def recipe(cell: str, seed: int, args: argparse.Namespace, width: int) -> recipes.Recipe:
    """A twentieth of the work of speech_16k, without an adversary."""
    encoder = dict(ENCODER)
    if cell == "fusion":  # of about the same size: what the student has, the network beside it has not
        encoder |= {"name": "fused", "channels": 128, "hidden": 384, "sound_dim": 64, "content_dim": width,
                    "content_channels": 144, "content_hidden": 432, "content_blocks": 3}
    semantic = {"features": args.features, "targets": targets(cell, args.speech, args.text, args.transcripts, args.shift)}
    return recipes.from_dict({
        "model": {"name": "model", "dim": 64, "encoder": encoder, "decoder": DECODER,
                  "quantizer": {"name": "rvq", "num_codebooks": 8, "codebook_size": 1024, "decay": 0.99}},
        "data": {"train": args.data, "cache": args.cache, "batch_size": 8, "crop_seconds": 2.0, "workers": 0},
        "loss": {"spectral": [
            {"name": "mr_stft", "weight": 0.5, "options": {"w_sc": 0.5}}, {"name": "mel", "weight": 4.0},
            {"name": "compressed_stft", "weight": 3.0, "options": {"exponent": 2, "complex_share": 0.33, "n_ffts": [512, 1024]}},
            {"name": "waveform", "weight": 0.3},
        ]},
        "semantic": semantic,
        "schedule": {"steps": args.steps, "learning_rate": 2e-3, "warmup": 100, "quantize_from": 100, "decay": 0.5},
        "run": {"out": str(folder(args, cell, seed)), "seed": seed, "threads": args.threads, "accelerator": "cpu",
                "checkpoint_every": 100, "log_every": 50},
    })


def folder(args: argparse.Namespace, cell: str, seed: int) -> Path:
    return Path(args.out) / f"{''.join(c if c.isalnum() else '-' for c in cell)}-{seed}"


def measure(model_folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """PESQ-wb and STOI over the first eval files, with all codebooks and with one; probes of the first codebook."""
    from pesq import pesq
    from pystoi import stoi

    model = codec.load(model_folder)
    entries = list_audio(args.data, "eval")
    found: dict[str, list[float]] = {}
    for entry in entries[:: max(1, len(entries) // EVAL_FILES)][:EVAL_FILES]:
        wav = decode(entry.path, RATE).astype(np.float32) / 32767
        tokens = model.encode(torch.from_numpy(wav))
        for k in (1, model.num_codebooks):
            out = model.decode(tokens.truncate(k))[0, 0].numpy()
            found.setdefault(f"pesq {k}", []).append(pesq(RATE, wav, out, "wb"))
            found.setdefault(f"stoi {k}", []).append(float(stoi(wav, out, RATE)))
    values = {name: float(np.mean(scores)) for name, scores in found.items()}
    report = probe([str(model_folder)], args.data, tasks=("slots", "speaker"), codebooks="1", cache=str(model_folder / "codes"))
    for row in report.rows:
        if row.part in ("", "mean"):
            values[f"{row.task}, {row.head}"] = row.value
            values[f"chance of {row.task}, {row.head}"] = row.chance
    return values


def student_cosine(model_folder: Path, store: FeatureStore, args: argparse.Namespace) -> float | None:
    """Mean cosine over the eval files between the student's frames and those of the teacher that they are to follow, 1 when they
    are the same; None for a model without a student."""
    model = codec.load(model_folder)
    if not isinstance(model.encoder, FusedEncoder):
        return None
    found = []
    for entry in list_audio(args.data, "eval"):
        samples = decode(entry.path, RATE)
        key = content_key(samples)
        if key in store:
            wav = torch.from_numpy(samples.astype(np.float32) / 32767)[None, None]
            with torch.no_grad():
                content = model.encoder.with_content(torch.nn.functional.pad(wav, (0, -wav.shape[2] % model.frame_size)))[1][0].T
            teacher, valid = store.read(key, -args.shift, len(content))
            found.append(torch.nn.functional.cosine_similarity(content, teacher, dim=1)[valid])
    return float(torch.cat(found).mean()) if found else None


def run(cell: str, seed: int, args: argparse.Namespace, width: int) -> dict[str, float]:
    """The figures of one cell, from its file where it is done."""
    path = folder(args, cell, seed) / "result.json"
    if path.exists():
        return json.loads(path.read_text())["values"]
    torch.set_num_threads(args.threads)
    began = time.process_time()
    trained = train(recipe(cell, seed, args, width), progress=False)
    seconds = time.process_time() - began
    values = measure(trained / "model", args)
    output = Output(path)
    output.write(json.dumps({"cell": cell, "seed": seed, "steps": args.steps, "cpu_seconds": seconds, "values": values}).encode())
    output.commit()
    print(f"{cell}, seed {seed}: {seconds:.0f} s of processor time to train, " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()), flush=True)
    return values


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Means over the seeds, with the half width of their 95 % intervals."""
    names = [name for name in next(iter(results.values()))[0] if not name.startswith("chance")]
    lines = ["| cell | seeds | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for cell, runs in results.items():
        columns = []
        for name in names:
            values = np.array([one[name] for one in runs])
            half = T95[len(values)] * values.std(ddof=1) / math.sqrt(len(values)) if len(values) in T95 else math.nan
            columns.append(f"{values.mean():.3f} ± {half:.3f}")
        lines.append(f"| {cell} | {len(runs)} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder or manifest, with splits train and eval")
    parser.add_argument("--features", required=True, help="folder of feature stores")
    parser.add_argument("--speech", default="whisper", help="how the name of the speech teacher's store starts")
    parser.add_argument("--text", default="MiniLM", help="how the name of the text teacher's store starts")
    parser.add_argument("--out", required=True)
    parser.add_argument("--cache", default="", help="folder of the decoded corpus")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", default="", help=f"numbers of {', '.join(CELLS)}, from 0; all of them by default")
    parser.add_argument("--transcripts", default="", help="of the corpus, by codec transcribe, with times of words")
    parser.add_argument("--shift", type=int, default=2, help="frames of 20 ms by which targets lag")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    cells = [CELLS[int(n)] for n in args.cells.split(",")] if args.cells else list(CELLS if args.transcripts else CELLS[:-1])
    if CELLS[-1] in cells and not args.transcripts:
        parser.error(f"the cell {CELLS[-1]} needs --transcripts")
    store = FeatureStore.open(args.features, args.speech)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):  # all cells once, then again: a run that is cut short has whole comparisons
        for cell in cells:
            results.setdefault(cell, []).append(run(cell, seed, args, store.dim))
    print(table(results))
    for seed in range(args.seeds):
        if "fusion" in results and (cosine := student_cosine(folder(args, "fusion", seed) / "model" / "model", store, args)) is not None:
            print(f"fusion, seed {seed}: cosine of the student's frames and the teacher's {cosine:.3f}")


if __name__ == "__main__":
    main()
