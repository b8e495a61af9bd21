"""Layers that look ahead, in slices: the numbers of the whole, and never more than a slice between the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codec.backbones.dac import DACDecoder, DACEncoder
from codec.backbones.seanet_mirrored import MirroredSEANetDecoder, MirroredSEANetEncoder
from codec.backbones.snac import SNACDecoder, SNACEncoder
from codec.nn import slices
from codec.nn.slices import Slices, wide_strides

STRIDES = (2, 4, 5)
SEANET = {
    "channels": 8, "kernel_size": 7, "residual_kernel_size": 3, "residual_layers": 2, "dilation_base": 2, "compress": 2,
    "lstm_layers": 1, "activation": "elu", "window_frames": 100, "overlap_frames": 10,
}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "dac encoder": lambda: DACEncoder(12, 40, 8, STRIDES),
        "dac decoder": lambda: DACDecoder(12, 40, 64, STRIDES[::-1], whole=True, tanh=True),
        "dac decoder, not whole": lambda: DACDecoder(12, 40, 64, STRIDES[::-1], whole=False, tanh=True),
        "snac encoder": lambda: SNACEncoder(64, 40, 8, STRIDES, depthwise=True),
        "snac decoder": lambda: SNACDecoder(64, 40, 64, STRIDES[::-1], depthwise=True, noise=True),
        "seanet encoder": lambda: MirroredSEANetEncoder(12, 40, strides=STRIDES, bidirectional=True, **SEANET),
        "seanet decoder": lambda: MirroredSEANetDecoder(12, 40, strides=STRIDES[::-1], **SEANET),
    }[kind]()
    for name, value in made.named_parameters():
        if name.endswith("alpha"):
            nn.init.uniform_(value, 0.3, 2)
    return made.eval().requires_grad_(False)


KINDS = ["dac encoder", "dac decoder", "dac decoder, not whole", "snac encoder", "snac decoder", "seanet encoder", "seanet decoder"]


@pytest.mark.parametrize("few", [1, 200, 10_000])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_slices_make_the_whole(kind, few, monkeypatch):
    monkeypatch.setattr(slices, "FEW_NUMBERS", few)
    model = network(kind)
    for frames in (1, 2, 38):
        shape = (2, 1, 40 * frames) if kind.endswith("encoder") else (2, 64 if kind.startswith("snac") else 12, frames)
        x = torch.randn(*shape)
        kept = x.clone()
        model._slices.size = 10**9
        whole, _ = model(x)
        for size in (3, 16):
            model._slices.size = size
            y, _ = model(x)
            assert y.shape == whole.shape
            torch.testing.assert_close(y, whole, rtol=0, atol=2e-5)
            assert torch.equal(x, kept)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dac encoder", "seanet encoder"])
def test_the_margin_is_what_is_seen_and_no_more(kind):
    """One input beyond the margin changes nothing of a slice, and one at its edge does."""
    model = network(kind)
    layers, margin, down = model._fine_layers(), model._slices.margin, model._slices.down
    x = torch.randn(1, 1, down * (4 * margin + 1))
    y = model._slices.run(layers, x)
    middle = 2 * margin
    for side in (-1, 1):
        for distance, changes in ((margin, True), (margin + 1, False)):
            frame = middle + side * distance
            other = x.clone()
            other[..., down * frame : down * (frame + 1)] += 1
            moved = not torch.allclose(model._slices.run(layers, other)[..., middle], y[..., middle], rtol=0, atol=1e-12)
            assert moved == changes or (changes and side == -1)  # what is seen need not be as far to both sides


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_lies_between_the_layers_is_bounded(kind, monkeypatch):
    """However many frames there are."""
    monkeypatch.setattr(slices, "SLICE_NUMBERS", 20_000)
    monkeypatch.setattr(slices, "FEW_NUMBERS", 400)
    model, most = network(kind), 0

    def note(layer, inputs, output):
        nonlocal most
        most = max(most, output.numel())

    layers = model._fine_layers()
    for layer in layers:
        for inner in layer.modules():
            inner.register_forward_hook(note)
    width = 64 if kind.startswith("snac") else 12
    model(torch.randn(1, 1, 40 * 2000) if kind.endswith("encoder") else torch.randn(1, width, 2000))
    unit = 8 * 40  # numbers a frame where they are most
    bound = max(20_000, 4 * model._slices.margin * 8 * max(model._slices.down, model._slices.up))
    assert unit * 2000 > 4 * bound >= 2 * most


def test_gradients_run_whole():
    model = network("dac encoder")
    model._slices.size = 1
    wav = torch.randn(1, 1, 400, requires_grad=True)
    model(wav)[0].sum().backward()
    assert wav.grad.abs().min() > 0


def test_wide_strides_leaves_the_narrow_ones_out():
    assert wide_strides((2, 4, 5, 8), 64) == 3  # 20480, 20480, 10240 and 4096 numbers a frame
    assert wide_strides((2, 4, 5, 8), 96) == 3 and wide_strides((2, 4), 1) == 0 and wide_strides((8, 8), 2000) == 2
    assert Slices([nn.Conv1d(1, 4, 7, padding=3)], 4).margin == 3
