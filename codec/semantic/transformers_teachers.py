"""Speech and audio models of `transformers` as teachers.

Weights are read from safetensors alone, and no code that comes with a model is run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.semantic.teachers import (
    SAMPLE_RATE,
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

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FILES = [CONFIG, PREPROCESSOR, "*.safetensors", "*.safetensors.index.json"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
NOT_NEEDED = ("masked_spec_embed",)  # training alone uses it


def load(name: str, layer: Layer, device: str | torch.device, resample: bool, bfloat16: bool = False) -> ModelTeacher:
    """See `codec.semantic.load_teacher`."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise TeacherError(
            'teachers are models of another package: pip install "neural-codec-toolkit[teachers]"'
        ) from None
    folder = find(name)
    config = _read_json(folder / CONFIG)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise TeacherError(f"{name}: there is no teacher of model_type {kind!r}: there is {', '.join(sorted(KINDS))}")
    check_weights(name, folder)
    teacher = KINDS[kind](folder, config, layer, device, resample)
    teacher.name = f"{plain_name(name)}-{layer_name(layer, teacher.layers)}"
    if bfloat16:
        teacher.halve()
    teacher._probe()
    return teacher


def find(name: str, files: Sequence[str] = FILES) -> Path:
    """The folder of a model, of which `files` are downloaded if need be. Raises TeacherError."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise TeacherError(
                f"{name} holds no {CONFIG}: give a folder that `save_pretrained` of transformers has written"
            )
        return path
    hub_id = name.removeprefix("hf:")
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        raise TeacherError(f"there is no folder {name}: give the folder of a teacher, or a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except Exception as error:  # any of a dozen network and hub errors
        raise TeacherError(
            f"{name} is neither a folder nor to be had from the hub ({type(error).__name__}): check the name and the "
            "network, or download it elsewhere and give its folder"
        ) from None


def plain_name(name: str) -> str:
    """Of a folder its own, of a hub id what follows its owner: hubert-base-ls960, whichever way it came."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else name.rpartition("/")[2]


def check_weights(name: str, folder: Path) -> None:
    """Raise TeacherError where there are no safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise TeacherError(
            f"{name} holds pickled weights, which can run code: load them where you trust them and save them as "
            "safetensors (save_pretrained of transformers does)"
        )
    raise TeacherError(f"{name} holds no *.safetensors: its weights are missing, or published as pickles alone")


class WaveTeacher(ModelTeacher):
    """HuBERT, WavLM, wav2vec 2.0, data2vec-audio: strided convolutions over samples, then a transformer.

    Without a preprocessor_config.json the defaults of `transformers` hold: 16 kHz, zero mean and unit variance. These
    are taken of the whole recording.
    """

    def __init__(self, folder: Path, config: dict[str, Any], layer: Layer, device: str | torch.device, resample: bool):
        facts = _read_json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
        self.native_rate = int(facts.get("sampling_rate", SAMPLE_RATE))
        check_rate(str(folder), self.native_rate, resample)
        self._normalize = bool(facts.get("do_normalize", True))
        self._freeze(self._load(folder, config), device)
        settings = self.model.config
        self.hop, self.reach = strides_of(settings.conv_kernel, settings.conv_stride)
        self.window, self.dim = round(WINDOW_SECONDS * self.frame_rate), settings.hidden_size
        self.layers = chosen(layer, settings.num_hidden_layers + 1)
        self.fingerprint = fingerprint_of(self, self.model, self.layers, self._normalize)

    def _load(self, folder: Path, config: dict[str, Any]) -> nn.Module:
        from transformers import AutoModel

        return from_pretrained(AutoModel, folder)

    def _normalized(self, wav: Tensor) -> Tensor:
        if not self._normalize:
            return wav
        return (wav - wav.mean(1, keepdim=True)) / (wav.var(1, correction=0, keepdim=True) + 1e-7).sqrt()

    def _rows(self, wav: Tensor) -> Tensor:
        return self._mean(wav)


class MERTTeacher(WaveTeacher):
    """MERT (Li et al. 2023, https://arxiv.org/abs/2306.00107): HuBERT on music at 24 kHz, published with code of its
    own, which is not run: without its options the network is HuBERT's."""

    def _load(self, folder: Path, config: dict[str, Any]) -> nn.Module:
        from transformers import HubertConfig, HubertModel

        if config.get("feature_extractor_cqt") or config.get("deepnorm"):
            raise TeacherError(
                f"{folder}: this MERT (feature_extractor_cqt, deepnorm) needs code of its own, which is not run: take "
                "one without these, such as MERT-v1-95M"
            )
        known = {key: value for key, value in config.items() if key not in ("model_type", "auto_map", "architectures")}
        return from_pretrained(HubertModel, folder, config=HubertConfig(**known))


class FilterbankTeacher(ModelTeacher):
    """w2v-BERT 2.0 (Barrault et al. 2023, https://arxiv.org/abs/2312.05187): a conformer over pairs of log mel
    spectra."""

    def __init__(self, folder: Path, config: dict[str, Any], layer: Layer, device: str | torch.device, resample: bool):
        from transformers import AutoFeatureExtractor, AutoModel, SeamlessM4TFeatureExtractor

        if (folder / PREPROCESSOR).is_file():
            self._extractor = AutoFeatureExtractor.from_pretrained(folder)
        else:
            bands = config.get("feature_projection_input_dim", 160) // 2
            self._extractor = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands)
        self.native_rate = self._extractor.sampling_rate
        check_rate(str(folder), self.native_rate, resample)
        self._freeze(from_pretrained(AutoModel, folder), device)
        settings = self.model.config
        self.hop, self.reach = 160 * self._extractor.stride, 400 - 160  # frames of 25 ms every 10 ms, put together
        self.window, self.dim = round(WINDOW_SECONDS * self.frame_rate), settings.hidden_size
        self.layers = chosen(layer, settings.num_hidden_layers + 1)
        self.fingerprint = fingerprint_of(self, self.model, self.layers, self._extractor.stride)

    def _rows(self, wav: Tensor) -> Tensor:
        items = [item.numpy() for item in wav.cpu()]
        energies = self._extractor(items, sampling_rate=self.native_rate, return_tensors="pt")
        return self._mean(energies["input_features"])


class WhisperTeacher(ModelTeacher):
    """The encoder of Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356). It hears exactly 30 s: what is
    shorter is followed by silence. The folder may hold all of Whisper or the encoder alone."""

    mirrored = False

    def __init__(self, folder: Path, config: dict[str, Any], layer: Layer, device: str | torch.device, resample: bool):
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        settings = WhisperConfig(**config)
        if (folder / PREPROCESSOR).is_file():
            self._extractor = WhisperFeatureExtractor.from_pretrained(folder)
        else:
            self._extractor = WhisperFeatureExtractor(feature_size=settings.num_mel_bins)
        self.native_rate = self._extractor.sampling_rate
        check_rate(str(folder), self.native_rate, resample)
        with torch.random.fork_rng(devices=[]):
            model = WhisperEncoder(settings)
        _fill(model, folder)
        self._freeze(model, device)
        self.hop = self._extractor.hop_length * model.conv1.stride[0] * model.conv2.stride[0]
        self.window, self.dim = settings.max_source_positions, settings.d_model
        self.layers = chosen(layer, settings.encoder_layers + 1)
        self.fingerprint = fingerprint_of(self, self.model, self.layers)

    def _rows(self, wav: Tensor) -> Tensor:
        items = [item.numpy() for item in wav.cpu()]
        energies = self._extractor(
            items, sampling_rate=self.native_rate, return_tensors="pt", padding="max_length",
            max_length=self.window * self.hop,
        ).input_features
        return self._mean(energies)[:, : math.ceil(wav.shape[1] / self.hop)]


class ASTTeacher(ModelTeacher):
    """The Audio Spectrogram Transformer (Gong et al. 2021, https://arxiv.org/abs/2104.01778), which hears about 10 s
    at a time: the mean over the bands of its patches, one row for each of their places in time. What is shorter is
    followed by silence."""

    mirrored = False

    def __init__(self, folder: Path, config: dict[str, Any], layer: Layer, device: str | torch.device, resample: bool):
        from transformers import ASTFeatureExtractor, AutoModel

        self._freeze(from_pretrained(AutoModel, folder), device)
        settings = self.model.config
        if (folder / PREPROCESSOR).is_file():
            self._extractor = ASTFeatureExtractor.from_pretrained(folder)
        else:
            self._extractor = ASTFeatureExtractor(num_mel_bins=settings.num_mel_bins, max_length=settings.max_length)
        self.native_rate = self._extractor.sampling_rate
        check_rate(str(folder), self.native_rate, resample)
        self.hop = self.native_rate // 100 * settings.time_stride  # spectra every 10 ms, patches of several
        self._bands = (settings.num_mel_bins - settings.patch_size) // settings.frequency_stride + 1
        self.window = (settings.max_length - settings.patch_size) // settings.time_stride + 1
        self.dim = settings.hidden_size
        self.layers = chosen(layer, settings.num_hidden_layers + 1)
        self.fingerprint = fingerprint_of(self, self.model, self.layers, self._extractor.mean, self._extractor.std)

    def _rows(self, wav: Tensor) -> Tensor:
        padded = F.pad(wav.cpu(), (0, max(0, self.native_rate // 40 - wav.shape[1])))  # to one spectrum at least
        items = [item.numpy() for item in padded]
        energies = self._extractor(items, sampling_rate=self.native_rate, return_tensors="pt")
        patches = self._mean(energies["input_values"])[:, 2:]  # behind two tokens that stand for the whole
        rows = patches.unflatten(1, (self._bands, -1)).mean(1)
        return rows[:, : math.ceil(wav.shape[1] / self.hop)]


KINDS = {
    "hubert": WaveTeacher, "wavlm": WaveTeacher, "wav2vec2": WaveTeacher, "data2vec-audio": WaveTeacher,
    "mert_model": MERTTeacher, "wav2vec2-bert": FilterbankTeacher, "whisper": WhisperTeacher,
    "audio-spectrogram-transformer": ASTTeacher,
}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(f"{path} is not readable ({error}): write it again with save_pretrained") from None
    if not isinstance(values, dict):
        raise TeacherError(f"{path} holds no settings: write it again with save_pretrained")
    return values


def from_pretrained(kind: Any, folder: Path, unused: Sequence[str] = (), **options: Any) -> nn.Module:
    """A model whose weights are all there but for parts named `unused`: what is missing would be random. Raises
    TeacherError."""
    from safetensors import SafetensorError

    try:
        with torch.random.fork_rng(devices=[]), _quiet():
            model, found = kind.from_pretrained(
                os.fspath(folder), use_safetensors=True, local_files_only=True, trust_remote_code=False,
                dtype=torch.float32, output_loading_info=True, **options,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise _misfit(folder, error) from None
    missing = [name for name in found["missing_keys"] if not name.endswith(NOT_NEEDED)]
    missing = [name for name in missing if not name.startswith(tuple(unused))]
    missing += [str(name) for name in found.get("mismatched_keys", ())]
    if missing:
        raise TeacherError(f"{folder}: weights are missing or of another shape: {', '.join(sorted(missing)[:5])}")
    return model


def _misfit(folder: Path, error: Exception) -> TeacherError:
    return TeacherError(f"{folder}: the weights do not fit config.json ({' '.join(str(error).split())[:200]})")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers: what is wrong is an error here."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _fill(encoder: nn.Module, folder: Path) -> None:
    """Read the encoder's weights out of a folder that may hold more."""
    from safetensors import SafetensorError, safe_open

    state, wanted = {}, encoder.state_dict()
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():
                    own = key.removeprefix("model.").removeprefix("encoder.")
                    if own in wanted and not key.removeprefix("model.").startswith("decoder."):
                        state[own] = file.get_tensor(key)
        encoder.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _misfit(folder, error) from None
