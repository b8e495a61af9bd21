"""examples/lm: trains, scores and continues; resumes to the same bits; the network sees only what came before."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec import hub
from codec.lm import patterns

pytest.importorskip("transformers")
FOLDER = Path(__file__).parents[2] / "examples" / "lm"
OTHERS = ("compare", "data", "network", "score")


@pytest.fixture
def example(monkeypatch):
    """train.py under a name of its own: there are more of that name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in OTHERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("lm_example", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in OTHERS:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def corpus(tiny_model, tmp_path_factory) -> list[str]:
    """The command line but for --out."""
    folder = tmp_path_factory.mktemp("corpus")
    hub.save(tiny_model, folder / "codec")
    for part, count in (("train", 4), ("heldout", 3)):
        (folder / part).mkdir()
        for number in range(count):
            wav = 0.3 * np.random.default_rng(number + 10 * count).standard_normal(8000 + 777 * number)
            soundfile.write(folder / part / f"{number}.wav", wav, 16_000)
    return [
        "--train", str(folder / "train"), "--heldout", str(folder / "heldout"), "--codec", str(folder / "codec"), "--steps", "6",
        "--batch", "2", "--length", "40", "--layers", "1", "--width", "16", "--continue", "2", "--seconds", "0.1",
    ]


def test_end_to_end_and_resumed(example, corpus, tiny_model, tmp_path, monkeypatch, capsys):
    example.main([*corpus, "--out", str(tmp_path / "whole")])
    monkeypatch.setattr(example, "EVERY", 2)
    crops = example.crops

    def cut_off(*args):
        if args[-1] == 3:
            raise KeyboardInterrupt
        return crops(*args)

    monkeypatch.setattr(example, "crops", cut_off)
    with pytest.raises(KeyboardInterrupt):
        example.main([*corpus, "--out", str(tmp_path / "cut")])
    assert torch.load(tmp_path / "cut" / "lm.pt", weights_only=True)["step"] == 2
    monkeypatch.setattr(example, "crops", crops)
    example.main([*corpus, "--out", str(tmp_path / "cut")])

    whole, cut = (torch.load(tmp_path / name / "lm.pt", weights_only=True)["lm"] for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
    scores, again = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("whole", "cut"))
    assert scores == again
    assert scores["frames"] == 3 * 40 and list(scores["recordings"]) == ["0.wav", "1.wav", "2.wav"]
    for name in ("unigram", "bigram", "4-gram", "language model"):
        first, every = scores[name]["first"], scores[name]["all"]
        assert len(scores[name]["a code"]) == 4 and 0 < first["low"] <= first["mean"] <= first["high"] < every["mean"]
    lm = scores["language model"]
    assert lm["all"]["mean"] == pytest.approx(tiny_model.frame_rate * sum(lm["a code"]), rel=1e-3)
    assert sum(lm["a code"]) == pytest.approx(np.sum([each["bits"] for each in scores["recordings"].values()]) / 120, rel=1e-3)
    written = sorted((tmp_path / "whole").glob("continued-*.wav"))
    assert [path.name for path in written] == ["continued-0.wav", "continued-1.wav"]
    frames = min(round(3 * tiny_model.frame_rate), -(-8000 // tiny_model.frame_size)) + round(0.1 * tiny_model.frame_rate)
    assert soundfile.info(written[0]).frames == frames * tiny_model.frame_size

    compare = importlib.import_module("compare")
    compare.main([str(tmp_path / "whole"), str(tmp_path / "cut")])
    said = capsys.readouterr().out
    assert f"| | language model | {lm['first']['mean']:.0f} [" in said and "all: +0.0 bit/s [+0.0, +0.0]" in said

    with pytest.raises(SystemExit, match=r"other settings \(seed\): choose another --out"):
        example.main([*corpus, "--out", str(tmp_path / "cut"), "--seed", "1"])
    with pytest.raises(SystemExit, match="holds the tokens of"):
        example.main([*corpus, "--out", str(tmp_path / "cut"), "--train", corpus[3]])


def test_training_lowers_the_loss(example, tmp_path):
    line = f"--train - --heldout - --out {tmp_path} --steps 40 --batch 4 --length 32 --rate 1e-2"
    args = example.parse(line.split())
    pattern = patterns.build("delay", 2, codebook_sizes=8)
    codes = torch.arange(200) % 8
    long = example.stream({"a": torch.stack([codes, (codes + 3) % 8])}, pattern, 0)
    torch.manual_seed(0)
    lm = example.TokenLM(2, 8, layers=1, width=32)
    example.train(lm, long, args)
    with torch.no_grad():
        assert lm.losses(long[None, :, :32]).mean() < 0.3  # of 2.1


def test_the_network_sees_only_what_came_before(example):
    torch.manual_seed(0)
    lm = example.TokenLM(3, 10, layers=2, width=32).eval()
    steps = torch.randint(11, (2, 3, 20))
    changed = steps.clone()
    changed[..., 12] = (changed[..., 12] + 1) % 11
    with torch.no_grad():
        a, b = lm(steps), lm(changed)
    assert torch.allclose(a[:, :, :12], b[:, :, :12], atol=1e-6) and not torch.allclose(a[:, :, 12:], b[:, :, 12:], atol=1e-3)


def test_continuations_keep_the_prompt_and_are_those_without_a_cache(example):
    torch.manual_seed(0)
    lm = example.TokenLM(3, 10, layers=2, width=32).eval()
    pattern = patterns.build("delay", 3, codebook_sizes=10)
    prompt = torch.randint(10, (3, 7))
    written = lm.continued(prompt, 9, pattern, temperature=1.0, top=1)
    assert written.shape == (3, 16) and torch.equal(written[:, :7], prompt)
    steps = torch.cat([torch.full((1, 3, 1), 10), pattern.apply(written[None])], 2)
    with torch.no_grad():
        likeliest = lm(steps)[..., :-1, :].argmax(-1)
    drawn = torch.cat([torch.zeros(3, 7), torch.ones(3, 9)], 1)[None].long()
    where = pattern.apply(drawn) == 1
    assert torch.equal(steps[..., 1:][where], likeliest[where])
