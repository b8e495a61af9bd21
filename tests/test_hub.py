from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from small_models import make_config, make_model, make_seanet_config
from safetensors.torch import load_file, save_file

import codec
from codec import hub
from codec.config import ConfigError
from codec.convert import convert
from codec.nn.convnext import ConvNeXtBlock
from quantizers.half_weights import pack


@pytest.fixture()
def saved(tmp_path, tiny_model):
    hub.save(tiny_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("config", [make_config(), make_seanet_config()], ids=["convnext", "seanet"])
def test_what_is_saved_is_loaded(tmp_path, config):
    model = make_model(config)
    hub.save(model, tmp_path / "a" / "b")
    loaded = codec.load(tmp_path / "a" / "b")
    assert loaded.config == config and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    hub.save(loaded, tmp_path / "again")  # fp16 once is fp16 for ever
    assert codec.load(str(tmp_path / "again")).spec == loaded.spec
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["config.json", "model.safetensors"]


def test_a_loaded_model_is_ready_to_run_live(saved):
    """Weights are laid out by `load`, not in the first moment of a stream."""
    if pack(torch.ones(2, 2), None) is None:
        pytest.skip("this torch has no FBGEMM")
    model = codec.load(saved)
    blocks = [part for part in model.modules() if isinstance(part, ConvNeXtBlock)]
    inside = {layer for block in blocks for layer in (block.expand, block.project)}  # laid out with their blocks
    layers = [part for part in model.modules() if hasattr(part, "_half") and part not in inside]
    laid, kept = [block._laid for block in blocks], [layer._half._kept for layer in layers]
    assert laid and all(one.usable for one in laid) and kept and all(pack is not None for _, pack in kept)
    with model.stream() as stream:
        stream.decode(stream.encode(torch.zeros(1, 1, 3 * model.frame_size)))
    assert all(block._laid is one for block, one in zip(blocks, laid))
    assert all(layer._half._kept is one for layer, one in zip(layers, kept))
    assert not any(layer._half._kept for layer in inside)  # their weights are in memory once


def test_scalar_quantizers_saved_before_they_had_contexts_load(tmp_path):
    config = make_config().to_dict() | {"quantizer": {"name": "fsq", "num_codebooks": 1, "codebook_size": 64}}
    model = codec.Codec(codec.config.CodecConfig.from_dict(config)).eval()
    hub.save(model, tmp_path)
    tensors = load_file(tmp_path / hub.WEIGHTS)
    del tensors["quantizer.cells"]
    save_file(tensors, tmp_path / hub.WEIGHTS)
    loaded = codec.load(tmp_path).quantizer
    codes = torch.randint(64, (1, 1, 50))
    assert torch.equal(loaded.cells, model.quantizer.cells)
    assert torch.equal(loaded.encode(loaded.decode(codes)), codes)


def test_trainers_of_codebooks_are_not_saved(tmp_path):
    model = make_model(make_config())
    model.quantizer.prepare_training(frames_per_step=100)
    hub.save(model, tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "trainer" in name]
    assert codec.load(tmp_path).num_codebooks == 4


def test_bad_weights_are_not_saved_and_the_old_ones_stay(saved):
    before = (saved / "model.safetensors").read_bytes()
    for bad in (float("nan"), float("inf"), 1e6):
        model = make_model(make_config())
        model.encoder.out.bias[0] = bad
        with pytest.raises(ValueError, match="NaN or too large for fp16: encoder.out.bias"):
            hub.save(model, saved)
    assert (saved / "model.safetensors").read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path, tiny_model):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        hub.save(tiny_model, tmp_path / "file")


def test_loading_leaves_the_random_numbers_alone(saved):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    codec.load(saved)
    assert torch.equal(torch.rand(4), expected)


def test_loading_imports_no_compiler(saved):
    """The meta device can pull in sympy and half of torch's compiler, which takes two seconds."""
    program = f"import codec, sys; codec.load({str(saved)!r}); print([m for m in ('sympy', 'lightning') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Refusals


@pytest.mark.parametrize("name, message", [
    ("no-such-model", "no model is named 'no-such-model'"),
    ("", "config.json and model.safetensors missing"),
    ("../..", "missing"),
    ("./x/y", "no model is named"),
])
def test_names_of_nothing_are_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        codec.load(name)


def change_weights(directory, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("encoder.out.bias"), "missing encoder.out.bias"),
    (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
    (lambda t: t.update({"encoder.out.bias": torch.zeros(5)}), r"encoder.out.bias is \(5,\) instead of \(12,\)"),
    (lambda t: t.update({"encoder.out.bias": torch.zeros(12, dtype=torch.int32)}), "no weights .*encoder.out.bias"),
    (lambda t: t.update({"encoder.out.bias": torch.full((12,), torch.nan)}), "no weights .*encoder.out.bias"),
    (lambda t: t["quantizer.codebooks"].fill_(torch.inf), "no weights .*quantizer.codebooks"),
    (lambda t: t.update({"encoder.out.bias": torch.full((12,), 1e300, dtype=torch.float64)}), "no weights .*encoder.out.bias"),
    (lambda t: t.update({"encoder.out.bias": torch.zeros(12, dtype=torch.complex64)}), "no weights .*encoder.out.bias"),
])
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    change_weights(saved, change)
    with pytest.raises(ConfigError, match=message):
        codec.load(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_other_precisions_are_weights_too(saved, dtype):
    change_weights(saved, lambda t: t.update({name: value.to(dtype) for name, value in t.items()}))
    assert codec.load(saved).encoder.out.bias.dtype == torch.float32


def test_files_that_are_no_weights_are_refused(saved):
    whole = (saved / "model.safetensors").read_bytes()
    for content in (b"", b"x" * 100, whole[:-10], b"\xff" * 8 + whole[8:]):
        (saved / "model.safetensors").write_bytes(content)
        with pytest.raises(ConfigError, match="not readable as safetensors"):
            codec.load(saved)


@pytest.mark.parametrize("without", [None, "encoder", "decoder"])
def test_every_tensor_that_does_not_fit_is_named(saved, without):
    tensors = load_file(saved / "model.safetensors")
    missing, (bent, *_) = sorted(tensors)[:9], sorted(tensors)[9:]
    kept = {name: value for name, value in tensors.items() if name not in missing}
    save_file({**kept, bent: torch.zeros(3, 1, 7), "more": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(ConfigError) as refused:
        codec.load(saved, without=without)
    assert all(f"missing {name};" in str(refused.value) for name in missing)
    assert f"unexpected more; {bent} is (3, 1, 7) instead of {tuple(tensors[bent].shape)}" in str(refused.value)


@pytest.mark.parametrize("part, values", [
    ("encoder", {"hidden": 16_384, "channels": 4096, "blocks": 64}),
    ("quantizer", {"num_codebooks": 256, "codebook_size": 65_536}),
    ("decoder", {"fine_channels": 4096, "fine_hidden": 16_384, "fine_blocks": 64}),
])
def test_a_configuration_of_terabytes_costs_nothing(saved, part, values):
    config = json.loads((saved / "config.json").read_text())
    config[part].update(values)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="does not fit its config.json"):
        codec.load(saved)


@pytest.mark.parametrize("part, values", [("encoder", {"window": 321}), ("decoder", {"upsample": 3}), ("decoder", {"delay": 0})])
def test_a_configuration_that_cannot_be_built_is_refused(saved, part, values):
    config = json.loads((saved / "config.json").read_text())
    config[part].update(values)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="describes no model that can be built"):
        codec.load(saved)


def test_what_is_ours_already_is_not_converted(saved):
    with pytest.raises(ConfigError, match="is a model of this project already: codec.load reads it"):
        convert(saved)
