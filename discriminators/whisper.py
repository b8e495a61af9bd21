"""Discriminator on the hidden states of Whisper's encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discriminators.base import Discriminator, DiscriminatorOutput, check_positive
from discriminators.temporal import TemporalJudge

WINDOW, HOP, RATE = 400, 160, 16_000  # of Whisper's spectra, in samples and Hz


class WhisperDiscriminator(Discriminator):
    """Judges what a frozen Whisper encoder makes of the sound, one judge per layer: it need not learn to hear first.

    Source: that a discriminator on the features of a frozen pretrained network learns faster is from Sauer et al., "Projected GANs
    Converge Faster", 2021 (https://arxiv.org/abs/2111.01007); with a speech model, Li et al., "StyleTTS 2", 2023
    (https://arxiv.org/abs/2306.07691); Whisper: Radford et al., 2022. Crops are heard as they are, where Whisper fills up to 30 s with silence.

    teacher   a folder with config.json and the safetensors of Whisper, or of its encoder alone, as `save_pretrained` of transformers
              writes them; in a recipe also a hub id (openai/whisper-base).
    layers    of the encoder, from 1, whose outputs are judged. Layers above the highest are not computed.
    channels  width of every hidden layer of the judges.

    Needs the package transformers. Whisper's weights are no parameters of this module: they are not trained, not in its state, and follow the
    device of the sound. It hears mel spectra at 16 kHz and no phase: put "msstft" or "mrd" beside it.

    In: wav (B, 1, T) at 16 kHz, 400 samples to 30 s (``max_samples``). Out, per layer: logits (B, 1, N) over N = ceil(T // 160 / 2) frames of 20 ms, and three
    maps (B, channels, N). Raises ValueError for a folder or layers that cannot be judged on.
    """

    min_samples = WINDOW

    def __init__(self, teacher: str = "", layers: Sequence[int] = (1, 2, 3), channels: int = 128, sample_rate: int = RATE) -> None:
        super().__init__()
        check_positive("whisper", layers=layers, channels=channels)
        if sample_rate != RATE:
            raise ValueError(f"discriminator 'whisper': it hears {RATE} Hz, not {sample_rate}; leave this discriminator out")
        encoder, filters = _load(teacher, max(layers))
        self._encoder = [encoder]  # in a list: no part of this module
        self.layers, self.max_samples = tuple(layers), 2 * HOP * encoder.config.max_source_positions
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (201, bands)
        self.judges = nn.ModuleList(TemporalJudge(encoder.config.d_model, channels, first_kernel=1) for _ in layers)

    def judge(self, wav: Tensor) -> DiscriminatorOutput:
        states = self.states(wav)
        outputs = [judge(_normalized(states[layer - 1]).mT) for judge, layer in zip(self.judges, self.layers)]
        return DiscriminatorOutput([logits for logits, _ in outputs], [features for _, features in outputs])

    def states(self, wav: Tensor) -> list[Tensor]:
        """wav (B, 1, T) -> what comes out of layers 1, 2, ... (B, N, dim)."""
        encoder = self._encoder[0].to(wav.device)
        x = F.gelu(encoder.conv1(self.spectrum(wav)))
        x = F.gelu(encoder.conv2(x)).mT  # (B, N, dim)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        states = []
        for layer in encoder.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x  # older transformers
            states.append(x)
        return states

    def spectrum(self, wav: Tensor) -> Tensor:
        """wav (B, 1, T) -> Whisper's own log-mel spectrum (B, bands, T // 160): 80 dB below the loudest of an item and further are one."""
        with torch.autocast(wav.device.type, enabled=False):
            z = torch.stft(wav.squeeze(1).float(), WINDOW, HOP, window=self.window, return_complex=True)[..., :-1]
            power = torch.view_as_real(z).square().sum(-1).mT @ self.filters
            level = power.clamp_min(1e-10).log10()
            level = torch.maximum(level, level.detach().amax((1, 2), keepdim=True) - 8)
            return ((level + 4) / 4).mT


def _normalized(states: Tensor) -> Tensor:
    return F.layer_norm(states.float(), states.shape[-1:])


def _load(teacher: str, depth: int) -> tuple[nn.Module, Tensor]:
    """The first `depth` layers of an encoder, frozen, and its mel filters (bins, bands)."""
    if not isinstance(teacher, str) or not teacher or not (Path(teacher) / "config.json").is_file():
        raise ValueError(f"discriminator 'whisper': teacher is {teacher!r}; give a folder with the config.json and safetensors of Whisper")
    try:
        from safetensors import SafetensorError, safe_open
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder
    except ImportError:
        raise ValueError("discriminator 'whisper': Whisper is a model of another package: pip install transformers safetensors") from None
    try:
        settings = dict(json.loads((Path(teacher) / "config.json").read_text(encoding="utf-8")))
        kind, layers = settings["model_type"], settings["encoder_layers"]
        if kind != "whisper":
            raise ValueError(f"discriminator 'whisper': {teacher} holds a {kind}; give a Whisper")
        if depth > layers:
            raise ValueError(f"discriminator 'whisper': {teacher} has {layers} layers; give numbers from 1 to that, not {depth}")
        with torch.random.fork_rng(devices=[]):
            encoder = WhisperEncoder(WhisperConfig(**settings | {"layerdrop": 0.0, "encoder_layers": depth}))
        wanted, state = encoder.state_dict(), {}
        for path in sorted(Path(teacher).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if not name.removeprefix("model.").startswith("decoder.")]
                found = {name.removeprefix("model.").removeprefix("encoder."): name for name in names}
                state |= {own: file.get_tensor(name) for own, name in found.items() if own in wanted}
        encoder.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        if str(error).startswith("discriminator"):
            raise
        raise ValueError(f"discriminator 'whisper': config.json or weights in {teacher} cannot be used "
                         f"({' '.join(str(error).split())[:200]}); write them again with save_pretrained") from None
    filters = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins).mel_filters
    return encoder.float().eval().requires_grad_(False), torch.as_tensor(filters, dtype=torch.float32)
