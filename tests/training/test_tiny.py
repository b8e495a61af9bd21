"""`codec train RECIPE --tiny`: every recipe trains and resumes in a blink, with all of its parts."""

from __future__ import annotations

import csv
import dataclasses
import math
import shutil

import pytest
import torch
import yaml

pytestmark = pytest.mark.filterwarnings("ignore:a trial needs no teacher")

import codec
import discriminators
import quantizers
import tiny_recipe as tiny
import tiny_teachers
from codec.cli import main
from codec.config import ConfigError
from codec.model import Codec
from codec.training import recipe as recipes
from codec.training.callbacks import Checkpoints
from codec.training.run import train
from codec.training.tiny import JUDGES, STEPS
from quantizers import registry

RECIPES = recipes.names()
QUICK = [
    "data.batch_size=1", "data.crop_seconds=0.2", "schedule.init_batches=2", "run.accelerator=cpu", "run.precision=32-true",
    "run.threads=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.corpus(tmp_path_factory.mktemp("corpus"))


def settings(name: str, data, out, *more: str) -> list[str]:
    """Arguments of `codec train` behind the recipe's name."""
    if any(field.name.startswith("teacher") for field in dataclasses.fields(recipes.load(name).model.encoder)):
        pytest.importorskip("transformers")
    return [f"data.train={data}", f"data.cache={data}/cache", f"run.out={out}", *QUICK, *more]


def state(directory) -> dict:
    return torch.load(directory / "last.ckpt", weights_only=True)


def losses(directory) -> dict[int, list[float]]:
    """All that was logged of each step."""
    logged = {}
    for log in (directory / "logs").glob("version_*/metrics.csv"):
        for row in csv.DictReader(log.open()):
            logged[int(float(row.pop("step")))] = [float(value) for value in row.values() if value]
    return logged


def assert_same(one, other) -> None:
    """Every part of two checkpoints, bit for bit."""
    for part in ("state_dict", "optimizer_states", "ema", "balancer"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_resumes_bitwise(name, data, tmp_path, monkeypatch):
    def load(out) -> recipes.Recipe:
        return recipes.load(name, settings(name, data, tmp_path / out, "schedule.steps=4", "run.checkpoint_every=2"), tiny=True)

    save = Checkpoints.save

    def save_and_keep(self, trainer, module):
        save(self, trainer, module)
        if module.step == 2:  # what a kill would leave
            shutil.copytree(self.directory, tmp_path / "stopped" / self.directory.name)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_keep)
        whole = train(load("whole"), progress=False)
    stopped = tmp_path / "stopped" / whole.name
    assert state(stopped)["state_dict"]["steps_done"] == 2
    assert train(load("stopped"), progress=False) == stopped
    assert state(stopped)["state_dict"]["steps_done"] == 4
    assert_same(state(whole), state(stopped))
    logged = losses(whole)
    assert sorted(logged) == [1, 2, 3, 4] and all(math.isfinite(value) for values in logged.values() for value in values)
    assert codec.load(stopped / "model").config == load("whole").model


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_does_its_20_steps_by_the_command(name, data, tmp_path, monkeypatch):
    """Killed in the middle, the same command again ends where one without a kill does."""
    def command(out) -> list[str]:
        return ["train", name, "--tiny", *settings(name, data, tmp_path / out)[:3], "run.accelerator=cpu", "run.threads=1"]

    save = Checkpoints.save

    def save_and_die(self, trainer, module):
        save(self, trainer, module)
        raise KeyError("killed")

    folder = recipes.load(name, tiny=True).model.name
    assert main(command("whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(KeyError, match="killed"):
            main(command("stopped"))
    assert state(tmp_path / "stopped" / folder)["state_dict"]["steps_done"] == STEPS // 2
    assert main(command("stopped")) == 0
    whole, stopped = (tmp_path / out / folder for out in ("whole", "stopped"))
    assert_same(state(whole), state(stopped))
    logged = losses(whole)
    assert sorted(logged) == list(range(1, STEPS + 1))
    assert all(math.isfinite(value) for values in logged.values() for value in values)
    model = codec.load(stopped / "model")
    wav = 0.1 * torch.randn(1, 1, model.sample_rate)
    assert model.decode(model.encode(wav)).shape == wav.shape


@pytest.mark.parametrize("name", RECIPES)
def test_tiny_keeps_what_a_recipe_is_made_of(name):
    """Not its widths and depths."""
    big, small = recipes.load(name), recipes.load(name, tiny=True)
    assert small.loss == big.loss
    for part in ("encoder", "decoder", "quantizer"):
        one, other = getattr(big.model, part), getattr(small.model, part)
        assert other.name == one.name and getattr(other, "strides", None) == getattr(one, "strides", None)
    assert small.model.quantizer.num_codebooks == big.model.quantizer.num_codebooks
    assert [(entry["name"], set(entry["options"])) for entry in small.adversary.discriminators] == \
        [(entry["name"], set(entry["options"]) | set(JUDGES[entry["name"]])) for entry in big.adversary.discriminators]
    same = {"quantize_from", "steps", "warmup"}
    for field in dataclasses.fields(big.schedule):
        assert field.name in same or getattr(small.schedule, field.name) == getattr(big.schedule, field.name)
    for step, of in ((small.adversary.start, big.adversary.start), (small.schedule.quantize_from, big.schedule.quantize_from)):
        assert step == math.ceil(of * STEPS / big.schedule.steps) < STEPS // 2
    assert small.model.sample_rate == big.model.sample_rate and small.model.frame_size == big.model.frame_size
    assert small.model.name == f"{big.model.name}-tiny"


@pytest.mark.parametrize("name", RECIPES)
def test_tiny_is_small(name):
    if any(field.name.startswith("teacher") for field in dataclasses.fields(recipes.load(name).model.encoder)):
        pytest.importorskip("transformers")
    small = recipes.load(name, tiny=True)
    model = Codec(small.model)
    assert sum(value.numel() for value in model.parameters()) < 1_000_000
    assert small.data.batch_size * small.data.crop_seconds <= 1 and small.schedule.steps == 20


@pytest.mark.parametrize("name", quantizers.available())
def test_every_quantizer_can_be_made_small(name, tmp_path):
    quantizer = {"name": name, "num_codebooks": 1 if name in ("single", "fsq") else 4, "codebook_size": 1024}
    if name in ("fsq", "residual_fsq"):
        quantizer |= {"codebook_size": 4096, "levels": [8, 8, 8, 8]}
    values = tiny.recipe(tmp_path, tmp_path)
    values["model"] |= {"dim": 96, "quantizer": quantizer}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    small = recipes.load(str(path), tiny=True).model
    if not registry.family(name).decodes:
        return
    assert small.dim == 24
    Codec(small)


def test_every_discriminator_can_be_made_small(tmp_path):
    assert sorted(JUDGES) == discriminators.available()
    whisper = {"teacher": str(tiny_teachers.save(tmp_path, "whisper")), "layers": [1]}
    for name, options in JUDGES.items():
        options = {"channels": [32] * 6} if name == "mfd" else options
        own = whisper if name == "whisper" else {}
        small, big = discriminators.build(name, **own, **options), discriminators.build(name, **own)
        assert sum(value.numel() for value in small.parameters()) <= sum(value.numel() for value in big.parameters())


def test_a_small_recipe_stays_as_it_is(tmp_path):
    """Nothing is made larger."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny.recipe(tmp_path, tmp_path)))
    big, small = recipes.load(str(path)), recipes.load(str(path), tiny=True)
    assert dataclasses.replace(small.model, name="tiny") == big.model
    assert small.data == dataclasses.replace(big.data, workers=0, valid_items=2)


def test_overrides_win_over_tiny():
    small = recipes.load("mimi", ["schedule.steps=7", "model.encoder.channels=6", "data.batch_size=3", "model.name=mine"], tiny=True)
    assert small.schedule.steps == 7 and small.model.encoder.channels == 6 and small.data.batch_size == 3
    assert small.model.name == "mine" and small.model.decoder.channels == 4


def test_semantic_targets_are_left_out_where_no_features_are_given():
    with pytest.warns(UserWarning, match="semantic.features=FOLDER"):
        assert not recipes.load("mimi", tiny=True).semantic.targets
    spelt = [{"loss": "ctc", "transcripts": "t.jsonl"}]
    assert recipes.load("mimi", [f"semantic.targets={spelt}"], tiny=True).semantic.targets == spelt
    given = recipes.load("mimi", ["semantic.features=features"], tiny=True)
    assert given.semantic.targets == recipes.load("mimi").semantic.targets and given.semantic.features == "features"


def test_a_tiny_run_is_never_resumed_as_the_big_one(data, tmp_path):
    small = settings("speech_16k", data, tmp_path, "schedule.steps=2")
    directory = train(recipes.load("speech_16k", small, tiny=True), progress=False)
    assert directory == tmp_path / "speech-16k-tiny"
    assert not (tmp_path / recipes.load("speech_16k").model.name).exists()
    with pytest.raises(ConfigError, match="holds a run with another model"):
        train(recipes.load("speech_16k", [*small, "model.name=speech-16k-tiny"]), progress=False)


def test_a_recipe_is_its_plain_values():
    for name in RECIPES:
        recipe = recipes.load(name)
        assert recipes.from_dict(recipes.to_dict(recipe)) == recipe
