"""README's Python blocks run as they stand, and its first two shell blocks are what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile
import torch

import codec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav, _ = soundfile.read(ROOT / "examples/speech.flac", dtype="float32")
    names = {"wav": torch.from_numpy(wav), "chunk": torch.from_numpy(wav[:1000]).reshape(1, 1, -1)}
    block = blocks("python")[0]
    exec(compile(block, "README.md", "exec"), names)
    assert names["audio"].shape == (1, 1, len(wav))
    assert names["coarse"].num_codebooks == 3
    assert (tmp_path / "speech.tok").is_file()


def test_a_language_model_continues_a_prompt_in_fifteen_lines():
    transformers = pytest.importorskip("transformers", reason='needs: pip install "neural-codec-toolkit[lm]"')
    block, played = blocks("python")[1], []
    code = [line for line in block.splitlines() if line]
    assert len(code) <= 15
    torch.manual_seed(0)
    lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=8 * 1024 + 3, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=None, pad_token_id=8 * 1024 + 2,
    )).eval()
    wav, _ = soundfile.read(ROOT / "examples/speech.flac", dtype="float32", frames=3200)
    names = {"wav": wav, "lm": lm, "play": played.append}
    exec(compile(block, "README.md", "exec"), names)
    assert names["codes"].shape[2] > 10 and torch.equal(names["codes"][..., :10], names["prompt"])
    assert torch.equal(torch.cat(played), names["continued"][0, 0])


def test_the_model_in_the_box_recognisably_codes_speech():
    """Not a measure of quality: it fails when weights and code no longer fit each other."""
    stoi = pytest.importorskip("pystoi", reason='needs: pip install "neural-codec-toolkit[eval]"').stoi
    wav, rate = soundfile.read(ROOT / "examples/speech.flac", dtype="float32")
    model = codec.load("speech-16k")
    tokens = model.encode(wav, rate)
    scores = [stoi(wav, model.decode(tokens.truncate(k))[0, 0].numpy(), rate) for k in (1, 3, 8)]
    assert scores[0] > 0.5 and scores[0] < scores[1] < scores[2] and scores[2] > 0.75


def test_the_first_commands_install_and_test():
    install, test = blocks("sh")[:2]
    assert "pip install" in install and "codec encode examples/speech.flac" in install
    assert "pytest" in test and (ROOT / "examples/speech.flac").is_file()
