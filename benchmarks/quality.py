"""How speech sounds after coding: this project's models at several bitrates, and other codecs, on the same files.

    python benchmarks/quality.py --data FOLDER_OR_MANIFEST [--models speech-16k DIR …] [--peers codec2,opus,lyra]

docs/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import codec
import judges
import peers
from codec.training.data import DataError, decode, list_audio
from judges import RATE, Scores

BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Plan:
    """What to measure, in plain values for other processes. ecapa and whisper: folders, or None for no such judge."""

    models: tuple[str, ...]
    codebooks: tuple[int, ...]
    peers: tuple[str, ...]
    lyra: Path | None = None
    distillmos: bool = False
    ecapa: Path | None = None
    whisper: Path | None = None


@dataclass
class Utterance:
    """Scores of one file: for each system the kbit/s and the scores. Without systems, `skipped` says why."""

    path: str
    seconds: float
    systems: dict[str, tuple[float, Scores]] = field(default_factory=dict)
    skipped: str | None = None


class Bench:
    """All systems and judges, loaded once."""

    def __init__(self, plan: Plan):
        torch.set_num_threads(1)
        self.plan = plan
        self.models = {name: codec.load(name) for name in plan.models}
        self.peers = [make_peer(name, plan.lyra) for name in plan.peers]
        self.judges: list[judges.Judge] = [judges.intelligibility]
        if plan.distillmos:
            self.judges.append(judges.distillmos())
        if plan.ecapa:
            self.judges.append(judges.speaker_similarity(plan.ecapa))
        if plan.whisper:
            self.judges.append(judges.word_errors(plan.whisper))

    def measure(self, path: str) -> Utterance:
        """Code one file with every system and judge what comes out."""
        try:
            wav = decode(path, RATE).astype(np.float32) / 32767  # (T,)
        except DataError as error:
            return Utterance(path, 0.0, skipped=str(error))
        result = Utterance(path, len(wav) / RATE, skipped=judges.unusable(wav))
        if result.skipped is None:
            scorers = [judge(wav) for judge in self.judges]
            for name, decoded, bits in self.coded(wav):
                scores = {metric: one for scorer in scorers for metric, one in scorer(decoded).items()}
                result.systems[name] = bits / 1000 / result.seconds, scores
        return result

    def coded(self, wav: np.ndarray) -> Iterator[tuple[str, np.ndarray, float]]:
        """(system, what it decodes (T,), bits)."""
        for name, model in self.models.items():
            tokens = model.encode(wav, RATE)
            for k in self.plan.codebooks:
                if k <= model.num_codebooks:
                    decoded = model.decode(tokens.truncate(k))[0, 0].numpy()
                    yield f"{model_label(name)} k={k}", decoded, model.bitrate(k) * len(wav) / RATE
        for peer in self.peers:
            for name in peer.names:
                yield name, *peer.code(name, wav)


def make_peer(name: str, lyra: Path | None) -> peers.Peer:
    return {"codec2": peers.Codec2, "opus": peers.Opus, "lyra": lambda: peers.Lyra(lyra)}[name]()


def model_label(name: str) -> str:
    """A model's name, or the last two parts of its directory."""
    return "/".join(Path(name).parts[-2:])


def summarize(utterances: list[Utterance], seed: int = 0) -> dict[str, dict]:
    """For each system the kbit/s and for each metric the mean and its 95 % interval by bootstrap over utterances.

    All systems and metrics are resampled alike, so that their intervals belong together.
    """
    heard = [u for u in utterances if u.skipped is None]
    if not heard:
        return {}
    picks = np.random.default_rng(seed).integers(len(heard), size=(BOOTSTRAPS, len(heard)))
    table = {}
    for system in heard[0].systems:
        rates = np.array([u.systems[system][0] for u in heard])
        seconds = np.array([u.seconds for u in heard])
        row = table[system] = {"kbps": float((rates * seconds).sum() / seconds.sum()), "metrics": {}}
        for metric in heard[0].systems[system][1]:
            value, weight = np.array([u.systems[system][1][metric] for u in heard]).T
            draws = (value * weight)[picks].sum(1) / weight[picks].sum(1)
            low, high = np.percentile(draws, [2.5, 97.5])
            row["metrics"][metric] = {
                "mean": float(np.average(value, weights=weight)), "low": float(low), "high": float(high),
            }
    return table


def markdown(table: dict[str, dict]) -> str:
    """The summary as a Markdown table: mean [low, high]."""
    metrics = list(next(iter(table.values()))["metrics"])
    lines = ["| system | kbit/s | " + " | ".join(metrics) + " |", "|---|---|" + "---|" * len(metrics)]
    for system, row in table.items():
        cells = []
        for metric in metrics:
            one, digits = row["metrics"][metric], 2 if metric in ("PESQ-wb", "Distill-MOS") else 3
            cells.append(f"{one['mean']:.{digits}f} [{one['low']:.{digits}f}, {one['high']:.{digits}f}]")
        lines.append(f"| {system} | {row['kbps']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(plan: Plan, paths: list[str], jobs: int) -> list[Utterance]:
    """Measure all files, `jobs` at a time; a line of progress on a terminal."""
    done: list[Utterance] = []

    def collect(results: Iterator[Utterance]) -> list[Utterance]:
        for utterance in results:
            done.append(utterance)
            if sys.stderr.isatty():
                print(f"\r{len(done)}/{len(paths)}", end="\n" if len(done) == len(paths) else "", file=sys.stderr)
        return done

    if jobs == 1:
        return collect(map(Bench(plan).measure, paths))
    with multiprocessing.get_context("spawn").Pool(jobs, _start, (plan,)) as pool:
        return collect(pool.imap(_measure, paths))


def _start(plan: Plan) -> None:
    global _bench
    _bench = Bench(plan)


def _measure(path: str) -> Utterance:
    return _bench.measure(path)


def available(args: argparse.Namespace) -> Plan:
    """The plan without peers that are not installed; these are named with the remedy. Exits for a judge that is not."""
    usable = []
    for name in args.peers:
        remedy = make_peer(name, args.lyra).missing()
        if remedy is None:
            usable.append(name)
        else:
            print(f"{name} is left out: {remedy}", file=sys.stderr)
    wanted = {judges.DISTILLMOS: args.distillmos, judges.ECAPA: args.ecapa, judges.WHISPER: args.whisper}
    for module, given in wanted.items():
        if given and (remedy := judges.missing(module)):
            sys.exit(f"{module} is not installed: {remedy}")
    for folder, file in ((args.ecapa, "model.safetensors"), (args.whisper, "model.bin")):
        if folder is not None and not (folder / file).is_file():
            sys.exit(f"{folder} holds no {file}: docs/benchmarks.md says which files this judge needs")
    for name in args.models:
        model = codec.load(name)
        if over := [k for k in args.codebooks if k > model.num_codebooks]:
            print(f"{name} has {model.num_codebooks} codebooks: {', '.join(map(str, over))} left out", file=sys.stderr)
    return Plan(
        tuple(args.models), tuple(args.codebooks), tuple(usable), args.lyra, args.distillmos, args.ecapa, args.whisper,
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    def counts(text: str) -> list[int]:
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < 1:
            raise argparse.ArgumentTypeError("codebooks are counted from 1")
        return numbers

    def codecs(text: str) -> list[str]:
        names = [part for part in text.split(",") if part]
        if unknown := sorted(set(names) - {"codec2", "opus", "lyra"}):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there is codec2, opus and lyra")
        return names

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of speech, or a manifest (its entries of split eval)")
    parser.add_argument("--models", nargs="*", default=[], help="names of models or their directories")
    parser.add_argument("--codebooks", type=counts, default=[1, 2, 4, 8], help="codebooks to decode (1,2,4,8)")
    parser.add_argument("--peers", type=codecs, default=[], help="of codec2,opus,lyra")
    parser.add_argument("--lyra", type=Path, help="directory with Lyra v2's .tflite files")
    parser.add_argument("--distillmos", action="store_true", help="also predict the mean opinion score")
    parser.add_argument("--ecapa", type=Path, help="directory with SpeechBrain's ECAPA-TDNN: also speaker similarity")
    parser.add_argument("--whisper", type=Path, help="directory with a CTranslate2 Whisper model: also word errors")
    parser.add_argument("--limit", type=positive, help="use that many files, spread evenly over the data")
    parser.add_argument("--jobs", type=positive, default=1, help="processes of one thread each (1)")
    parser.add_argument("--out", type=Path, help="write all scores of all files as JSON")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    try:
        paths = [entry.path for entry in list_audio(args.data, split="eval")]
        plan = available(args)
        if not plan.models and not plan.peers:
            sys.exit("nothing to measure: give --models or --peers")
        if args.limit and args.limit < len(paths):
            paths = [paths[i * len(paths) // args.limit] for i in range(args.limit)]
        utterances = run(plan, paths, args.jobs)
    except ValueError as error:  # bad data, models or configurations
        sys.exit(str(error))
    skipped = {u.path: u.skipped for u in utterances if u.skipped}
    seconds = sum(u.seconds for u in utterances if not u.skipped)
    print(f"{len(utterances) - len(skipped)} utterances, {seconds:.0f} s; {len(skipped)} skipped")
    for path, reason in skipped.items():
        print(f"  {path}: {reason}")
    table = summarize(utterances)
    if not table:
        sys.exit("no utterance could be judged")
    print(markdown(table))
    if args.out:
        report = {"systems": table, "utterances": [asdict(u) for u in utterances]}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
