"""`codec convert`."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import codec

transformers = pytest.importorskip("transformers")


@pytest.fixture
def published(tmp_path):
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        hidden_size=8, num_filters=2, upsampling_ratios=[4, 2], codebook_size=16, target_bandwidths=[24.0]
    )
    model = transformers.EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        model.save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def test_writes_a_model_of_ours_with_the_same_tokens(run, published, tmp_path):
    result = run("convert", "published", "ours")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("ours: encodec-24k, 24 kHz, 3000 frames/s, 2 codebooks of 16") and "float32" in result.out
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]
    assert codec.load("ours").spec == codec.load("published").spec
    assert all(value.dtype == torch.float32 for value in load_file("ours/model.safetensors").values())
    assert run("info", "ours").code == 0


def test_weights_of_half_precision_stay_so(run, published):
    from codec import hub

    run("convert", "published", "whole")
    hub.save(codec.load("whole"), "half")
    assert hub.exact_dtype(codec.load("half")) == torch.float16 and hub.exact_dtype(codec.load("whole")) == torch.float32


def test_nothing_is_left_half_converted(run, published, tmp_path):
    tensors = load_file(published / "model.safetensors")
    del tensors["encoder.layers.0.conv.bias"]
    save_file(tensors, published / "model.safetensors")
    result = run("convert", "published", "ours")
    assert result.code == 1 and "missing encoder.layers.0.conv.bias" in result.err and result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_what_is_there_is_not_overwritten(run, published, tmp_path):
    (tmp_path / "ours").mkdir()
    assert run("convert", "published", "ours").code == 0  # an empty folder will do
    before = (tmp_path / "ours" / "config.json").read_bytes()
    result = run("convert", "published", "ours")
    assert result.code == 1 and "name a new folder" in result.err
    assert (tmp_path / "ours" / "config.json").read_bytes() == before
    assert run("convert", "published", "no/where").code == 1
    result = run("convert", "ours", "again")
    assert result.code == 1 and "model of this project already" in result.err
