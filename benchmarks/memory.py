"""The most memory that coding a recording takes, with the recipes' networks and random weights on a CPU.

    python benchmarks/memory.py [--recipes encodec_24k,mimi,...] [--seconds 60,600]

docs/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPES = [
    "encodec_24k", "mimi", "dac_16k", "dac_24k", "dac_44k", "snac_24k", "speechtokenizer", "wavtokenizer_40", "wavtokenizer_75",
]

PEAK = """
def peak():
    lines = dict(line.split(":") for line in open("/proc/self/status"))  # not getrusage, which counts who started it, too
    return round(int(lines["VmHWM"].split()[0]) * 1024 / 1e6)
"""
NOTHING = "import torch\nprint(peak())"
MAKE = """
import sys
import numpy, soundfile, torch
from codec import hub
from codec.model import Codec
from codec.training import recipe

name, folder, *lengths = sys.argv[1:]
config = recipe.load(name).model
torch.manual_seed(0)
hub.save(Codec(config), folder + "/model", torch.float32)
noise = numpy.random.default_rng(0)
for length in lengths:
    with soundfile.SoundFile(f"{folder}/{length}.wav", "w", config.sample_rate, 1, "PCM_16") as file:
        for second in range(int(length)):
            file.write(0.1 * noise.standard_normal(config.sample_rate))
print(sum(path.stat().st_size for path in __import__("pathlib").Path(folder + "/model").iterdir()))
"""
COMMAND = """
import sys
import torch
from codec.cli import main

torch.set_num_threads(1)
code = main([sys.argv[1], sys.argv[3], sys.argv[4], "--model", sys.argv[2]])
print(peak() if code == 0 else sys.exit(code))
"""
PYTHON = """
import sys
import torch
import codec

torch.set_num_threads(1)
what, folder, source = sys.argv[1:4]
model = codec.load(folder)
if what == "encode":
    seconds = int(source)
    model.encode(torch.randn(seconds * model.sample_rate))
else:
    model.decode(codec.Tokens.load(source))
print(peak())
"""


def run(program: str, *arguments: str) -> int:
    """What a program prints, in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(PEAK + program), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return int(done.stdout.split()[-1])


def row(recipe: str, lengths: list[str]) -> list[list[str]]:
    """Cells for each of the lengths."""
    with tempfile.TemporaryDirectory() as folder:
        weights = run(MAKE, recipe, folder, *lengths)
        rows = []
        for length in lengths:
            wav, tok, out = (f"{folder}/{length}.{end}" for end in ("wav", "tok", "out.wav"))
            cells = [run(COMMAND, "encode", f"{folder}/model", wav, tok), run(COMMAND, "decode", f"{folder}/model", tok, out)]
            Path(out).unlink()
            cells += [run(PYTHON, "encode", f"{folder}/model", length), run(PYTHON, "decode", f"{folder}/model", tok)]
            rows.append([recipe, str(round(weights / 1e6)), length, *map(str, cells)])
            print(f"| {' | '.join(rows[-1])} |", flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="(%(default)s)")
    parser.add_argument("--seconds", default="60,600", help="of audio (%(default)s)")
    args = parser.parse_args(argv)
    print(f"Peak of resident memory in MB, of which torch itself takes {run(NOTHING)}\n")
    print("| recipe | weights | seconds | codec encode | codec decode | model.encode | model.decode |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for recipe in args.recipes.split(","):
        row(recipe, args.seconds.split(","))


if __name__ == "__main__":
    main()
