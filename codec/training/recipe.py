"""Recipes: a YAML file by name or path, `key=value` overrides, checked into typed settings."""

from __future__ import annotations

import dataclasses
import typing
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import codec
from codec.config import CodecConfig, ConfigError, build
from codec.semantic.target import SemanticTarget
from codec.training.effects import Effects
from codec.training.tiny import shrink
from discriminators.losses import KINDS

RECIPES = [Path(codec.__file__).parent / "recipes", Path(codec.__file__).parent.parent / "recipes"]


@dataclass(frozen=True)
class DataConfig:
    """train: folder or manifest of audio (of a manifest that has splits, `train`). valid: the same for validation (`eval`),
    or empty for none. cache, group_power, gain_db and effects: see `codec.training.data.SpeechCrops`.
    """

    train: str = ""
    valid: str = ""
    cache: str = ""
    batch_size: int = 16
    crop_seconds: float = 1.0
    workers: int = 1
    valid_items: int = 8
    group_power: float = 0.5
    gain_db: tuple[float, ...] = (-20.0, 0.0)
    effects: dict = field(default_factory=dict)


@dataclass(frozen=True)
class LossConfig:
    """spectral: entries of `codec.training.losses.SpectralLosses`. commitment: weight of the quantizer's. balance, by
    `codec.training.balancer` at the decoded audio: "reference", where the reconstruction keeps its gradient and the shares
    are norms of the adversary's relative to its; or "encodec", where spectral weights and shares are parts of a fixed norm.
    """

    spectral: list = field(default_factory=list)
    commitment: float = 0.25
    balance: str = "reference"
    adversarial_share: float = 0.5
    feature_share: float = 0.7


@dataclass(frozen=True)
class SemanticConfig:
    """Teachers whose features the tokens are to carry. features: folder of stores, made by `codec features`. targets: entries
    of `codec.semantic.target.SemanticTarget`. student_first: steps in which only targets with `source: content` are trained.
    teacher: of an encoder that hears through one (xcodec, xcodec2): folder or hub id of its weights, or `random` to try things out.
    """

    features: str = ""
    teacher: str = ""
    targets: list = field(default_factory=list)
    student_first: int = 0

    def entries(self) -> list[SemanticTarget]:
        """The targets, checked."""
        found = []
        for number, entry in enumerate(self.targets, 1):
            where = f"semantic.targets, entry {number}"
            if not isinstance(entry, dict):
                raise ConfigError(f"{where} is to be a mapping like {{teacher: ..., codebooks: [1]}}")
            try:
                found.append(build(SemanticTarget, entry, where))
            except ConfigError:
                raise
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from None
        return found


@dataclass(frozen=True)
class AdversaryConfig:
    """Discriminators and when they judge: from step `start` on, every `every` steps, on `crop_seconds` of each item.
    normalize: they hear every excerpt with the gain that the reconstruction losses give it, so that quiet ones count, too."""

    discriminators: list = field(default_factory=list)
    kind: str = "hinge"
    start: int = 0
    every: int = 1
    crop_seconds: float = 0.5
    normalize: bool = False
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class ScheduleConfig:
    """Everything that depends on the step, where one step is one update of the generator.

    The learning rate warms up, stays, and decays by a cosine over the last `decay` of the steps to `final` of itself.
    Until `quantize_from` the latents pass unquantized; then the codebooks start by k-means on `init_batches`. A share
    `full_rate` of the items uses all codebooks, the others k = 1, 2, ... with `dropout_weights[k - 1]` (0 behind its end), as
    far as the first k codebooks of the quantizer decode on their own. decoder_only: encoder and codebooks of `init` stay
    as they are to the bit, so that tokens which exist already decode better.
    """

    steps: int = 100_000
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    final: float = 0.02
    quantize_from: int = 200
    init_batches: int = 12
    full_rate: float = 0.5
    dropout_weights: tuple[float, ...] = (2.0, 1.0, 2.0, 1.0, 1.0, 2.0, 1.0, 1.0)
    ema: float = 0.999
    clip: float = 1.0
    adam_betas: tuple[float, ...] = (0.8, 0.99)
    weight_decay: float = 0.01
    decoder_only: bool = False


@dataclass(frozen=True)
class RunConfig:
    """Where and how to run. precision: auto, 32-true or bf16-mixed. keep_every: steps between models that are kept for
    comparison, 0 for none. sweep: recordings that `codec sweep` compares them on while training goes on, empty for none; sweep_limit:
    of so many recordings. max_minutes: 0 for no limit."""

    out: str = "runs"
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "auto"
    threads: int = 0
    checkpoint_every: int = 500
    keep_every: int = 0
    sweep: str = ""
    sweep_limit: int = 20
    valid_every: int = 1000
    log_every: int = 50
    max_minutes: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """A whole training run. init: a model to start from (`codec.load` name), or empty."""

    model: CodecConfig
    data: DataConfig
    loss: LossConfig
    adversary: AdversaryConfig
    schedule: ScheduleConfig
    run: RunConfig
    semantic: SemanticConfig = SemanticConfig()
    init: str = ""


SECTIONS = {
    "data": DataConfig, "loss": LossConfig, "semantic": SemanticConfig, "adversary": AdversaryConfig,
    "schedule": ScheduleConfig, "run": RunConfig,
}


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted({path.stem for folder in RECIPES for path in folder.glob("*.yaml")})


def load(name: str, overrides: typing.Sequence[str] = (), tiny: bool = False) -> Recipe:
    """Read the recipe `name` (or a path to a YAML file) and apply overrides such as `data.batch_size=8`, or of the first
    entry of a list `semantic.targets.1.teacher=mine`.

    tiny: make it small first, see `codec.training.tiny`. Raises ConfigError for unknown recipes, keys and values.
    """
    import yaml

    path = _find(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML recipe ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections")
    if tiny:
        values = shrink(to_dict(from_dict(values)))
    for override in overrides:
        _override(values, override)
    if tiny and not values["semantic"]["features"]:
        _leave_teachers_out(values["semantic"])
    return from_dict(values)


def _leave_teachers_out(semantic: dict[str, Any]) -> None:
    """Of a trial; targets with transcripts stay."""
    kept = [entry for entry in semantic["targets"] if isinstance(entry, dict) and entry.get("transcripts")]
    if len(kept) < len(semantic["targets"]):
        warnings.warn("a trial needs no teacher: semantic targets are left out, unless semantic.features=FOLDER", stacklevel=3)
        semantic |= {"targets": kept, "student_first": 0}


def from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe of plain values, checked."""
    unknown = sorted(set(values) - set(SECTIONS) - {"model", "init"})
    if unknown:
        raise ConfigError(f"a recipe has no section {', '.join(unknown)}; it has model, {', '.join(SECTIONS)}, init")
    parts = {}
    for section, cls in SECTIONS.items():
        if not isinstance(values.get(section, {}), dict):
            raise ConfigError(f"section {section} of a recipe is a mapping of settings")
        parts[section] = build(cls, values.get(section, {}), section)
    recipe = Recipe(model=CodecConfig.from_dict(values.get("model", {})), init=str(values.get("init") or ""), **parts)
    _check(recipe)
    return recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values of which `from_dict` makes an equal recipe."""
    return dataclasses.asdict(recipe) | {"model": recipe.model.to_dict()}


def _check(recipe: Recipe) -> None:
    if Path(recipe.model.name).name != recipe.model.name or not recipe.model.name:
        raise ConfigError(f"model.name={recipe.model.name!r} names a folder: it must be one, without slashes")
    if recipe.data.crop_seconds * recipe.model.sample_rate < recipe.model.frame_size:
        raise ConfigError(f"data.crop_seconds={recipe.data.crop_seconds} is shorter than one frame of the model")
    if recipe.run.keep_every < 0:
        raise ConfigError(f"run.keep_every={recipe.run.keep_every} must be 0 (keep none) or more")
    if recipe.run.sweep and not recipe.run.keep_every:
        raise ConfigError("run.sweep compares the models of steps: say how often to keep one with run.keep_every=STEPS")
    for where, value in (
        ("data.batch_size", recipe.data.batch_size), ("schedule.steps", recipe.schedule.steps),
        ("adversary.every", recipe.adversary.every), ("run.checkpoint_every", recipe.run.checkpoint_every),
        ("run.log_every", recipe.run.log_every), ("run.valid_every", recipe.run.valid_every),
        ("run.sweep_limit", recipe.run.sweep_limit), ("run.devices", recipe.run.devices), ("run.nodes", recipe.run.nodes), ("data.valid_items", recipe.data.valid_items),
        ("schedule.init_batches", recipe.schedule.init_batches),
    ):
        if value < 1:
            raise ConfigError(f"{where}={value} must be at least 1")
    if not recipe.loss.spectral:
        raise ConfigError("loss.spectral is empty: name at least one reconstruction loss, e.g. {name: mel}")
    weights = recipe.schedule.dropout_weights
    if not weights or min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError("schedule.dropout_weights are numbers >= 0, not all 0")
    for where, entries in (("loss.spectral", recipe.loss.spectral), ("adversary.discriminators", recipe.adversary.discriminators)):
        if not all(isinstance(entry, dict) and isinstance(entry.get("options") or {}, dict) for entry in entries):
            raise ConfigError(f"{where} is a list of mappings like {{name: ..., options: {{...}}}}")
    if recipe.semantic.student_first and not any(target.source == "content" for target in recipe.semantic.entries()):
        raise ConfigError("semantic.student_first trains what predicts a target from content, and semantic.targets has none")
    if recipe.schedule.decoder_only and not recipe.init:
        raise ConfigError("schedule.decoder_only goes on from a trained model: name it by init=")
    if recipe.schedule.decoder_only and recipe.semantic.targets:
        raise ConfigError("schedule.decoder_only trains no codebook, so semantic.targets must be empty: semantic.targets=[]")
    if recipe.adversary.kind not in KINDS:
        raise ConfigError(f"adversary.kind={recipe.adversary.kind}: it is {' or '.join(KINDS)}")
    if recipe.loss.balance not in ("reference", "encodec"):
        raise ConfigError(f"loss.balance={recipe.loss.balance}: it is reference or encodec")
    if len(recipe.data.gain_db) != 2:
        raise ConfigError("data.gain_db are two numbers, the lowest and the highest")
    try:
        Effects(recipe.data.effects, recipe.model.sample_rate)
    except ValueError as error:
        raise ConfigError(f"data.effects: {error}") from None
    if len(recipe.schedule.adam_betas) != 2:
        raise ConfigError("schedule.adam_betas are two numbers")
    if recipe.run.precision not in ("auto", "32-true", "bf16-mixed"):
        raise ConfigError(f"run.precision={recipe.run.precision}: it is auto, 32-true or bf16-mixed")


def _find(name: str) -> Path:
    for folder in RECIPES:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    raise ConfigError(f"no recipe is named {name!r}: there is {', '.join(names())}, or give the path of a .yaml file")


def _override(values: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is no override: write key=value, e.g. data.batch_size=8")
    *parents, last = key.split(".")
    for number, parent in enumerate(parents, 1):
        values = values.setdefault(parent, {}) if isinstance(values, dict) else _entry(values, parent, key)
        if not isinstance(values, dict) and not (isinstance(values, list) and number < len(parents)):
            raise ConfigError(f"{key}: {parent} is a value, not a section")
    try:
        values[last] = _number(yaml.safe_load(text)) if text else ""
    except yaml.YAMLError:
        raise ConfigError(f"{override!r}: the value is no YAML") from None


def _entry(values: list, number: str, key: str) -> Any:
    """An entry of a list, counted from 1 as in messages."""
    if not number.isdecimal() or not 1 <= int(number) <= len(values):
        raise ConfigError(f"{key}: {number} is no entry of a list of {len(values)}, which are counted from 1")
    return values[int(number) - 1]


def _number(value: Any) -> Any:
    """PyYAML takes 1e-4 and 1e3 for words, YAML 1.2 and everybody else for numbers."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return int(number) if isinstance(value, str) and number.is_integer() else number
