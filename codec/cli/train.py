"""Train a codec from a recipe, or go on with a run that stopped.

RECIPE is a recipe that comes with the package (speech_16k) or a YAML file (./my.yaml). Settings of it are changed as
key=value, e.g.

  codec train speech_16k data.train=recordings/ data.batch_size=16 run.out=runs
  codec train speech_16k data.train=recordings/ init=speech-16k       start from the trained model
  codec train mimi data.train=recordings/ --tiny                      try out a recipe: 20 steps of a small one

The same command again goes on where the last one stopped. docs/training.md explains the settings.
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe, or the path of a .yaml file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="settings to change")
    parser.add_argument(
        "--tiny", action="store_true", help="narrow networks, short crops, 20 steps; the model is called NAME-tiny"
    )


def run(args: argparse.Namespace) -> None:
    try:
        from codec.training import recipe
        from codec.training.run import train

        settings = recipe.load(args.recipe, args.overrides, args.tiny)
        directory = train(settings, progress=sys.stderr.isatty())
    except ImportError as error:  # a light installation, or one without [train]
        remedy = 'pip install "neural-codec-toolkit[train]"'
        raise ValueError(str(error) if remedy in str(error) else f"training needs more: {error}: {remedy}") from error
    if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of a distributed run comes here
        best = ", best/ the best one by validation" if settings.data.valid else ""
        best += ", sweep/report.html quality against steps" if settings.run.sweep else ""
        print(f"{directory}: model/ is the newest model{best}")
