"""Train a small language model on tokens of recordings, tell how well it predicts others, and let it continue them.

    python examples/lm/train.py --train recordings/ --heldout others/ --codec speech-16k --out runs/lm

The same command again goes on where it stopped. Under --out: tokens-*.safetensors, lm.pt, scores.json and continued-*.wav, whose
first 3 s are the prompt as the codec decodes it. Needs pip install "neural-codec-toolkit[lm]"; docs/lm.md has what came of it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import soundfile
import torch

import codec
from codec.lm import patterns

from data import crops, stream, tokens
from network import TokenLM
from score import score

EVERY = 50  # steps between checkpoints


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="folder of recordings to learn from")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of recordings to predict and to continue")
    parser.add_argument("--codec", default="speech-16k", help="a model in the box, or a folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=2, help="crops a step")
    parser.add_argument("--length", type=int, default=512, help="of crops, and of what is predicted of a recording, in frames")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of the trunk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--continue", type=int, default=3, dest="continued", help="recordings to continue")
    parser.add_argument("--seconds", type=float, default=6.0, help="that are written, behind 3 s of prompt")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    model = codec.load(args.codec)
    if len(set(model.codebook_sizes)) > 1 or model.spec.frame_multiple > 1:
        raise SystemExit("this example takes codebooks of one size and one code a frame each: choose another --codec")
    pattern = patterns.build("delay", num_codebooks=model.num_codebooks, codebook_sizes=model.codebook_sizes)
    learned, heldout = (
        tokens(folder, model, args.out / f"tokens-{part}-{model.spec.fingerprint}.safetensors")
        for part, folder in (("train", args.train), ("heldout", args.heldout))
    )
    torch.manual_seed(args.seed)
    lm = TokenLM(model.num_codebooks, model.codebook_sizes[0], args.layers, args.width)
    train(lm, stream(learned, pattern, args.seed), args)
    lm.eval()
    beginnings = {name: codes[:, : args.length] for name, codes in heldout.items()}
    scores = score(lm, learned, beginnings, pattern, model.frame_rate)
    facts = {"codec": args.codec, "seed": args.seed, "steps": args.steps}
    (args.out / "scores.json").write_text(json.dumps(facts | scores, indent=1) + "\n")
    print(json.dumps({key: value for key, value in scores.items() if key != "recordings"}, indent=1))
    seconds = round(3 * model.frame_rate)
    for number in range(min(args.continued, len(heldout))):
        codes = list(heldout.values())[number * len(heldout) // args.continued]
        torch.manual_seed(args.seed)
        written = lm.continued(codes[:, :seconds], round(args.seconds * model.frame_rate), pattern, temperature=0.9, top=100)
        audio = model.decode_frames(written[None])[0, 0]
        soundfile.write(args.out / f"continued-{number}.wav", audio.numpy(), model.output_sample_rate)


def train(lm: TokenLM, long: torch.Tensor, args: argparse.Namespace) -> None:
    """From the last checkpoint, if there is one, to `args.steps`."""
    optimizer = torch.optim.AdamW(lm.groups(args.rate), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.1)
    path, first, spent = args.out / "lm.pt", 0, 0.0
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("out", "continued", "seconds")}
    if path.is_file():
        state = torch.load(path, weights_only=True)
        if state["settings"] != settings:
            changed = ", ".join(key for key in settings if state["settings"].get(key) != settings[key])
            raise SystemExit(f"{path} was trained with other settings ({changed}): choose another --out")
        lm.load_state_dict(state["lm"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["spent"]
    told = []
    for step in range(first, args.steps):
        began = time.process_time()
        for group in optimizer.param_groups:  # up within the first twentieth, down by a cosine
            group["lr"] = group["top"] * min(20 * (step + 1) / args.steps, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        batch = crops(long, args.batch, args.length, args.seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = lm.losses(batch)
        loss = losses.sum() / (batch[..., 1:] != lm.size).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        spent += time.process_time() - began
        told.append(loss.item() / math.log(2))
        if (step + 1) % EVERY == 0 or step + 1 == args.steps:
            bits, told = sum(told) / len(told), []
            print(f"step {step + 1}: {bits:.3f} bits a code, {spent / 60:.1f} minutes of processor time", flush=True)
            state = {"lm": lm.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "spent": spent}
            part = path.with_suffix(".part")
            torch.save(state | {"settings": settings}, part)
            part.replace(path)


if __name__ == "__main__":
    main()
