"""Every family keeps the one interface; the registry says what it knows."""

import subprocess
import sys

import pytest
import tiny_teachers
import torch

import discriminators
from discriminators.losses import discriminator_loss
from discriminators.registry import FAMILIES

# All judge 2000 samples.
SMALL = {
    "logmel": {"n_ffts": (512, 256), "hops": (128, 64), "bands": (32, 16), "channels": 16},
    "mfd": {"hops": (32, 64), "channels": (32, 64)},
    "mpd": {"channels": 4, "max_channels": 8},
    "mrd": {"n_ffts": (512, 256), "channels": 4},
    "msd": {"scales": 2},
    "mssbcqt": {"hops": (128, 64), "bins_per_octave": (6, 12), "octaves": 4, "f_min": 500.0, "channels": 4},
    "msstft": {"channels": 4},
    "whisper": {"layers": (1, 2), "channels": 16},  # and a teacher, below
}
DEFAULT = {"whisper": {"layers": (1, 2)}}
PUBLISHED = [(name, system) for name, family in FAMILIES.items() for system in family.PUBLISHED]


@pytest.fixture(scope="module", autouse=True)
def teacher(tmp_path_factory):
    """A tiny Whisper of two layers, which hears 2 s."""
    pytest.importorskip("transformers")
    folder = tiny_teachers.save(tmp_path_factory.mktemp("teacher"), "whisper")
    SMALL["whisper"]["teacher"] = DEFAULT["whisper"]["teacher"] = str(folder)
    return folder


def test_every_family_is_listed_and_tested():
    assert discriminators.available() == sorted(SMALL) == ["logmel", "mfd", "mpd", "mrd", "msd", "mssbcqt", "msstft", "whisper"]


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
def test_the_shortest_length_is_exact(name):
    judge = discriminators.build(name, **DEFAULT.get(name, {}))
    assert all(logits.numel() for logits in judge(torch.randn(1, 1, judge.min_samples)).logits)
    with pytest.raises(ValueError, match=f"give it at least {judge.min_samples}$"):
        judge(torch.randn(1, 1, judge.min_samples - 1))


# What the papers' layers add up to: sub-discriminators, features of each, parameters in millions (each weight-norm gain
# counted), first and last width.
SIZES = {
    ("msd", "MelGAN"): (3, 6, 16.92, 16, 1024),
    ("msd", "HiFi-GAN"): (3, 7, 29.62, 128, 1024),
    ("mpd", "HiFi-GAN"): (5, 5, 41.11, 32, 1024),
    ("mrd", "DAC"): (3, 25, 1.414, 32, 32),
    ("mfd", "X-Codec"): (6, 6, 5.256, 2, 64),
    ("mssbcqt", "Gu et al."): (3, 5, 0.2865, 32, 32),
    ("msstft", "EnCodec"): (5, 5, 0.4725, 32, 32),
}


@pytest.mark.parametrize("name, system", PUBLISHED)
def test_published_sizes(name, system):
    judge = discriminators.build(name, **FAMILIES[name].PUBLISHED[system])
    count, layers, millions, first, last = SIZES[name, system]
    _, features = judge(0.1 * torch.randn(1, 1, 2100))
    assert len(features) == count and all(len(maps) == layers for maps in features)
    assert sum(parameter.numel() for parameter in judge.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert (features[0][0].shape[1], features[0][-1].shape[1]) == (first, last)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_msstft_has_the_layers_and_spectra_of_the_encodec_package():
    reference = pytest.importorskip("encodec.msstftd")
    ours = discriminators.build("msstft", n_ffts=(1024, 512), channels=8, compression=1.0)
    theirs = reference.MultiScaleSTFTDiscriminator(
        8, n_ffts=[1024, 512], hop_lengths=[256, 128], win_lengths=[1024, 512]
    )
    gains = 2 * 8  # of our first convolutions; theirs have no weight norm
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + gains
    wav = torch.randn(2, 1, 4001)
    for a, b in zip(ours(wav).logits, theirs(wav)[0]):
        assert a.shape == b.shape
    for a, b in zip(ours(wav).features, theirs(wav)[1]):
        assert [x.shape for x in a] == [x.shape for x in b]
    for a, b in zip(ours.scales, theirs.discriminators):
        z = b.spec_transform(wav)  # (B, 1, bins, N)
        torch.testing.assert_close(a.spectrum(wav), torch.cat([z.real, z.imag], dim=1).mT)


def coloured(items, seed):
    """Noise (B, 1, 2000) with more low than high frequencies, as loud as white noise at 0.1."""
    white = 0.1 * torch.randn(items, 1, 2002, generator=torch.Generator().manual_seed(seed))
    return (white[..., 2:] + white[..., 1:-1] + white[..., :-2]) / 3**0.5


@pytest.mark.parametrize("name", discriminators.available())
def test_learns_to_tell_real_from_fake_in_thirty_steps(name):
    torch.manual_seed(0)
    judge = discriminators.build(name, **SMALL[name])
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3, betas=(0.8, 0.99))
    for step in range(30):
        loss = discriminator_loss(judge(coloured(8, step)), judge(0.1 * torch.randn(8, 1, 2000)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = (
            torch.stack([logits.flatten(1).mean(1) for logits in judge(wav).logits]).mean(0)  # (B,)
            for wav in (coloured(32, 1000), 0.1 * torch.randn(32, 1, 2000))
        )
    threshold = (real.median() + fake.median()) / 2
    assert ((real > threshold).float().mean() + (fake < threshold).float().mean()) / 2 > 0.8
    assert real.mean() > fake.mean()


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


def test_a_set_tells_the_sample_rate_to_those_that_ask():
    entries = [{"name": "mfd", "options": SMALL["mfd"]}, {"name": "msd"}]
    slow, fast = (discriminators.build_all(entries, sample_rate=rate).members[0] for rate in (16_000, 48_000))
    assert not torch.equal(slow.judges[0].bands, fast.judges[0].bands)
    entry = {"name": "mfd", "options": SMALL["mfd"] | {"sample_rate": 16_000}}
    own = discriminators.build_all([entry], sample_rate=48_000)
    assert torch.equal(slow.judges[0].bands, own.members[0].judges[0].bands)
    assert "sample_rate" not in entries[0]["options"]


def test_mrd_bands_see_their_own_bins_only():
    """A tone in the second band changes the maps of that band alone."""
    judge = discriminators.build("mrd", n_ffts=(512,), channels=4, compression=1.0)
    tone = 0.5 * torch.sin(2 * torch.pi * 0.09 * torch.arange(2000)).view(1, 1, -1)  # bin 46; the band is 25 to 63
    quiet, loud = (judge(wav).features[0] for wav in (torch.zeros_like(tone), tone))
    change = [(a - b).abs().max().item() for a, b in zip(quiet, loud)]  # five maps of each of five bands
    assert min(change[5:10]) > 100 * max(change[:5] + change[10:])


def test_mfd_sees_a_tone_in_its_mel_band():
    judge = discriminators.build("mfd", hops=(128,), channels=(32,)).judges[0]
    edges = 700 * (10 ** (torch.linspace(0, 2840.023, 259) / 2595) - 1)  # 0 to 8 kHz in 257 bands, HTK mels
    for hertz in (1000.0, 3000.0, 6000.0):
        tone = 0.5 * torch.sin(2 * torch.pi * hertz / 16_000 * torch.arange(8000)).view(1, 1, -1)
        mel, log = judge.spectrogram(tone)[0, :, 30]
        assert abs(edges[1 + mel.argmax()] - hertz) < 35  # a bin is 31 Hz wide
        torch.testing.assert_close(log, 0.8 + 0.2 * mel.log10())
    silence = judge.spectrogram(torch.zeros(1, 1, 8000))
    assert silence[:, 1].min() > -0.001  # -80 dB: no band is empty


def test_logmel_hears_levels_down_to_its_floor():
    judge = discriminators.build("logmel", n_ffts=(512,), hops=(128,), bands=(40,)).judges[0]
    for hertz in (500.0, 2000.0, 6000.0):
        tone = torch.sin(2 * torch.pi * hertz / 16_000 * torch.arange(8000)).view(1, 1, -1)
        loud, soft = (judge.levels(gain * tone)[0, :, 30] for gain in (0.5, 0.05))
        band = int(loud.argmax())
        assert band == soft.argmax() and (loud - soft)[band] == pytest.approx(1, abs=1e-3)  # 20 dB are 1
        edges = 700 * (10 ** (torch.linspace(0, 2840.023, 42) / 2595) - 1)  # HTK mels to 8 kHz
        assert edges[band] < hertz < edges[band + 2]
    assert judge.levels(torch.zeros(1, 1, 8000)).unique().tolist() == [-3.5]  # -70 dB
    near = judge.levels(10**-2.5 * torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0)))
    assert near.mean() > -3.3 and (judge.levels(1e-6 * torch.randn(1, 1, 8000)) + 3.5).abs().max() < 1e-3


def test_whisper_hears_what_transformers_hears(teacher):
    """States of two seconds, as many as the tiny one can hear, from the public encoder and feature extractor."""
    from transformers import WhisperFeatureExtractor, WhisperModel

    wav = 0.1 * torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    wav[0, 16_000:] *= 1e-6  # more than 80 dB below the rest, of which no more is heard
    features = WhisperFeatureExtractor(feature_size=20)([item.numpy() for item in wav], sampling_rate=16_000, return_tensors="pt",
                                                        padding="max_length", max_length=32_000).input_features
    reference = WhisperModel.from_pretrained(teacher).encoder.eval()
    with torch.no_grad():
        judge = discriminators.build("whisper", teacher=str(teacher), layers=(1, 2))
        torch.testing.assert_close(judge.spectrum(wav[:, None]), features, rtol=1e-4, atol=1e-4)
        first, second = judge.states(wav[:, None])
        theirs = reference(features, output_hidden_states=True)
    torch.testing.assert_close(first, theirs.hidden_states[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(reference.layer_norm(second), theirs.last_hidden_state, rtol=1e-3, atol=1e-4)


def test_whisper_is_heard_through_and_no_part_of_the_judge(teacher):
    judge = discriminators.build("whisper", teacher=str(teacher), layers=(2,), channels=16)
    judge.requires_grad_(True).train()
    assert not any(weight.requires_grad for weight in judge._encoder[0].parameters()) and not judge._encoder[0].training
    assert all(name.startswith("judges.0.") for name in judge.state_dict())
    wav = (0.1 * torch.randn(1, 1, 1000)).requires_grad_()
    judge(wav).logits[0].sum().backward()
    assert wav.grad.abs().max() > 0


def test_whisper_judges_the_layers_that_were_asked_for(teacher):
    torch.manual_seed(0)
    wav, options = 0.1 * torch.randn(1, 1, 1000), {"teacher": str(teacher), "channels": 16}
    both, first = (discriminators.build("whisper", layers=layers, **options) for layers in ((2, 1), (1,)))
    first.judges[0].load_state_dict(both.judges[1].state_dict())
    torch.testing.assert_close(both(wav).logits[1], first(wav).logits[0])
    both.judges[0].load_state_dict(both.judges[1].state_dict())
    upper, lower = both(wav).logits
    assert (upper - lower).abs().max() > 1e-4  # random layers change little, but more than assert_close lets pass


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "whisper"}', '{"model_type": "hubert", "encoder_layers": 2}'])
def test_a_folder_that_holds_no_whisper_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="save_pretrained$|give a Whisper$") as caught:
        discriminators.build("whisper", teacher=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_whisper_of_the_encoder_alone_is_the_same(teacher, tmp_path):
    """As folders of teachers have it, without the decoder and without prefixes."""
    from safetensors.torch import save_file
    from transformers import WhisperModel

    encoder = WhisperModel.from_pretrained(teacher).encoder
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((teacher / "config.json").read_text())
    wav = 0.1 * torch.randn(1, 1, 2000)
    both = [discriminators.build("whisper", teacher=str(folder), layers=(1, 2)).states(wav) for folder in (teacher, tmp_path)]
    for a, b in zip(*both):
        torch.testing.assert_close(a, b)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weights in .* cannot be used .*save_pretrained"):
        discriminators.build("whisper", teacher=str(tmp_path), layers=(1, 2))


def test_msd_scales_hear_the_average_at_half_rates():
    """A tone near half the sample rate is gone from the second scale, one far below it is not."""
    torch.manual_seed(0)
    scale = discriminators.build("msd", scales=2).scales[1]
    time = torch.arange(2000).float()
    high, low, nothing = (
        scale(0.5 * torch.sin(2 * torch.pi * f * time).view(1, 1, -1))[1][0][..., 10:-10] for f in (0.5, 0.02, 0.0)
    )
    assert (high - nothing).abs().max() < 1e-3 < 0.1 * (low - nothing).abs().max()


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: discriminators.build("nope"), "choose one of logmel, mfd, mpd, mrd, msd, mssbcqt, msstft, whisper"),
        (lambda: discriminators.build("logmel", hops=(64,)), "3 n_ffts have 1 hops and 3 bands; give one of each"),
        (lambda: discriminators.build("logmel", floor_db=0), "give a number from -200 to below 0"),
        (lambda: discriminators.build("logmel")(torch.zeros(1, 1, 512)), "at least 513"),
        (lambda: discriminators.build("logmel", n_ffts=(1, 1, 1)), "give multiples of 4"),
        (lambda: discriminators.build("logmel", channels=[8]), "give one value"),
        (lambda: discriminators.build("whisper", teacher=5), "teacher is 5; give a folder"),
        (lambda: discriminators.build("whisper"), "give a folder with the config.json and safetensors of Whisper"),
        (lambda: discriminators.build("whisper", teacher="nowhere"), "teacher is 'nowhere'; give a folder"),
        (lambda: discriminators.build("whisper", sample_rate=24_000), "it hears 16000 Hz, not 24000"),
        (lambda: discriminators.build("whisper", **SMALL["whisper"] | {"layers": (3,)}), "has 2 layers; give numbers from 1 to that, not 3"),
        (lambda: discriminators.build("whisper", **SMALL["whisper"] | {"layers": ()}), "give a list of whole numbers above 0"),
        (lambda: discriminators.build("whisper", **SMALL["whisper"])(torch.zeros(1, 1, 32_001)), "give it at most 32000"),
        (lambda: discriminators.build("msd", channels=100), "multiple of 256"),
        (lambda: discriminators.build("msd", layout="wavegan"), "choose one of melgan, hifigan"),
        (lambda: discriminators.build("msd", scales=0), "scales is 0; give a whole number above 0"),
        (lambda: discriminators.build("mpd", periods=()), r"periods is \(\); give a list"),
        (lambda: discriminators.build("mpd", periods=(2, 0)), "list of whole numbers above 0"),
        (lambda: discriminators.build("mpd", periods=5), "periods is 5; give a list"),
        (lambda: discriminators.build("msstft", compression=0), "compression is 0; give a number above 0"),
        (lambda: discriminators.build("mrd", compression=float("nan")), "compression is nan"),
        (lambda: discriminators.build("mssbcqt", octaves=3, compression=-1.0), "compression is -1.0"),
        (lambda: discriminators.build("msstft", n_ffts=(1023,)), "give multiples of 4"),
        (lambda: discriminators.build("mrd", n_ffts=(1022,)), "give multiples of 4"),
        (lambda: discriminators.build("mrd", n_ffts=(16,)), "give rising shares from 0 to 1"),
        (lambda: discriminators.build("mrd", edges=(0.5, 1.0)), "give rising shares from 0 to 1"),
        (lambda: discriminators.build("mfd", hops=(32,)), "give one per hop"),
        (lambda: discriminators.build("mfd", hops=(32,), channels=(48,)), "multiples of 32"),
        (lambda: discriminators.build("mfd")(torch.zeros(1, 1, 2000)), "at least 2049"),
        (lambda: discriminators.build("mssbcqt", hops=(256,)), "one per hop"),
        (lambda: discriminators.build("mssbcqt", octaves=9), "take at most 8 octaves"),
        (lambda: discriminators.build("mssbcqt", hops=(96,), bins_per_octave=(12,)), "multiple of 64, not 96"),
        (lambda: discriminators.build("msd")(torch.zeros(1, 1, 0)), "at least 1"),
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
    """Every family is built and judges while imports of anything that torch does not bring are refused."""
    code = """
import sys
import torch
allowed = {name.split(".")[0] for name in sys.modules} | set(sys.stdlib_module_names) | {"discriminators", "torch"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ImportError("not installed: " + name)
sys.meta_path.insert(0, Refuse())
import discriminators, discriminators.losses
for name in discriminators.available():
    if name != "whisper":  # which is a model of transformers
        discriminators.build(name)(torch.zeros(1, 1, 2100))
print([m for m in ("codec", "lightning", "torchaudio", "auraloss", "librosa", "scipy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr
