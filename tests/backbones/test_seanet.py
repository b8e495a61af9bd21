"""SEANet as EnCodec and Mimi have it: mirrored starts, ragged ends, a transformer at frame rate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from codec.backbones import build_decoder, build_encoder, seanet
from codec.config import (
    CodecConfig, QuantizerConfig, SEANetDecoderConfig, SEANetEncoderConfig, SEANetTransformerDecoderConfig,
    SEANetTransformerEncoderConfig,
)
from codec.model import Codec

sys.path.append(str(Path(__file__).parent.parent / "nn"))
from streaming import stream  # noqa: E402

HOP = 24
SEANET = {"channels": 3, "residual_layers": 2, "conv_shortcut": True, "last_kernel_size": 5, "compress": 1}
TRANSFORMER = {"channels": 3, "transformer_layers": 2, "heads": 2, "hidden": 20, "attention_window": 9, "layer_scale": 0.5}


def config(kind: str, **changes) -> CodecConfig:
    if kind == "seanet":
        encoder = SEANetEncoderConfig(strides=(2, 3, 4), **(SEANET | changes), lstm_layers=1)
        changes.pop("ragged", None)
        decoder = SEANetDecoderConfig(strides=(4, 3, 2), **(SEANET | changes), lstm_layers=1)
    else:
        encoder = SEANetTransformerEncoderConfig(strides=(3, 4), **(TRANSFORMER | changes))
        changes.pop("ragged", None)
        decoder = SEANetTransformerDecoderConfig(strides=(4, 3), **(TRANSFORMER | changes))
    return CodecConfig(name="tiny", frame_size=HOP, dim=12, encoder=encoder, decoder=decoder,
                       quantizer=QuantizerConfig(num_codebooks=2, codebook_size=16))


def make(kind: str, **changes) -> Codec:
    torch.manual_seed(0)
    model = Codec(config(kind, **changes)).eval().requires_grad_(False)
    model.quantizer.codebooks *= model.encoder(0.3 * torch.randn(1, 1, 50 * HOP))[0].std()
    return model


@pytest.mark.parametrize("kind", ["seanet", "seanet_transformer"])
def test_settings_survive_json(kind):
    one = config(kind, padding="reflect", ragged=True)
    assert CodecConfig.from_dict(one.to_dict()) == one


@torch.no_grad()
@pytest.mark.parametrize("kind", ["seanet", "seanet_transformer"])
@pytest.mark.parametrize("padding, start", [("zeros", 1), ("replicate", 1), ("reflect", 5)])
def test_both_halves_stream(kind, padding, start):
    """After a start that can be mirrored: the last convolution of 5 inputs at frame rate, the transformer's at twice that."""
    model = make(kind, padding=padding)
    if padding == "reflect":
        assert model.encoder.start_frames == (start if kind == "seanet" else 2)
        assert model.decoder.start_frames == (7 if kind == "seanet" else 4)
    wav, latents = torch.randn(2, 1, 60 * HOP), torch.randn(2, 12, 60)
    for network, x, unit in ((model.encoder, wav, HOP), (model.decoder, latents, 1)):
        whole, _ = network(x)
        first = network.start_frames * unit
        head, state = network(x[..., :first])
        tail = stream(lambda part, past: network(part, state if past is None else past), x[..., first:], 2, unit=unit)
        torch.testing.assert_close(torch.cat([head, tail], 2), whole, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["seanet", "seanet_transformer"])
@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("length", [1, 11, HOP, 2 * HOP + 1, 9 * HOP + 13])
def test_ragged_ends_are_coded_alone_in_batches_and_live(kind, padding, length):
    model = make(kind, padding=padding, ragged=True)
    wav = torch.randn(3, 1, 12 * HOP + 5)
    lengths = [length, 12 * HOP + 5, max(1, length - 1)]
    tokens = model.encode(wav, lengths=lengths)
    for row, n in enumerate(lengths):
        alone = model.encode(wav[row, :, :n]).codes[0]
        assert alone.shape[1] == -(-n // HOP)
        assert torch.equal(tokens.codes[row, :, : alone.shape[1]], alone)
        with model.stream() as live:
            parts = [live.encode(part) for part in wav[row : row + 1, :, :n].split(7, 2)]
            assert torch.equal(torch.cat([*parts, live.flush()], 2)[0], alone)


@torch.no_grad()
def test_a_ragged_end_is_not_silence():
    """Every layer fills up what is missing by itself, so that zeros behind the signal give another last frame."""
    model, wav = make("seanet", ragged=True, padding="reflect"), torch.randn(1, 1, 10 * HOP - 5)
    padded = torch.nn.functional.pad(wav, (0, 5))
    ragged, silent = model.encoder(wav)[0], model.encoder(padded)[0]
    torch.testing.assert_close(ragged[..., :9], silent[..., :9], rtol=0, atol=1e-6)
    assert (ragged[..., 9] - silent[..., 9]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["seanet", "seanet_transformer"])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("few", [1, 40, 10_000])
def test_slices_change_nothing(monkeypatch, kind, padding, few):
    """Wherever the layers that run in slices end, and ragged ends within the last slice."""
    monkeypatch.setattr(seanet, "FEW_NUMBERS", few)
    monkeypatch.setattr(seanet, "SLICE_NUMBERS", 1)
    model, wav, latents = make(kind, padding=padding, ragged=True), torch.randn(2, 1, 41 * HOP + 7), torch.randn(2, 12, 41)
    for network, x in ((model.encoder, wav), (model.decoder, latents)):
        whole, _ = network(x)  # with gradients asked for, all at once
        with torch.no_grad():
            sliced, _ = network(x)
        torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["seanet", "seanet_transformer"])
def test_gradients_reach_every_weight(kind):
    settings = config(kind, padding="reflect")
    encoder, decoder = build_encoder(settings.encoder, 12, HOP), build_decoder(settings.decoder, 12, HOP)
    decoder(encoder(0.3 * torch.randn(2, 1, 30 * HOP))[0])[0].square().mean().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiply to 12"):
        build_encoder(SEANetTransformerEncoderConfig(strides=(3, 4), **TRANSFORMER), 12, 36)
    with pytest.raises(ValueError, match="frame_stride=2"):
        build_decoder(SEANetTransformerDecoderConfig(strides=(4, 3), **TRANSFORMER), 12, 25)
    with pytest.raises(ValueError, match="even width"):
        build_encoder(SEANetTransformerEncoderConfig(strides=(3, 4), **TRANSFORMER), 13, 24)
