"""Whole folders: the tree is kept, what is done is skipped, a bad file does not stop the others."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codec.cli.common import count, duration, summary
from codec.cli.progress import Progress


@dataclass(frozen=True)
class Job:
    source: Path
    target: Path


def find(source: str, target: str, extensions: tuple[str, ...], extension: str) -> tuple[list[Job], list[str]]:
    """Files below the folder `source` by their extensions, hidden ones left out, each with its place below `target`.

    Where two would get one name (a.wav and a.flac), both keep their full names: a.wav.tok and a.flac.tok.
    Returns the jobs, and lines on folders that could not be read. Raises ValueError without any, or for a target that is
    no folder.
    """
    from codec.cli import describe

    if os.path.exists(target) and not os.path.isdir(target):
        raise ValueError(f"{target}: is a file, but {source} is a folder: name a folder to write to")
    failures: list[OSError] = []
    found = []
    for folder, below, names in os.walk(source, onerror=failures.append):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            Path(folder, name) for name in sorted(names)
            if name.lower().endswith(extensions) and not name.startswith(".")
        ]
    if not found and not failures:
        raise ValueError(f"{source}: holds no {extensions[0]}{' or other audio' if len(extensions) > 1 else ''} files")
    relative = [path.relative_to(source) for path in found]
    jobs = [Job(path, Path(target, name)) for path, name in zip(found, output_names(relative, extension))]
    return jobs, [describe(error) for error in failures]


def output_names(names: list[Path], extension: str) -> list[Path]:
    """names with another extension; the full name before it wherever two would be the same, also in other case."""
    full: set[Path] = set()
    while True:
        outputs = [
            name.with_name(name.name + extension) if name in full else name.with_suffix(extension) for name in names
        ]
        seen = Counter(str(output).casefold() for output in outputs)
        clashing = {name for name, output in zip(names, outputs) if seen[str(output).casefold()] > 1} - full
        if not clashing:
            return outputs
        full |= clashing


def run_jobs(
    jobs: list[Job], failures: list[str], is_done: Callable[[Job], bool], work: Callable[[Job], float], verb: str
) -> int:
    """Do all jobs and say how it went; failures, also those before, go to stderr, one line each. Returns the exit code.

    `work` returns the seconds of audio it has dealt with.
    """
    from codec.cli import describe

    failures = list(failures)
    done = skipped = 0
    seconds = 0.0
    with Progress() as progress:
        for index, job in enumerate(jobs):
            progress.update(index, len(jobs), f"{index}/{len(jobs)} {job.source.name}")
            try:
                if is_done(job):
                    skipped += 1
                    continue
                job.target.parent.mkdir(parents=True, exist_ok=True)
                seconds += work(job)
                done += 1
            except (ValueError, OSError) as error:
                line = describe(error)
                failures.append(line if str(job.source) in line else f"{job.source}: {line}")
    summary(
        f"{count(done, 'file')} {verb} ({duration(seconds)} of audio), {skipped} done before"
        + (f", {len(failures)} failed:" if failures else ""),
        "-" if failures else None,
    )
    for line in failures:
        print(f"codec: {line}", file=sys.stderr)
    return 1 if failures else 0
