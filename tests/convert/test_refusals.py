"""What is said of weights that do not fit, whatever tensor is wrong, and weights in shards."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from codec.cli import main
from codec.config import ConfigError
from codec.convert import convert, encodec, mimi
from codec.convert.original import unpickle

transformers = pytest.importorskip("transformers")

UNUSED = ("inited", "initialized", "cluster_size", "embed_avg")  # only their training has them


def small_encodec():
    return transformers.EncodecModel(transformers.EncodecConfig(
        num_filters=2, hidden_size=6, upsampling_ratios=[3, 2], codebook_size=8, sampling_rate=6000, target_bandwidths=[9.0],
    ))


def small_mimi():
    return transformers.MimiModel(transformers.MimiConfig(
        num_filters=2, hidden_size=16, upsampling_ratios=[3, 2], codebook_size=8, codebook_dim=6, num_quantizers=3,
        vector_quantization_hidden_dimension=6, num_hidden_layers=1, intermediate_size=20, num_attention_heads=4,
        num_key_value_heads=2, upsample_groups=4, sliding_window=5,
    ))


@pytest.fixture(scope="module", params=[(small_encodec, encodec), (small_mimi, mimi)], ids=["encodec", "mimi"])
def saved(request, tmp_path_factory):
    """Settings and tensors as `transformers` has written them, and who reads them."""
    make, family = request.param
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("saved")
    make().save_pretrained(directory)
    return json.loads((directory / "config.json").read_text()), load_file(directory / "model.safetensors"), family


@pytest.mark.parametrize("change", [
    lambda value: torch.ones(*(size + 1 for size in value.shape)), lambda value: torch.tensor(1.0),
    lambda value: value[None],
], ids=["larger", "scalar", "one axis more"])
def test_every_tensor_of_another_shape_is_named(saved, change):
    config, tensors, family = saved
    family.read(config, tensors)
    for name, value in tensors.items():
        changed = change(value)
        if name.endswith(UNUSED) or changed.shape == value.shape:
            continue
        with pytest.raises(ConfigError) as error:
            family.read(config, tensors | {name: changed})
        assert name in str(error.value) and "\n" not in str(error.value), (name, str(error.value))


def test_every_missing_tensor_is_named(saved):
    config, tensors, family = saved
    for name in tensors:
        if not name.endswith(UNUSED):
            with pytest.raises(ConfigError, match=f"missing {name}"):
                family.read(config, {other: value for other, value in tensors.items() if other != name})


class Evil:
    def __reduce__(self):
        return print, ("code from a pickle ran",)


def test_a_refused_pickle_tells_what_is_in_it(tmp_path, capsys):
    """And not torch's advice, which is to load it all the same."""
    torch.save({"weight": torch.zeros(2), "more": Evil()}, tmp_path / "a.pt")
    with warnings.catch_warnings(), pytest.raises(ConfigError, match="print was not an allowed global") as error:
        warnings.simplefilter("error")
        unpickle(tmp_path / "a.pt")
    assert "Re-running" not in str(error.value) and "ran" not in capsys.readouterr().out


@pytest.fixture
def shards(tmp_path):
    torch.manual_seed(0)
    model = small_encodec()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    return tmp_path / "shards"


def test_shards_are_the_whole(shards, tmp_path, capsys):
    assert len(list(shards.glob("model-*.safetensors"))) > 2 and not (shards / "model.safetensors").exists()
    assert convert(shards).spec == convert(tmp_path / "whole").spec
    assert main(["convert", str(shards), str(tmp_path / "out")]) == 0 and "6 kHz" in capsys.readouterr().out


def index_of(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def cut(folder):
    shard = next(folder.glob("model-00002-*"))
    shard.write_bytes(shard.read_bytes()[:200])


def lose_a_tensor(folder):
    tensors = load_file(shard := next(folder.glob("model-00002-*")))
    tensors.popitem()
    save_file(tensors, shard)


@pytest.mark.parametrize("spoil, problem", [
    (lambda folder: next(folder.glob("model-00002-*")).unlink(), "files that are not there: model-00002-of"),
    (cut, "not readable as safetensors"),
    (lose_a_tensor, "missing "),
    (lambda folder: index_of(folder, lambda places: places.update(more="../whole/model.safetensors")), "outside its folder"),
    (lambda folder: index_of(folder, lambda places: places.update(more=3)), "not a readable index|outside its folder"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("[" * 9), "not a readable index"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "not a readable index"),
])
def test_spoilt_shards_are_refused(shards, tmp_path, spoil, problem):
    spoil(shards)
    with pytest.raises(ConfigError, match=problem):
        convert(shards)
    assert main(["convert", str(shards), str(tmp_path / "out")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "whole"]
