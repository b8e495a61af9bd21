"""Training with semantic targets, from a feature store to a model that needs no teacher."""

from __future__ import annotations

import csv

import pytest
import torch

import codec
import tiny_recipe as tiny
from codec.config import ConfigError
from codec.semantic.alignment import Word
from codec.semantic.features import FeatureStore, content_key
from codec.semantic.transcripts import Skip, Transcript, Transcripts
from codec.training import recipe as recipes
from codec.training.data import DataError, decode
from codec.training.run import train

pytestmark = pytest.mark.filterwarnings("ignore:target .*do not train it")
FUSED = {**tiny.ENCODER, "name": "fused", "sound_dim": 6, "content_dim": 5, "content_channels": 8, "content_hidden": 16, "content_blocks": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def features(data, tmp_path_factory):
    """Of a teacher who hears how loud each frame of 10 ms is; the last file has none."""
    folder = tmp_path_factory.mktemp("features")
    store = FeatureStore(folder, "loudness", 100.0, 5, "abc123")
    for path in sorted(data.glob("*.wav"))[:2]:
        samples = decode(path, 16_000)
        frames = torch.from_numpy(samples.astype("float32") / 32767).unfold(0, 160, 160).square().mean(1).sqrt()
        store.add(content_key(samples), torch.stack([frames.pow(p + 1) for p in range(5)], 1))
    store.flush()
    return folder


def values(data, features, out, targets, **semantic):
    made = tiny.recipe(data, out)
    made["semantic"] = {"features": str(features), "targets": targets, **semantic}
    made["schedule"]["learning_rate"] = 3e-3
    return made


def run(values) -> dict:
    return torch.load(train(recipes.from_dict(values), progress=False) / "last.ckpt", weights_only=True)


def logged(out, name) -> list[float]:
    path = max((out / "tiny" / "logs").glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    return [float(row[name]) for row in csv.DictReader(open(path)) if row.get(name)]


TARGETS = [
    {"teacher": "loudness", "codebooks": [1], "weight": 5.0, "loss": "d_axis"},
    {"teacher": "loudness", "codebooks": [1, 2, 3], "weight": 1.0, "loss": "mse", "head": "conv", "shift": 1},
    {"teacher": "loudness", "codebooks": [1, 3], "combine": "each", "loss": "cosine"},
]


def test_targets_are_trained_logged_and_not_saved(data, features, tmp_path):
    made = values(data, features, tmp_path, TARGETS)
    made["schedule"]["steps"] = 40
    checkpoint = run(made)
    losses = logged(tmp_path, "semantic_2")
    assert len(losses) == 39 and sum(losses[-5:]) < 0.5 * sum(losses[:5])  # from the step on in which codes begin
    assert len(logged(tmp_path, "semantic_1")) == 39
    assert any(name.startswith("semantic.") for name in checkpoint["state_dict"])
    model = codec.load(tmp_path / "tiny" / "model")
    assert not any("semantic" in name for name in model.state_dict())
    assert model.encode(torch.randn(1600)).codes.shape == (1, 3, 10)


def test_resumed_equals_uninterrupted_bitwise(data, features, tmp_path):
    """The heads, their part of the optimiser, and the rows that are read."""
    def made(name, steps):
        return values(data, features, tmp_path / name, TARGETS) | {
            "schedule": {"steps": steps, "warmup": 2, "quantize_from": 1, "dropout_weights": [1.0, 1.0, 1.0], "decay": 0.0}
        }

    run(made("parts", 4))
    resumed, whole = run(made("parts", 8)), run(made("whole", 8))
    assert resumed["state_dict"].keys() == whole["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    states = [one["optimizer_states"][0]["state"] for one in (whole, resumed)]
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][key]) for key, value in state.items())


def test_a_student_is_trained_first_and_alone(data, features, tmp_path):
    made = values(data, features, tmp_path, [{"teacher": "loudness", "source": "content", "loss": "mse", "weight": 10.0}],
                  student_first=12)
    made["model"]["encoder"] = FUSED
    made["schedule"]["steps"] = 12
    run(made)
    losses = logged(tmp_path, "semantic_1")
    assert len(losses) == 12 and losses[-1] < losses[0]
    made["schedule"]["steps"] = 20
    checkpoint = run(made)
    assert checkpoint["state_dict"]["steps_done"] == 20
    model = codec.load(tmp_path / "tiny" / "model")
    tokens = model.encode(torch.randn(1600))
    with model.stream() as stream:
        assert torch.equal(stream.encode(torch.zeros(1, 1, 160)), model.encode(torch.zeros(160)).codes)
    assert model.decode(tokens).shape == (1, 1, 1600)


@pytest.fixture(scope="module")
def transcripts(data, tmp_path_factory):
    """Each file says a letter of its own again and again; the last one has no transcript."""
    path = tmp_path_factory.mktemp("texts") / "t.jsonl"
    with Transcripts(path, write=True) as out:
        for number, file in enumerate(sorted(data.glob("*.wav"))):
            key, letter = content_key(decode(file, 16_000)), "ab"[number % 2]
            if number == 2:
                out.skip(key, Skip("silent"))
                continue
            words = tuple(Word(letter, 0.1 * n, 0.1 * n + 0.1) for n in range(15))
            out.add(key, Transcript(f"{letter} " * 15, words, seconds=1.5))
    return path


def spelling(transcripts) -> list[dict]:
    return [{"transcripts": str(transcripts), "codebooks": [1], "loss": "ctc", "weight": 2.0, "shift": 1}]


def test_letters_are_trained_without_a_teacher_and_what_has_none_is_counted(data, transcripts, tmp_path):
    made = values(data, "", tmp_path, spelling(transcripts))
    made["schedule"]["steps"] = 60
    with pytest.warns(UserWarning, match="target 1: 1 of 3 files of the training data have no text to spell"):
        run(made)
    losses = [loss for loss in logged(tmp_path, "semantic_1") if loss]  # 0 where a batch has no text
    assert len(losses) > 40 and sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert not any("semantic" in name for name in codec.load(tmp_path / "tiny" / "model").state_dict())


def test_letters_resume_bitwise(data, transcripts, tmp_path):
    def made(name, steps):
        return values(data, "", tmp_path / name, spelling(transcripts)) | {
            "schedule": {"steps": steps, "warmup": 2, "quantize_from": 1, "dropout_weights": [1.0, 1.0, 1.0], "decay": 0.0}
        }

    run(made("parts", 4))
    resumed, whole = run(made("parts", 8)), run(made("whole", 8))
    assert any(name.startswith("semantic.") for name in whole["state_dict"])
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_transcripts_that_are_of_no_use_are_refused(data, transcripts, tmp_path):
    with pytest.raises(ConfigError, match="entry 1: loss=ctc needs transcripts=FILE"):
        run(values(data, "", tmp_path, [{"loss": "ctc"}]))
    with pytest.raises(ConfigError, match="semantic.targets.1.transcripts: .*`codec transcribe` makes"):
        run(values(data, "", tmp_path, spelling(tmp_path / "none.jsonl")))
    keys = [content_key(decode(file, 16_000)) for file in sorted(data.glob("*.wav"))]
    for name, transcript, words in (
        ("empty", Transcript(""), "no file of the training data has text to spell: .* has no text with words in letters"),
        ("untimed", Transcript("a b"), "3 texts in .* have no times: run codec transcribe with --asr or --align"),
    ):
        with Transcripts(tmp_path / f"{name}.jsonl", write=True) as out:
            for key in keys:
                out.add(key, transcript)
        with pytest.raises(DataError, match=words):
            run(values(data, "", tmp_path, spelling(tmp_path / f"{name}.jsonl")))


def test_errors_say_what_is_missing(data, features, tmp_path):
    with pytest.raises(ConfigError, match="distils loudness: add semantic.features=FOLDER"):
        run(values(data, "", tmp_path, TARGETS[:1]))
    with pytest.raises(ConfigError, match="semantic.features: .*no stores are named hubert"):
        run(values(data, features, tmp_path, [{"teacher": "hubert"}]))
    with pytest.raises(ConfigError, match="has no student: take the encoder `fused`"):
        run(values(data, features, tmp_path, [{"teacher": "loudness", "source": "content"}]))
    with pytest.raises(ConfigError, match="entry 1.*d_axis, t_axis"):
        run(values(data, features, tmp_path, [{"teacher": "loudness", "loss": "l2"}]))
    with pytest.raises(ConfigError, match="entry 1 has no setting layer"):
        run(values(data, features, tmp_path, [{"teacher": "loudness", "layer": 3}]))
    with pytest.raises(ConfigError, match="semantic.targets has none"):
        run(values(data, features, tmp_path, TARGETS[:1], student_first=5))
    run(values(data, features, tmp_path, TARGETS[:1]))
    with pytest.raises(ConfigError, match="another targets"):
        run(values(data, features, tmp_path, TARGETS[1:2]))
