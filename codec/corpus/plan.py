"""What a corpus of tokens is to hold: settings, the model, and which recordings are in which shard.

The plan is made once, from the list of recordings alone, and kept in `corpus.json`; whoever goes on with the corpus follows
it. So shards do not depend on how many processes work, on which is first, or on how often they are stopped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from codec.atomic import Output
from codec.corpus.inputs import Input
from codec.tokens import TokenSpec

PLAN, MANIFEST, QUARANTINE, SHARDS = "corpus.json", "manifest.json", "quarantine.jsonl", "shards"
VERSION = 1
SHARES = 256  # a corpus of middle size becomes about as many shards
SMALLEST, LARGEST = 1 << 20, 64 << 20  # bytes of recordings in a shard, unless they are said
MOST = 10_000  # recordings in a shard


class CorpusError(ValueError):
    """A corpus cannot be made or read; one line that says why and how to mend it."""


@dataclass(frozen=True)
class Settings:
    """What changes the contents of shards. shard_bytes: recordings in a shard, counted in bytes of their files."""

    format: str
    num_codebooks: int
    beam: int | None
    mono: bool
    shard_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """stops: of each shard, the number of recordings up to its end."""

    settings: Settings
    spec: TokenSpec
    digest: str
    stops: tuple[int, ...]

    def shard(self, number: int) -> range:
        """The numbers of the recordings of a shard."""
        return range(self.stops[number - 1] if number else 0, self.stops[number])

    @property
    def header(self) -> dict[str, Any]:
        """What a reader needs to know of codes."""
        return {"model": asdict(self.spec), "num_codebooks": self.settings.num_codebooks}


def make_plan(inputs: list[Input], spec: TokenSpec, settings: Settings) -> Plan:
    size = settings.shard_bytes or min(LARGEST, max(SMALLEST, sum(item.size for item in inputs) // SHARES))
    stops, held, first = [], 0, 0
    for number, item in enumerate(inputs, 1):
        held += item.size
        if held >= size or number - first >= MOST or number == len(inputs):
            stops.append(number)
            held, first = 0, number
    return Plan(replace(settings, shard_bytes=size), spec, _digest(inputs), tuple(stops))


def agree(folder: Path, inputs: list[Input], spec: TokenSpec, settings: Settings) -> Plan:
    """The plan of the corpus in a folder, made now if there is none. Raises CorpusError for one of another model, other settings
    or other recordings."""
    path = folder / PLAN
    if not path.exists():
        plan = make_plan(inputs, spec, settings)
        write_json(path, {
            "version": VERSION, "settings": asdict(plan.settings), **plan.header, "digest": plan.digest, "stops": plan.stops,
        })
        return plan
    plan = read_plan(folder)
    if plan.spec.fingerprint != spec.fingerprint:
        raise CorpusError(f"{folder} holds tokens of model {plan.spec.name!r} with encoder and codebooks "
                          f"{plan.spec.fingerprint}, but this is {spec.name!r} with {spec.fingerprint}: name another folder, "
                          "or the model that began it")
    wanted = settings if settings.shard_bytes else replace(settings, shard_bytes=plan.settings.shard_bytes)
    for name, value in asdict(wanted).items():
        begun = getattr(plan.settings, name)
        if value != begun:
            raise CorpusError(f"{folder} was begun with {name}={begun}, not {value}: say that, or name another folder")
    if _digest(inputs) != plan.digest:
        raise CorpusError(f"{folder} was begun with {plan.stops[-1]} recordings, and those named now, {len(inputs)}, are not "
                          "the same: tokenize new ones into a folder of their own (readers take several)")
    return plan


def read_plan(folder: Path) -> Plan:
    try:
        values = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise CorpusError(f"{folder} is a corpus of version {values['version']}, this reads version {VERSION}: use a newer "
                              "neural-codec-toolkit")
        settings, spec = Settings(**values["settings"]), TokenSpec(**values["model"])
        return Plan(settings, spec, values["digest"], tuple(values["stops"]))
    except FileNotFoundError:
        raise CorpusError(f"{folder} holds no corpus of tokens: there is no {PLAN}; make one with codec tokenize") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{folder / PLAN} cannot be read ({error})") from None


def _digest(inputs: list[Input]) -> str:
    digest = hashlib.sha256()
    for item in inputs:
        digest.update(json.dumps([item.name, item.start, item.stop]).encode())
    return digest.hexdigest()[:32]


def as_json(value: Any) -> bytes:
    """On one line. What is no UTF-8 in names of files is escaped, and reads back as it was."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def write_json(path: Path, *values: Any) -> None:
    """A line for each."""
    output = Output(path)
    try:
        for value in values:
            output.write(as_json(value) + b"\n")
        output.commit()
    finally:
        output.discard()
