"""A process that only encodes or only decodes gives the weights of the other half back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import codec
from codec import hub


@pytest.fixture
def wav():
    return 0.3 * torch.randn(1, 1, 1700, generator=torch.Generator().manual_seed(0))


def bytes_of(network) -> int:
    return sum(value.numel() for value in network.state_dict().values() if not value.is_meta)


def test_without_the_decoder_the_same_tokens_with_both_fingerprints(any_model, wav):
    expected, half = any_model.encode(wav), copy.deepcopy(any_model)
    half.release("decoder")
    tokens = half.encode(wav)
    assert torch.equal(tokens.codes, expected.codes) and tokens.spec == expected.spec
    assert bytes_of(half.decoder) == 0 and half.device == any_model.device
    with pytest.raises(ValueError, match="weights of the decoder were released: load the model again"):
        half.decode(tokens)


def test_without_the_encoder_the_same_sound(any_model, wav):
    tokens, half = any_model.encode(wav), copy.deepcopy(any_model)
    half.release("encoder")
    assert torch.equal(half.decode(tokens), any_model.decode(tokens))
    assert bytes_of(half.encoder) == 0 and half.spec == any_model.spec
    with pytest.raises(ValueError, match="weights of the encoder were released"):
        half.encode(wav)
    with pytest.raises(ValueError, match="part='quantizer': there is encoder and decoder"):
        half.release("quantizer")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_loaded_without_a_half_it_is_the_model_of_which_that_half_was_released(any_model, wav, part, tmp_path, monkeypatch):
    codec.save(any_model, tmp_path, torch.float32)
    whole, filled = codec.load(tmp_path), []
    fill = hub._fill
    monkeypatch.setattr(hub, "_fill", lambda own, path: (filled.extend(own), fill(own, path)))
    half = codec.load(tmp_path, without=part)
    other = {"encoder": "decoder", "decoder": "encoder"}[part]
    assert {name.split(".")[0] for name in filled} >= {other} and not any(name.startswith(part + ".") for name in filled)
    assert bytes_of(getattr(half, part)) == 0 and bytes_of(getattr(half, other)) == bytes_of(getattr(whole, other))
    assert half.spec == whole.spec
    tokens = whole.encode(wav)
    if part == "decoder":
        assert torch.equal(half.encode(wav).codes, tokens.codes)
    else:
        assert torch.equal(half.decode(tokens), whole.decode(tokens))
    with pytest.raises(ValueError, match=f"weights of the {part} were released"):
        half.encode(wav) if part == "encoder" else half.decode(tokens)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_of_the_half_that_is_not_wanted_are_checked_all_the_same(any_model, part, tmp_path):
    codec.save(any_model, tmp_path, torch.float32)
    tensors = load_file(tmp_path / "model.safetensors")
    name = [name for name in tensors if name.startswith(part + ".")][-1]
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"no weights .NaN, infinite or not floating-point.: {name}"):
        codec.load(tmp_path, without=part)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("way", [lambda model: pickle.loads(pickle.dumps(model)), lambda model: model.to("cpu").cpu()])
def test_a_half_is_copied_and_moved_like_any_model(any_model, wav, part, way):
    half, tokens = copy.deepcopy(any_model), any_model.encode(wav)
    half.release(part)
    half = way(half)
    assert half.spec == any_model.spec and bytes_of(getattr(half, part)) == 0
    if part == "decoder":
        assert torch.equal(half.encode(wav).codes, tokens.codes)
    else:
        assert torch.equal(half.decode(tokens), any_model.decode(tokens))
    with pytest.raises(ValueError, match=f"weights of the {part} were released"):
        half.encode(wav) if part == "encoder" else half.decode(tokens)
    with pytest.raises(ValueError, match="torch.float16"):
        half.half().encode(wav)


def test_without_both_halves_nothing_is_coded(any_model, wav):
    none = copy.deepcopy(any_model)
    none.release("encoder")
    none.release("decoder")
    assert none.spec == any_model.spec
    with pytest.raises(ValueError, match="weights of the encoder were released"):
        none.encode(wav)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_half_is_not_saved(any_model, part, tmp_path):
    half = copy.deepcopy(any_model)
    half.release(part)
    with pytest.raises(ValueError, match=f"weights of the {part} were released: load the model again to save it"):
        codec.save(half, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_ours_that_a_program_makes_gives_the_half_back_too(any_model, wav, tmp_path):
    codec.save(any_model, tmp_path, torch.float32)
    (tmp_path / "mine.py").write_text(
        f"import codec\ndef model():\n    return codec.load({str(tmp_path)!r}).train()\n"
    )
    half = codec.load(f"{tmp_path}/mine.py:model", without="decoder")
    assert not half.training and bytes_of(half.decoder) == 0
    assert torch.equal(half.encode(wav).codes, any_model.encode(wav).codes)


def test_a_half_that_there_is_not():
    with pytest.raises(ValueError, match="without='both': there is encoder and decoder"):
        codec.load(without="both")


def test_long_audio_is_not_copied_whole(any_model):
    """Every network is given blocks, and what comes back is the memory that was filled."""
    seen, frame = [], any_model.frame_size
    hook = any_model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].untyped_storage().data_ptr()))
    wav = 0.3 * torch.randn(1, 1, 1100 * frame)
    try:
        tokens = any_model.encode(wav)
    finally:
        hook.remove()
    assert len(seen) == 3 and seen[0] == wav.untyped_storage().data_ptr()
    assert any_model.decode(tokens).untyped_storage().nbytes() == 4 * wav.numel()


def test_samples_that_are_not_finite_are_refused(any_model):
    for bad in (float("nan"), float("inf"), -float("inf")):
        wav = torch.zeros(400)
        wav[123] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            any_model.encode(wav)
