"""Pipelines of `torchaudio` (wav2vec 2.0, HuBERT, WavLM) as teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codec.semantic.teachers import (
    WINDOW_SECONDS,
    Layer,
    ModelTeacher,
    TeacherError,
    check_rate,
    chosen,
    fingerprint_of,
    layer_name,
    strides_of,
)


class TorchaudioTeacher(ModelTeacher):
    """`torchaudio.pipelines`' bundle of this name. Its layers count from 1: what goes into the first is not to be
    had. Where the bundle normalises audio, it does so for each window."""

    def __init__(self, name: str, layer: Layer, device: str | torch.device, resample: bool, bfloat16: bool = False):
        try:
            from torchaudio import pipelines
        except (ImportError, OSError, RuntimeError) as error:  # it may not fit the torch that is there
            raise TeacherError(
                f"torchaudio cannot be used here ({' '.join(str(error).split())[:100]}): install the one made for this "
                "torch, or take a teacher of transformers"
            ) from None
        bundle = getattr(pipelines, name, None)
        if bundle is None or not hasattr(bundle, "get_model") or not hasattr(bundle, "sample_rate"):
            raise TeacherError(
                f"torchaudio:{name}: there is no pipeline of this name that hears speech: there is HUBERT_BASE, "
                "WAVLM_BASE, WAV2VEC2_BASE and others"
            )
        self.native_rate = int(bundle.sample_rate)
        check_rate(f"torchaudio:{name}", self.native_rate, resample)
        try:
            model = bundle.get_model(dl_kwargs={"weights_only": True, "progress": False})
        except OSError as error:
            raise TeacherError(
                f"torchaudio:{name} is not to be had from the network ({type(error).__name__}): check it, or put the "
                f"weights into {torch.hub.get_dir()}/checkpoints"
            ) from None
        if not hasattr(model, "extract_features"):
            raise TeacherError(
                f"torchaudio:{name} gives no hidden states: take HUBERT_BASE, WAVLM_BASE, WAV2VEC2_BASE or another"
            )
        self._freeze(model, device)
        network = getattr(model, "model", model)  # within what normalises audio
        convolutions = [layer.conv for layer in network.feature_extractor.conv_layers]
        kernels, strides = zip(*((conv.kernel_size[0], conv.stride[0]) for conv in convolutions))
        self.hop, self.reach = strides_of(kernels, strides)
        self.window = round(WINDOW_SECONDS * self.frame_rate)
        layers = network.encoder.transformer.layers
        self.dim = network.encoder.feature_projection.projection.out_features
        self.layers = chosen(layer, len(layers) + 1, first=1)
        self.name = f"torchaudio-{name}-{layer_name(layer, self.layers)}"
        self.fingerprint = fingerprint_of(self, self.model, self.layers, type(model).__name__)
        if bfloat16:
            self.halve()
        self._probe()

    def _hidden(self, inputs: Tensor) -> Sequence[Tensor]:
        states, _ = self.model.extract_features(inputs)
        return [states[0], *states]  # numbered from 1

    def _rows(self, wav: Tensor) -> Tensor:
        return self._mean(wav)
