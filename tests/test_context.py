"""Networks with a finite receptive field, coded in parts: the same as the whole, with the context that they state."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from codec import files
from codec.backbones.base import Network
from codec.coding import WithContext
from codec.config import CodecConfig
from codec.model import Codec
from codec.tokens import Tokens

# By themselves: a network of whole numbers, which has the same result in any order of summation


class Whole(Network):
    """Sums over `context` frames of `unit` inputs to both sides, times what tells edges and positions apart: `out` outputs a
    frame. Frames beyond the edges count as zeros, and an output tells how many of them it saw."""

    def __init__(self, context: int, unit: int, out: int, block_frames: int):
        super().__init__()
        self.context, self.unit, self.out, self.block_frames = context, unit, out, block_frames
        self.longest = 0
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randint(-8, 9, (out, 2, (2 * context + 1) * unit), generator=generator).double()

    def forward(self, x: torch.Tensor, state: None = None) -> tuple[torch.Tensor, None]:
        assert x.shape[2] % self.unit == 0 and x.shape[2]
        self.longest = max(self.longest, x.shape[2] // self.unit)
        marked = torch.cat([x, torch.ones_like(x)], 1)
        y = nn.functional.conv1d(marked, self.weight, stride=self.unit, padding=self.context * self.unit)
        return y.mT.reshape(x.shape[0], 1, -1), None  # (B, 1, frames * out)


def parts(total: int, sizes: list[int]) -> list[slice]:
    """Slices of these sizes in turn, to the end."""
    slices, start, turn = [], 0, 0
    while start < total:
        slices.append(slice(start, start + sizes[turn % len(sizes)]))
        start, turn = slices[-1].stop, turn + 1
    return slices


@pytest.mark.parametrize("context", [0, 1, 3, 10])
@pytest.mark.parametrize("unit, out", [(4, 1), (1, 4), (1, 1)])
@pytest.mark.parametrize("block_frames", [1, 2, 7, 100])
def test_parts_of_any_size_make_the_whole_exactly(context, unit, out, block_frames):
    network = Whole(context, unit, out, block_frames)
    for frames in (1, 2, 3, 7, 8, 21, 50):
        for missing in {0, 1, unit - 1} - ({unit} if unit > 1 else {1}):
            x = torch.randint(-9, 10, (2, 1, frames * unit - missing)).double()
            whole, _ = network(nn.functional.pad(x, (0, missing)))
            network.longest = 0
            for sizes in ([1], [3, 0, 1], [unit], [5 * unit + 1, 2], [1000]):
                run = WithContext(network, unit, out)
                made = [y for part in parts(x.shape[2], sizes) for y in run.push(x[..., part])] + list(run.finish())
                assert torch.equal(torch.cat(made, 2), whole)
                assert not list(run.finish())  # nothing is left
            assert torch.equal(torch.cat(list(WithContext(network, unit, out).finish(x)), 2), whole)
            assert network.longest <= block_frames + 2 * context


@pytest.mark.parametrize("context", [0, 2, 5])
def test_a_frame_comes_as_soon_as_its_context_is_there(context):
    network = Whole(context, 4, 1, 100)
    run, ready = WithContext(network, 4, 1), 0
    for sample in range(4 * 20):
        ready += sum(y.shape[2] for y in run.push(torch.ones(1, 1, 1).double()))
        assert ready == max(0, (sample + 1) // 4 - context)
    assert ready + sum(y.shape[2] for y in run.finish()) == 20


def test_what_is_kept_does_not_grow_and_holds_no_chunk():
    run = WithContext(Whole(3, 4, 1, 10), 4, 1)
    for _ in range(3):
        list(run.push(torch.ones(1, 1, 4001).double()))
        assert run._kept.shape[2] < 4 * (2 * 3 + 1) and run._kept.untyped_storage().nbytes() < 8 * 4 * 8


def test_blocks_are_of_one_size():
    """A short last one would be mostly context."""
    network, sizes = Whole(2, 1, 1, 10), []
    network.register_forward_hook(lambda layer, inputs, output: sizes.append(inputs[0].shape[2]))
    list(WithContext(network, 1, 1).finish(torch.ones(1, 1, 21).double()))
    assert sizes == [9, 11, 9]  # 7 frames each


def test_nothing_is_no_frames():
    for run in (WithContext(Whole(3, 4, 1, 10), 4, 1), WithContext(Whole(3, 1, 4, 10), 1, 4)):
        assert not list(run.finish())
        assert not list(run.push(torch.zeros(1, 1, 0).double())) and not list(run.finish())
        assert not list(run.finish(torch.zeros(1, 1, 0).double()))


# In a codec


def make(family: str, quantizer: dict | None = None) -> Codec:
    """16 kHz, frames of 40 samples."""
    torch.manual_seed(0)
    dim = 32 if family == "snac" else 12
    options = {"depthwise": True} if family == "snac" else {}
    quantizer = {"name": "factorized_rvq", "num_codebooks": 3, "codebook_size": 32, "codebook_dim": 4} | (quantizer or {})
    model = Codec(CodecConfig.from_dict({
        "name": "tiny", "sample_rate": 16_000, "frame_size": 40, "dim": dim,
        "encoder": {"name": family, "channels": 4, "strides": [2, 4, 5], **options},
        "decoder": {"name": family, "channels": 32, "strides": [5, 4, 2], **options},
        "quantizer": quantizer,
    })).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("alpha"):
            value.uniform_(0.3, 2)
    return model


MODELS = {"dac": ("dac", None), "snac": ("snac", {"strides": (4, 2, 1)}), "snac, one rate": ("snac", None)}


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> Codec:
    return make(*MODELS[request.param])


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def whole(model: Codec, wav: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and samples of networks that see all of the signal (1, 1, n) at once."""
    padded = nn.functional.pad(wav, (0, -wav.shape[2] % (40 * model.quantizer.frame_multiple)))
    codes = model.quantizer.encode(model.encoder(padded)[0])
    return codes, model.decoder(model.quantizer.decode(codes))[0][..., : wav.shape[2]]


def test_the_context_they_state_is_what_they_see(model):
    """A change of everything beyond it changes nothing in a frame; it is stated for the worst, so that within it something does."""
    hop, middle = 40, 40
    for network, unit, out, channels in (
        (model.encoder, hop, 1, 1), (model.decoder, 1, hop, model.config.dim),
    ):
        x = noise(1, channels, (2 * middle + 1) * unit).double()
        network = copy.deepcopy(network).double()
        own = slice(middle * out, (middle + 1) * out)  # of the frame in the middle
        before = network(x)[0][..., own]
        for beyond, seen in ((network.context, False), (0, True)):
            for side in (slice(0, (middle - beyond) * unit), slice((middle + 1 + beyond) * unit, None)):
                changed = x.clone()
                changed[..., side] += 1
                difference = (network(changed)[0][..., own] - before).abs().max()
                assert difference > 1e-6 if seen else difference == 0, (type(network).__name__, beyond, side)
        assert middle > network.context > 5


@pytest.mark.parametrize("block", [1, 3, 500])
@pytest.mark.parametrize("samples", [1, 39, 40, 41, 800, 4003])
def test_coded_by_blocks_it_is_the_whole(model, monkeypatch, block, samples):
    monkeypatch.setattr("codec.coding.BLOCK_FRAMES", block)
    wav = noise(1, 1, samples)
    codes, audio = whole(model, wav)
    tokens = model.encode(wav)
    assert torch.equal(tokens.codes, codes)
    torch.testing.assert_close(model.decode(tokens), audio, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [[1], [7, 40, 0, 333], [40], [2000], [100_000]], ids=str)
def test_streamed_it_is_the_whole(model, sizes):
    samples = 30 * 40 + 1 if sizes == [1] else 5000
    wav = noise(1, 1, samples)
    codes, audio = whole(model, wav)
    with model.stream() as stream:
        made = torch.cat([*(stream.encode(wav[..., part]) for part in parts(samples, sizes)), stream.flush()], 2)
        heard = [stream.decode(made[..., part]) for part in parts(made.shape[2], [max(1, size // 40) for size in sizes])]
        heard = torch.cat([*heard, stream.flush_decoder()], 2)[..., :samples]
    assert torch.equal(made, codes)
    torch.testing.assert_close(heard, audio, rtol=0, atol=1e-5)


def test_a_stream_answers_with_its_latency(model):
    latency, samples = round(model.latency * 16_000), 6000
    wav, heard = noise(1, 1, samples), 0
    longest = 0
    with model.stream() as stream:
        for sample in range(0, samples, 10):
            heard += stream.decode(stream.encode(wav[..., sample : sample + 10])).shape[2]
            longest = max(longest, sample + 10 - heard)  # of the samples that are in, those that are not out
    assert latency - 10 <= longest <= latency
    frames = model.quantizer.frame_multiple + model.encoder.context + model.decoder.context
    assert latency == frames * 40 and model.encoder.context > 5 and model.decoder.context > 5


def test_a_batch_of_lengths_is_its_items_alone(model):
    lengths = [4003, 1, 40, 41, 800, 4003, 3999]
    wav = noise(len(lengths), 2, 4003)
    for row, length in zip(wav, lengths):
        row[:, length:] = float("nan")
    tokens = model.encode(wav, lengths=lengths)
    audio = model.decode(tokens)
    for index, length in enumerate(lengths):
        alone = model.encode(wav[index, :, :length])
        assert torch.equal(tokens.item(index).codes, alone.codes)
        torch.testing.assert_close(audio[index : index + 1, :, :length], model.decode(alone), rtol=0, atol=1e-5)
        assert (audio[index, :, length:] == 0).all()


@pytest.mark.parametrize("samples", [1, 40, 799, 48_003])
def test_files_hold_the_same(model, monkeypatch, tmp_path, samples):
    monkeypatch.setattr("codec.coding.BLOCK_FRAMES", 50)
    wav = noise(2, samples).clamp(-1, 1)
    soundfile.write(tmp_path / "in.wav", wav.numpy().T, 16_000, subtype="FLOAT")
    report = files.encode_file(model, tmp_path / "in.wav", tmp_path / "out.tok")
    tokens, loaded = model.encode(wav), Tokens.load(tmp_path / "out.tok")
    assert torch.equal(loaded.codes, tokens.codes) and report.num_frames == tokens.num_frames
    files.decode_file(model, tmp_path / "out.tok", tmp_path / "out.wav")
    heard, _ = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert heard.shape == (samples, 2)
    np.testing.assert_allclose(heard.T, model.decode(tokens)[0].numpy(), atol=1e-4)  # 16 bits


@pytest.mark.parametrize("name", MODELS)
def test_networks_see_blocks_of_their_own_size_only(name):
    """However long the audio is: memory does not grow with it."""
    model, longest = make(*MODELS[name]), {}
    for name in ("encoder", "decoder"):
        network = getattr(model, name)
        network.block_frames = 4 * network.context
        frames = 40 if name == "encoder" else 1
        network.register_forward_hook(
            lambda layer, inputs, output, name=name, frames=frames:
            longest.update({name: max(longest.get(name, 0), inputs[0].shape[2] // frames)})
        )
    model.decode(model.encode(noise(1, 1, 40 * 1000)))
    assert longest["encoder"] <= 6 * model.encoder.context and longest["decoder"] <= 6 * model.decoder.context


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_trained(name):
    model, wav = make(*MODELS[name]).train().requires_grad_(), noise(2, 1, 800)
    output = model(wav)
    assert output.audio.shape == wav.shape and output.latents.shape == (2, model.config.dim, 20)
    ((output.audio - wav).square().mean() + sum(output.losses.values())).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
