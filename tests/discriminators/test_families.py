"""Every family keeps the one interface; the registry says what it knows."""

import subprocess
import sys

import pytest
import torch

import discriminators

SMALL = {"msstft": {"channels": 4}, "mpd": {"channels": 4, "max_channels": 8}}


@pytest.mark.parametrize("name", discriminators.available())
def test_one_entry_per_sub_discriminator_for_any_length(name):
    judge = discriminators.build(name, **SMALL.get(name, {}))
    for samples in (judge.min_samples, 4001):
        output = judge(0.1 * torch.randn(2, 1, samples))
        assert len(output.logits) == len(output.features) > 1
        for logits, layers in zip(output.logits, output.features):
            assert logits.shape[:2] == (2, 1) and logits.numel() > 0 and torch.isfinite(logits).all()
            assert layers and all(layer.shape[0] == 2 and layer.numel() > 0 for layer in layers)


@pytest.mark.parametrize("name", discriminators.available())
def test_items_are_judged_alone(name):
    torch.manual_seed(0)
    judge = discriminators.build(name, **SMALL.get(name, {}))
    wav = 0.1 * torch.randn(3, 1, 3000)
    together, alone = judge(wav), judge(wav[1:2])
    for a, b in zip(together.logits, alone.logits):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", discriminators.available())
@pytest.mark.parametrize("samples", ["silence", "noise"])
def test_gradients_reach_the_waveform_and_every_parameter_and_stay_finite(name, samples):
    torch.manual_seed(0)
    judge = discriminators.build(name, **SMALL.get(name, {}))
    wav = (torch.zeros(1, 1, 2000) if samples == "silence" else torch.randn(1, 1, 2000)).requires_grad_()
    sum(logits.square().mean() for logits in judge(wav).logits).backward()
    assert torch.isfinite(wav.grad).all() and wav.grad.abs().max() < 100
    for parameter in judge.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", discriminators.available())
def test_runs_under_bf16_autocast(name):
    judge = discriminators.build(name, **SMALL.get(name, {}))
    with torch.autocast("cpu", torch.bfloat16):
        output = judge(0.1 * torch.randn(1, 1, 2000))
    assert output.logits[0].dtype == torch.bfloat16 and torch.isfinite(output.logits[0].float()).all()


def test_msstft_maps_are_channels_last():
    """The layout that bf16 convolutions on a CPU need to be fast."""
    judge = discriminators.build("msstft", channels=8)
    for layers in judge(torch.randn(2, 1, 4000)).features:
        assert all(layer.is_contiguous(memory_format=torch.channels_last) for layer in layers)


def test_msstft_sees_quiet_sound_unless_compression_is_off():
    wav = 0.001 * torch.randn(1, 1, 2048)
    quiet, plain = (
        discriminators.build("msstft", channels=4, compression=c).scales[0].spectrum(wav) for c in (0.3, 1.0)
    )
    assert quiet.abs().mean() > 10 * plain.abs().mean()
    z = (
        torch.view_as_complex(quiet.permute(0, 2, 3, 1).contiguous()),
        torch.view_as_complex(plain.permute(0, 2, 3, 1).contiguous()),
    )
    torch.testing.assert_close(z[0].angle(), z[1].angle(), rtol=1e-3, atol=1e-3)


def test_mpd_judges_of_one_period_see_only_every_pth_sample():
    """Column c of a period's scores depends on the samples c, c + p, c + 2p, ... and on no other."""
    torch.manual_seed(0)
    judge = discriminators.build("mpd", periods=(5,), channels=4, max_channels=8)
    wav = torch.randn(1, 1, 1000, requires_grad=True)
    judge(wav).logits[0][..., 2].sum().backward()
    touched = wav.grad[0, 0].nonzero().flatten()
    assert len(touched) and set((touched % 5).tolist()) == {2}


def test_a_set_lists_its_members_in_order():
    torch.manual_seed(0)
    both = discriminators.build_all(
        [
            {"name": "mpd", "options": {"periods": [2, 3], "channels": 4, "max_channels": 8}},
            {"name": "msstft", "options": {"n_ffts": [256], "channels": 4}},
        ]
    )
    wav = 0.1 * torch.randn(1, 1, 1000)
    output = both(wav)
    assert len(output.logits) == 3 and both.min_samples == 256
    torch.testing.assert_close(output.logits[2], both.members[1](wav).logits[0])


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: discriminators.build("nope"), "choose one of mpd, msstft"),
        (lambda: discriminators.build("mpd", chanels=3), "no option 'chanels'; it has periods, channels"),
        (lambda: discriminators.build_all([{"options": {}}]), "has a 'name'"),
        (lambda: discriminators.build_all([{"name": "mpd", "channels": 4}]), "has a 'name'"),
        (lambda: discriminators.build_all([]), "at least one"),
        (lambda: discriminators.build("mpd")(torch.zeros(1, 500)), "shape \\(B, 1, T\\)"),
        (lambda: discriminators.build("mpd")(torch.zeros(1, 2, 500)), "shape \\(B, 1, T\\)"),
        (lambda: discriminators.build("msstft")(torch.zeros(1, 1, 500)), "at least 1024"),
    ],
)
def test_mistakes_are_answered_with_the_remedy(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_package_needs_torch_alone():
    code = (
        "import sys, discriminators, discriminators.losses; "
        "print([m for m in ('codec', 'lightning', 'torchaudio', 'auraloss') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
