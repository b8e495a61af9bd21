"""Which layer of a speech teacher, and how many frames late? Probes of its own features, before a codec is trained.

    python benchmarks/teacher_layers.py --teacher whisper-base/ --data speech/ --transcripts transcripts.jsonl

For each layer and the mean of all: ABX errors of words, as `codec probe` counts them, on the features and on 1024 units
of them (k-means, what one codebook could hold at best); slots of spoken commands by a bag of these units; and the share
of the variance that lies in the one strongest dimension. All this twice: of features as they are, which is what squared
errors and cosines of frames compare, and of dimensions brought to one variance, as the D axis weighs them.

For the shift: how far a linear map of what a causal codec has heard (the last 8 frames of its encoder) is from the
teacher's features of some frames ago, by the D-axis loss on recordings that the map was not fitted to.
docs/semantics.md has the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import codec
from codec.evaluation.probe_classify import FOLDS, Slots
from codec.evaluation.probe_data import Recording, recordings
from codec.evaluation.probe_heads import classify_bags
from codec.evaluation.probe_report import bootstrap
from codec.evaluation.probe_texts import Texts
from codec.evaluation.probe_words import Words
from codec.semantic.losses import d_axis_distillation_loss
from codec.semantic.teachers import ModelTeacher, load_teacher
from codec.training.data import decode
from quantizers.kmeans import KMeansQuantizer

RATE, UNITS, FIT_ROWS = 16_000, 1024, 20_000
HEARD, PIECE = 8, 100  # frames: of the encoder that the map sees, and of the pieces that the loss compares
SHIFTS = (0, 1, 2, 4, 8)
RIDGE = 1e-3  # of the inputs' power


def every_layer(name: str) -> ModelTeacher:
    """A teacher whose features are those of all layers from the first on, side by side, then their mean with the 0th."""
    teacher = load_teacher(name, layer="mean", bfloat16=True)
    teacher._choose = lambda states: torch.cat([*states[1:], sum(states) / len(states)], -1).float()
    teacher.dim *= len(teacher.layers)
    return teacher


def heard(teacher: ModelTeacher, found: Sequence[Recording]) -> list[Tensor]:
    """Of each recording (T, dim) float16."""
    wavs = (decode(each.path, RATE).astype(np.float32) / 32767 for each in found)
    return [teacher.features(wav).half() for wav in wavs]


def units(features: Sequence[Tensor]) -> tuple[KMeansQuantizer, list[Tensor]]:
    """K-means of (T, dim) each, and their units (1, T)."""
    torch.manual_seed(0)
    rows = torch.cat([each[torch.randperm(len(each))[: 1 + FIT_ROWS // len(features)]] for each in features]).float()
    quantizer = KMeansQuantizer(rows.shape[1], 1, UNITS).fit(rows, iterations=8)
    return quantizer, [quantizer.encode(each.float().T[None])[0] for each in features]


def slots(task: Slots, codes: Sequence[Tensor]) -> tuple[float, float]:
    """Accuracy of a bag of units (see `probe_classify.Slots`), and its chance."""
    sizes, told = [len(values) for values in task.slots.values()], np.zeros_like(task.answers)
    for fold in range(FOLDS):
        test = task.folds == fold
        parts = [[codes[row] for row in np.flatnonzero(mask)] for mask in (~test, test)]
        told[test] = classify_bags([UNITS], parts[0], task.answers[~test], parts[1], sizes, seed=0)
    asked = task.answers >= 0
    chance = [np.bincount(column[column >= 0]).max() / (column >= 0).sum() for column in task.answers.T]
    return bootstrap((told == task.answers) & asked, asked, 0).value, float(np.mean(chance))


def latents(model: codec.Codec, found: Sequence[Recording]) -> list[Tensor]:
    """What the causal encoder has in each frame and the HEARD - 1 before, with a one: (T, HEARD * dim + 1)."""
    inputs = []
    for each in found:
        wav = torch.from_numpy(decode(each.path, RATE).astype(np.float32) / 32767)[None, None]
        with torch.no_grad():
            rows = model.encoder(torch.nn.functional.pad(wav, (0, -wav.shape[2] % model.frame_size)))[0][0].T
        late = torch.nn.functional.pad(rows, (0, 0, HEARD - 1, 0)).unfold(0, HEARD, 1).flatten(1)
        inputs.append(torch.cat([late, torch.ones(len(rows), 1)], 1))
    return inputs


def distance(inputs: Sequence[Tensor], features: Sequence[Tensor], shift: int) -> float:
    """D-axis loss over pieces of the last quarter of recordings, of the ridge regression on the others."""
    pairs = [(x[shift : len(y)], y[: len(x) - shift].float()) for x, y in zip(inputs, features)]
    fitted, tested = pairs[: len(pairs) * 3 // 4], pairs[len(pairs) * 3 // 4 :]
    x, y = (torch.cat(side) for side in zip(*fitted))
    power = x.T @ x
    weights = torch.linalg.solve(power + RIDGE * power.diagonal().mean() * torch.eye(len(power)), x.T @ y)
    pieces = [(a[start : start + PIECE] @ weights, b[start : start + PIECE])
              for a, b in tested for start in range(0, len(b) - PIECE + 1, PIECE)]
    student, target = (torch.stack(side) for side in zip(*pieces))
    # less the mean over time, so that what is constant is no agreement
    student, target = (side - side.mean(1, keepdim=True) for side in (student, target))
    return d_axis_distillation_loss(student, target).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="folder or hub id of a model of transformers")
    parser.add_argument("--data", required=True, help="folder or manifest, with labels.json beside the commands")
    parser.add_argument("--transcripts", required=True, help="of the corpus, by codec transcribe, with times of words")
    parser.add_argument("--model", default="speech-16k", help="causal codec at the teacher's frame rate, for the shift")
    parser.add_argument("--words", type=int, default=80, help="recordings with words")
    parser.add_argument("--commands", type=int, default=150, help="recordings with slots")
    args = parser.parse_args()
    found = recordings(args.data, "train")
    texts = Texts(args.data, args.transcripts)
    spoken = [each for each in found if each.slots is None and each.speaker and texts.words(each)][: args.words]
    words, commands = Words(spoken, texts), Slots([each for each in found if each.slots is not None][: args.commands])
    teacher, model = every_layer(args.teacher), codec.load(args.model)
    if (teacher.frame_rate, RATE) != (model.frame_rate, model.sample_rate):
        parser.error(f"{args.model} has {model.frame_rate:g} frames a second at {model.sample_rate} Hz, the teacher "
                     f"{teacher.frame_rate:g} at {RATE}")
    said, asked = heard(teacher, words.recordings), heard(teacher, commands.recordings)
    inputs, width = latents(model, words.recordings), teacher.dim // len(teacher.layers)
    print("| layer | strongest dimension | scale | words: features | words: units | slots: bag of units | "
          "D axis at a shift of " + " | of ".join(map(str, SHIFTS)) + " |\n|---|---|---|---|---|---|" + "---|" * len(SHIFTS))
    names = [*map(str, teacher.layers[1:]), "mean"]
    for number, name in enumerate(names):
        part = slice(number * width, (number + 1) * width)
        features, commanded = ([each[:, part].float() for each in side] for side in (said, asked))
        rows = torch.cat(features)
        variance, middle = rows.var(0), rows.mean(0)
        shifts = [distance(inputs, features, shift) for shift in (SHIFTS if name in (names[-2], "mean") else (2,))]
        shown = [f"{value:.3f}" for value in shifts]
        losses = " | ".join(shown if len(shown) > 1 else ["", "", *shown, "", ""])
        for scale, by in (("as it is", torch.ones(width)), ("one variance", variance.sqrt())):
            words_in, commands_in = ([(each - middle) / by for each in side] for side in (features, commanded))
            quantizer, codes = units([*words_in, *commands_in])
            table = quantizer.decode(torch.arange(UNITS)[:, None, None]).mean(2)  # (UNITS, dim)
            errors = [words.errors(words_in, teacher.frame_rate),
                      words.errors([table[each[0]] for each in codes[: len(features)]], teacher.frame_rate)]
            accuracy, chance = slots(commands, codes[len(features) :])
            print(f"| {name} | {float(variance.max() / variance.sum()):.1%} | {scale} | "
                  + " | ".join(f"{each.value:.1%} [{each.low:.1%}, {each.high:.1%}]" for each in errors)
                  + f" | {accuracy:.1%} | {losses} |", flush=True)
    print(f"{len(spoken)} recordings with words, {len(words.triplets)} comparisons; {len(commands.recordings)} commands, "
          f"chance {chance:.1%}")


if __name__ == "__main__":
    main()
