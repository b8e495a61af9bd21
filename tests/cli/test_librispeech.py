"""The commands of docs/training.md for LibriSpeech-960, read from there, on a miniature with tiny teachers."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import codec
from codec.cli import build_parser
from codec.semantic.features import FeatureStore
from codec.semantic.transcripts import Transcripts
from codec.training import recipe as recipes
from codec.training.module import CodecTraining

transformers = pytest.importorskip("transformers")
pytest.importorskip("librosa", reason='the mel loss needs: pip install "neural-codec-toolkit[train]"')

import huggingface_hub
import tiny_teachers

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
SMALL = [  # behind the documented command
    "--tiny", "schedule.steps=3", "schedule.quantize_from=0", "schedule.init_batches=2", "data.batch_size=2", "data.cache=cache",
    "run.accelerator=cpu", "run.devices=1", "run.precision=32-true", "run.threads=1", "run.log_every=1",
]
SECTION = "LibriSpeech-960: X-Codec and DM-Codec"


def documented(heading: str) -> list[list[str]]:
    """The arguments of every `codec` under a heading of the section, loops over parts unrolled."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {SECTION}\n")[1].split("\n## ")[0]
    part = section.split(f"\n### {heading}\n")[1].split("\n### ")[0]
    commands = []
    for block in re.findall(r"^```\n(.*?)^```", part, re.M | re.S):
        for line in block.splitlines():
            loop = re.fullmatch(r"for i in ([\d ]+); do (codec .*) & done; wait", line)
            for i in loop[1].split() if loop else [""]:
                text = loop[2].replace("$((i-1))", str(int(i) - 1)).replace("$i", i) if loop else line
                words = shlex.split(text)
                if words[:1] == ["codec"]:
                    commands.append(words[1:])
    return commands


def on_cpu(words: list[str]) -> list[str]:
    """Without `--device cuda:1`, and small where it trains."""
    at = words.index("--device") if "--device" in words else len(words)
    return words[:at] + words[at + 2 :] + (SMALL if words[0] == "train" else [])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """libri/train, valid and test: speaker/chapter/*.flac and *.trans.txt."""
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    groups = {"train/train-clean-100": (19, 26), "train/train-other-500": (20,), "valid/dev-clean": (84,), "test/test-clean": (61,)}
    for group, speakers in groups.items():
        for speaker in speakers:
            folder = root / "libri" / group / str(speaker) / "198"
            folder.mkdir(parents=True)
            lines = []
            for number, text in enumerate(("THE CAT SAT", "UNHAPPY THE CAT")):
                name = f"{speaker}-198-{number:04d}"
                time = np.arange(24_000 + 4_000 * number) / 16_000
                wav = 0.3 * np.sin(2 * np.pi * (120 + speaker + 80 * time) * time) + 0.03 * rng.standard_normal(len(time))
                soundfile.write(folder / f"{name}.flac", wav, 16_000)
                lines.append(f"{name} {text}")
            (folder / f"{speaker}-198.trans.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Path]:
    """What the hub ids of the page stand for. This HuBERT is the one that x_codec has with --tiny."""
    root = tmp_path_factory.mktemp("hub")
    return {
        "facebook/hubert-base-ls960": tiny_teachers.save(
            root / "a", "hubert", hidden_size=24, num_attention_heads=3, intermediate_size=48, num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
        ),
        "google-bert/bert-base-uncased": tiny_teachers.save_bert(root / "b"),
        "facebook/wav2vec2-base-960h": tiny_teachers.save_ctc(root / "c"),
    }


@pytest.fixture
def beside(corpus, hub, tmp_path, monkeypatch) -> Path:
    """A working directory with libri/ and a hub."""
    (tmp_path / "libri").mkdir()
    for name in ("train", "valid", "test"):
        (tmp_path / "libri" / name).symlink_to(corpus / "libri" / name)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(hub[name]))
    return tmp_path


def logged(folder: Path, name: str) -> list[float]:
    rows = csv.DictReader(next((folder / "logs").glob("*/metrics.csv")).open())
    return [float(row[name]) for row in rows if row.get(name)]


@pytest.mark.filterwarnings("ignore:.*module.s. in eval mode")
def test_x_codec(beside, run, hub):
    for words in documented("X-Codec, one GPU"):
        result = run(*on_cpu(words))
        assert result.code == 0, result.err
    folder = beside / "runs" / "x-codec-16k-tiny"
    assert len(FeatureStore.open("libri/features", "hubert-base-ls960")) == 6
    assert len(logged(folder, "semantic_1")) == 3 and min(logged(folder, "semantic_1")) > 0
    hears = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    given = transformers.AutoModel.from_pretrained(hub["facebook/hubert-base-ls960"]).state_dict()
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    torch.testing.assert_close(hears[f"model.encoder.teacher.model.{name}"], given[name], rtol=0, atol=0)
    model = codec.load(folder / "model")
    speech, _ = soundfile.read(next(Path("libri/test").rglob("*.flac")), dtype="float32")
    assert model.encode(torch.from_numpy(speech)).codes.shape[1] == 8


@pytest.mark.filterwarnings("ignore:.*module.s. in eval mode")
def test_dm_codec(beside, run, monkeypatch):
    commands = documented("DM-Codec, one GPU")
    assert [words[0] for words in commands] == ["transcribe", "features", "features", "train", "transcribe"]
    for words in commands[:4]:  # the last one is for speech without texts
        result = run(*on_cpu(words))
        assert result.code == 0, result.err
    transcripts = Transcripts("libri/transcripts.jsonl")
    assert len(transcripts) == 6
    for _, transcript in transcripts.items():
        assert (transcript.source, transcript.timing) == ("given", "ctc") and transcript.words[-1].text in ("SAT", "CAT")
    folder = beside / "runs" / "dm-codec-tiny"
    for name in ("semantic_1", "semantic_2"):  # BERT, which has nothing to say in a crop without words, and HuBERT
        assert len(logged(folder, name)) == 3 and max(logged(folder, name)) > 0
    [words] = documented("Letters in the place of a text teacher")
    result = run(*on_cpu(words))
    assert result.code == 0, result.err
    assert len(logged(beside / "runs" / "dm-codec-letters", "semantic_1")) == 3
    for package in ("transformers", "tokenizers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, package, None)
    result = run("encode", str(next(Path("libri/test").rglob("*.flac"))), "a.tok", "--model", str(folder / "model"))
    assert result.code == 0, result.err
    assert run("decode", "a.tok", "a.wav", "--model", str(folder / "model")).code == 0


@pytest.mark.parametrize("system", ["X-Codec", "DM-Codec"])
def test_eight_processes_share_a_corpus(system, beside, run):
    """Every recording is done once, and training asks for eight devices."""
    commands = documented(f"{system}, eight GPUs")
    assert len(commands) == {"X-Codec": 9, "DM-Codec": 25}[system]
    for words in commands[:-1]:
        result = run(*on_cpu(words))
        assert result.code == 0, result.err
    stores = ["hubert-base-ls960"] + ["bert-base-uncased"] * (system == "DM-Codec")
    assert [len(FeatureStore.open("libri/features", name)) for name in stores] == [6] * len(stores)
    recipe = recipes.load(commands[-1][1], commands[-1][2:])
    assert recipe.run.devices == 8 and recipe.data.batch_size == {"X-Codec": 8, "DM-Codec": 6}[system]


def test_one_gpu_and_eight_train_the_same():
    """But for what a machine has: batch, steps and devices."""
    for system in ("X-Codec", "DM-Codec"):
        pages = [documented(f"{system}, {count}") for count in ("one GPU", "eight GPUs")]
        one, eight = (next(words for words in page if words[0] == "train") for page in pages)
        changed = ("data.batch_size", "run.devices", "schedule.steps")
        assert [w for w in one if not w.startswith(changed)] == [w for w in eight if not w.startswith(changed)]


def test_a_folder_with_another_name(beside, run, hub):
    """What does not fit a store's name is told, with the way out, which works."""
    assert run("features", "libri/train", "--teacher", str(hub["facebook/hubert-base-ls960"]), "--out", "features").code == 0
    command = ["train", "x_codec", "data.train=libri/train", "semantic.features=features", *SMALL]
    result = run(*command)
    assert result.code == 1 and result.err.count("\n") == 1
    assert "there is a-mean-" in result.err and "semantic.targets.1.teacher=NAME" in result.err
    assert recipes.load("x_codec", [*command[2:4], "semantic.targets.1.teacher=a"]).semantic.entries()[0].teacher == "a"
    for wrong, words in (("semantic.targets.2.teacher=a", "list of 1"), ("semantic.targets.0.teacher=a", "list of 1"),
                         ("semantic.targets.1=a", "targets is a value"), ("semantic.targets.x.teacher=a", "counted from 1")):
        with pytest.raises(ValueError, match=words):
            recipes.load("x_codec", [wrong])


def trained(*overrides: str) -> None:
    CodecTraining(recipes.load("x_codec", ["semantic.targets=[]", *overrides], tiny=True))


def test_an_encoder_is_given_its_teacher_once(beside, hub):
    folder = hub["facebook/hubert-base-ls960"]
    trained()  # a trial's is random
    trained(f"semantic.teacher={folder}")
    for overrides, words in (
        (["semantic.teacher="], "add semantic.teacher=NAME, a folder or hub id of a hubert"),
        (["semantic.teacher=nowhere"], "there is no folder nowhere"),
        ([f"semantic.teacher={hub['facebook/wav2vec2-base-960h']}"], "is a wav2vec2, and this encoder hears through a"),
        ([f"semantic.teacher={folder}", "model.encoder.teacher_layers=1"], "num_hidden_layers=2, and .*teacher_layers is 1"),
    ):
        with pytest.raises(ValueError, match=words):
            trained(*overrides)
    with pytest.raises(ValueError, match="hears through no teacher"):
        CodecTraining(recipes.load("dm_codec", ["semantic.targets=[]", f"semantic.teacher={folder}"], tiny=True))


def test_commands_of_the_evaluation_are_ones():
    """They need trained models: here their arguments alone are read."""
    commands = documented("Evaluation")
    assert [words[0] for words in commands] == ["transcribe", "probe", "probe", "sweep"]
    for words in commands:
        build_parser().parse_args(words)
    runs = {f"runs/{recipes.load(name).model.name}/best" for name in ("x_codec", "dm_codec")}
    assert set(commands[1][1:3]) == set(commands[2][1:3]) == runs
    assert {name.replace("@", "/") for name in build_parser().parse_args(commands[3]).models} == runs


@pytest.mark.parametrize("words", ["0/8", "9/8", "1", "a/b", "1/0"])
def test_parts_that_are_none(words, run):
    result = run("features", "libri", "--teacher", "a", "--out", "b", "--part", words)
    assert result.code == 2 and "1/8 to 8/8" in result.err


@pytest.mark.parametrize("package, remedy, words", [
    ("transformers", "[teachers]", "features libri/train --teacher facebook/hubert-base-ls960 --out out"),
    ("transformers", "[teachers]", "features libri/train --text-teacher bert/ --transcripts t.jsonl --out out"),
    ("transformers", "[teachers]", "transcribe libri/train --align facebook/wav2vec2-base-960h --out out.jsonl"),
    ("faster_whisper", "[eval]", "transcribe libri/train --asr base --out out.jsonl"),
    ("transformers", "[teachers]", "train x_codec --tiny data.train=libri/train data.cache=cache semantic.targets=[]"),
    ("lightning", "[train]", "train dm_codec --tiny data.train=libri/train data.cache=cache semantic.targets=[]"),
])
def test_a_package_that_is_not_there(package, remedy, words, beside, run, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    (beside / "t.jsonl").write_text(json.dumps({"key": "k", "text": "the cat"}) + "\n")
    result = run(*words.split())
    assert result.code == 1 and result.err.startswith("codec: ") and result.err.count("\n") == 1
    assert f'pip install "neural-codec-toolkit{remedy}"' in result.err
