"""How fast the published codecs are here, against their public implementations with the same weights.

    python benchmarks/public.py [--families encodec,mimi,...] [--seconds 1,5,20] [--repeats 7] [--threads 1]

docs/benchmarks.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.convert import FAMILIES, convert
from codec.hub import Undrawn
from codec.model import Codec
from speed import cpu_name, noise, positive

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "convert"))  # what the tests write out of packages


@dataclass
class Pair:
    """A public model and ours with its weights. encode(wav (1, 1, T)) gives what decode takes, `codes` makes codes (K, n) of it."""

    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Any]
    codes: Callable[[Any], Tensor]
    ours: Codec


@dataclass
class Result:
    """Ratios of theirs to ours: the median, and the quartiles over the turns; the share of frames with the same codes."""

    encode: tuple[float, float, float]
    decode: tuple[float, float, float]
    same: float
    seconds: tuple[float, float]  # of the CPU, that ours takes to encode and to decode


def converted(family: str, settings: dict[str, Any], model: nn.Module) -> Codec:
    """Of a model whose authors save its state dict as it is."""
    return importlib.import_module(FAMILIES[family]).read(settings, model.state_dict())


def saved_and_converted(model: nn.Module) -> Codec:
    """Of a model of `transformers`, which names tensors otherwise when it saves them."""
    with tempfile.TemporaryDirectory() as directory, open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        model.save_pretrained(directory)
        return convert(directory)


def random_codebooks(model: nn.Module) -> nn.Module:
    """Some are made of zeros alone until they are trained."""
    for name, value in model.named_buffers():
        if name.rpartition(".")[2] in ("embed", "embed_sum"):
            value.normal_()
        elif name.endswith("inited"):
            value.fill_(1)  # or the first call would train them
    return model.eval().requires_grad_(False)


def encodec(**changes: Any) -> Pair:
    import transformers

    config = transformers.EncodecConfig(**changes)
    model = random_codebooks(transformers.EncodecModel(config))
    return Pair(
        lambda wav: model.encode(wav, bandwidth=config.target_bandwidths[-1]),
        lambda found: model.decode(found.audio_codes, found.audio_scales),
        lambda found: found.audio_codes[0, 0], saved_and_converted(model),
    )


def mimi(**changes: Any) -> Pair:
    import transformers

    config = transformers.MimiConfig(**changes)
    model = random_codebooks(transformers.MimiModel(config))
    return Pair(
        model.encode, lambda found: model.decode(found.audio_codes), lambda found: found.audio_codes[0],
        saved_and_converted(model),
    )


def dac(**changes: Any) -> Pair:
    import transformers

    config = transformers.DacConfig(**changes)
    model = random_codebooks(transformers.DacModel(config))
    hop = config.hop_length
    return Pair(
        lambda wav: model.encode(F.pad(wav, (0, -wav.shape[2] % hop))),  # as its feature extractor does
        lambda found: model.decode(audio_codes=found.audio_codes), lambda found: found.audio_codes[0],
        saved_and_converted(model),
    )


def dac_24k(**changes: Any) -> Pair:
    return dac(**{"sampling_rate": 24_000, "n_codebooks": 32} | changes)


def dac_44k(**changes: Any) -> Pair:
    return dac(**{"sampling_rate": 44_100, "downsampling_ratios": [2, 4, 8, 8]} | changes)


def dac_16k(**changes: Any) -> Pair:
    return dac(**{"sampling_rate": 16_000, "n_codebooks": 12} | changes)


def xcodec(**changes: Any) -> Pair:
    import transformers

    config = transformers.XcodecConfig(**changes)
    model = random_codebooks(transformers.XcodecModel(config))
    return Pair(
        model.encode, lambda found: model.decode(found.audio_codes), lambda found: found.audio_codes[0],
        saved_and_converted(model),
    )


def xcodec2(**changes: Any) -> Pair:
    import transformers

    config = transformers.Xcodec2Config(**changes)
    model = random_codebooks(transformers.Xcodec2Model(config))
    features = transformers.models.xcodec2.feature_extraction_xcodec2.Xcodec2FeatureExtractor()

    def encode(wav: Tensor) -> Any:
        inputs = features([wav[0, 0].numpy()], sampling_rate=16_000, return_tensors="pt")
        inputs.pop("padding_mask", None)
        return model.encode(**inputs)

    return Pair(
        encode, lambda found: model.decode(found.audio_codes), lambda found: found.audio_codes[0],
        saved_and_converted(model),
    )


SNAC_24K = {  # of hubertsiuzdak/snac_24khz
    "sampling_rate": 24_000, "encoder_dim": 48, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 1024, "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None, "codebook_size": 4096, "codebook_dim": 8, "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
}


def snac(**changes: Any) -> Pair:
    package = importlib.import_module("snac")
    settings = SNAC_24K | changes
    model = package.SNAC(**settings).eval().requires_grad_(False)
    strides = settings["vq_strides"]
    return Pair(
        model.encode, model.decode,
        lambda found: torch.cat([codes.repeat_interleave(stride, 1) for codes, stride in zip(found, strides)]),
        converted("snac", settings, model),
    )


SPEECHTOKENIZER = {  # of fnlp/SpeechTokenizer, speechtokenizer_hubert_avg
    "n_filters": 64, "strides": [8, 5, 4, 2], "dimension": 1024, "semantic_dimension": 768, "bidirectional": True,
    "dilation_base": 2, "residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 2, "activation": "ELU",
    "codebook_size": 1024, "n_q": 8, "sample_rate": 16_000,
}


def speechtokenizer(**changes: Any) -> Pair:
    trainer = types.ModuleType("speechtokenizer.trainer")  # it imports what only training needs
    trainer.SpeechTokenizerTrainer = None
    sys.modules.setdefault("speechtokenizer.trainer", trainer)
    package = importlib.import_module("speechtokenizer")
    settings = SPEECHTOKENIZER | changes
    model = random_codebooks(package.SpeechTokenizer(settings))
    return Pair(model.encode, model.decode, lambda found: found[:, 0], converted("speechtokenizer", settings, model))


def wavtokenizer(**changes: Any) -> Pair:
    from published_wavtokenizer import Published, settings

    values = settings(**{"strides": [8, 5, 4, 2], "width": 768, "hidden": 2304, "blocks": 12, "bins": 4096} | changes)
    model = random_codebooks(Published(values))
    return Pair(model.encode, model.decode, lambda found: found[:, 0], converted("wavtokenizer", values, model))


def neucodec() -> Pair:
    from published_xcodec2 import fill, put_stand_ins
    from pytest import MonkeyPatch
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    put_stand_ins(MonkeyPatch())  # for packages of which it uses a line
    package, module, encoder, decoder = (
        importlib.import_module(f"neucodec.{name}") for name in ("model", "module", "codec_encoder", "codec_decoder_vocos")
    )
    with Undrawn():
        model = package.NeuCodec.__new__(package.NeuCodec)  # what its constructor makes, without the hub
        nn.Module.__init__(model)
        model.sample_rate, model.hop_length = 24_000, 480
        model.semantic_model = Wav2Vec2BertModel(Wav2Vec2BertConfig(output_hidden_states=True))
        model.feature_extractor = SeamlessM4TFeatureExtractor(padding_value=1)
        model.SemanticEncoder_module = module.SemanticEncoder(1024, 1024, 1024)
        model.CodecEnc, model.generator = encoder.CodecEncoder(), decoder.CodecDecoderVocos(hop_length=480)
        model.fc_prior, model.fc_post_a = nn.Linear(2048, 2048), nn.Linear(2048, 1024)
    fill(model)
    return Pair(model.encode_code, model.decode_code, lambda found: found[0], converted("neucodec", {}, model))


BUILD: dict[str, tuple[Callable[..., Pair], str]] = {  # and what brings the public implementation
    "encodec": (encodec, "transformers"), "mimi": (mimi, "transformers"), "dac_16k": (dac_16k, "transformers"),
    "dac_24k": (dac_24k, "transformers"), "dac_44k": (dac_44k, "transformers"), "xcodec": (xcodec, "transformers"),
    "xcodec2": (xcodec2, "transformers"), "snac": (snac, "snac"), "speechtokenizer": (speechtokenizer, "speechtokenizer"),
    "wavtokenizer": (wavtokenizer, "encodec vocos"), "neucodec": (neucodec, "transformers einops; pip install --no-deps neucodec"),
}


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = function(argument)
    return time.process_time() - start, result


@torch.inference_mode()
def measure(pair: Pair, seconds: float, repeats: int) -> Result:
    """Both code once to warm up, then they take turns."""
    wav = noise(seconds, pair.ours.sample_rate)
    expected, tokens = pair.encode(wav), pair.ours.encode(wav)
    theirs, ours = pair.codes(expected), tokens.codes[0]
    frames = min(theirs.shape[1], ours.shape[1])
    same = (theirs[:, :frames] == ours[:, :frames]).all(0).float().mean().item()
    pair.decode(expected), pair.ours.decode(tokens)
    times = [
        (timed(pair.encode, wav)[0], timed(pair.ours.encode, wav)[0],
         timed(pair.decode, expected)[0], timed(pair.ours.decode, tokens)[0])
        for _ in range(repeats)
    ]
    encode, decode = ([row[column] / row[column + 1] for row in times] for column in (0, 2))
    own = tuple(statistics.median(row[column] for row in times) for column in (1, 3))
    return Result(spread(encode), spread(decode), same, own)


def spread(ratios: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    if len(ratios) == 1:
        return (ratios[0],) * 3
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def build(family: str) -> Pair | None:
    """The pair, or None where the public implementation is not there, which is said with the remedy."""
    maker, packages = BUILD[family]
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old kinds of weight normalisation
            return maker()
    except (ImportError, AttributeError) as error:  # packages too old have no such model
        print(f"{family} left out ({error}): pip install {packages}", file=sys.stderr)
        return None


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    def families(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in BUILD]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there is {', '.join(BUILD)}")
        return names

    def lengths(text: str) -> list[float]:
        return [positive(float)(one) for one in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", type=families, default=list(BUILD), help=f"of {','.join(BUILD)} (all)")
    parser.add_argument("--seconds", type=lengths, default=[1.0, 5.0, 20.0], help="of audio (1,5,20)")
    parser.add_argument("--repeats", type=positive(int), default=7, help="turns of each (%(default)s)")
    parser.add_argument("--threads", type=positive(int), default=1, help="of the CPU (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    print(f"{cpu_name()}, {args.threads} thread{'s'[: args.threads > 1]}, torch {torch.__version__}: how many times as fast as the "
          f"public implementation, by CPU time\nMedians of {args.repeats} turns [quartiles]\n")
    print("| codec | audio | encode | decode | CPU ms per s, encode | decode | same frames |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for family in args.families:
        pair = build(family)
        for seconds in args.seconds if pair is not None else ():
            result = measure(pair, seconds, args.repeats)
            cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*ratio) for ratio in (result.encode, result.decode)]
            cells += [f"{1000 * taken / seconds:.0f}" for taken in result.seconds]
            print(f"| {family} | {seconds:g} s | {' | '.join(cells)} | {result.same:.1%} |", flush=True)
        pair = None
        gc.collect()


if __name__ == "__main__":
    main()
