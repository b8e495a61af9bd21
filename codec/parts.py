"""The settings of every encoder and decoder family, one typed dataclass each, and the registries that know them by name."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class ConvNeXtEncoderConfig:
    """`codec.backbones.convnext_stft.ConvNeXtEncoder`; window in samples."""

    name: str = "convnext_stft"
    window: int = 640
    channels: int = 384
    hidden: int = 1152
    blocks: int = 4
    kernel_size: int = 7


@dataclass(frozen=True)
class FusedEncoderConfig(ConvNeXtEncoderConfig):
    """`codec.backbones.fused.FusedEncoder`: the network of the sound, and beside it the one of the content."""

    name: str = "fused"
    sound_dim: int = 64
    content_dim: int = 512
    content_channels: int = 256
    content_hidden: int = 768
    content_blocks: int = 4


@dataclass(frozen=True)
class ConvNeXtDecoderConfig:
    """`codec.backbones.convnext_stft.ConvNeXtDecoder`; window and delay in samples."""

    name: str = "convnext_stft"
    window: int = 320
    channels: int = 384
    hidden: int = 1152
    blocks: int = 4
    upsample: int = 4
    fine_channels: int = 192
    fine_hidden: int = 576
    fine_blocks: int = 3
    kernel_size: int = 7
    delay: int = 320


@dataclass(frozen=True)
class _SEANetConfig:
    """What SEANet's two halves share: `strides` multiply to the frame size."""

    name: str = "seanet"
    channels: int = 32
    strides: tuple[int, ...] = ()
    kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    lstm_layers: int = 2
    last_kernel_size: int | None = None
    compress: int = 2
    conv_shortcut: bool = False
    padding: str = "zeros"


@dataclass(frozen=True)
class SEANetEncoderConfig(_SEANetConfig):
    """`codec.backbones.seanet.SEANetEncoder`."""

    strides: tuple[int, ...] = (2, 4, 5, 8)
    ragged: bool = False


@dataclass(frozen=True)
class SEANetDecoderConfig(_SEANetConfig):
    """`codec.backbones.seanet.SEANetDecoder`."""

    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class _SEANetTransformerConfig(_SEANetConfig):
    """What the halves of a SEANet with a transformer share: `strides` and `frame_stride` multiply to the frame size."""

    name: str = "seanet_transformer"
    channels: int = 64
    lstm_layers: int = 0
    last_kernel_size: int | None = 3
    frame_stride: int = 2
    transformer_layers: int = 8
    heads: int = 8
    hidden: int = 2048
    attention_window: int = 250
    rotary_base: float = 10_000.0
    layer_scale: float = 0.01


@dataclass(frozen=True)
class SEANetTransformerEncoderConfig(_SEANetTransformerConfig):
    """`codec.backbones.seanet_transformer.SEANetTransformerEncoder`."""

    strides: tuple[int, ...] = (4, 5, 6, 8)
    ragged: bool = False


@dataclass(frozen=True)
class SEANetTransformerDecoderConfig(_SEANetTransformerConfig):
    """`codec.backbones.seanet_transformer.SEANetTransformerDecoder`."""

    strides: tuple[int, ...] = (8, 6, 5, 4)
    upsample_groups: int | None = None


@dataclass(frozen=True)
class _MirroredSEANetConfig:
    """What the halves of a mirrored SEANet share: `strides` multiply to the frame size. Windows of 20 s at 50 frames a second,
    which overlap by 2 s."""

    name: str = "seanet_mirrored"
    channels: int = 64
    strides: tuple[int, ...] = ()
    kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    lstm_layers: int = 2
    activation: str = "elu"
    window_frames: int = 1000
    overlap_frames: int = 100


@dataclass(frozen=True)
class MirroredSEANetEncoderConfig(_MirroredSEANetConfig):
    """`codec.backbones.seanet_mirrored.MirroredSEANetEncoder`."""

    strides: tuple[int, ...] = (2, 4, 5, 8)
    bidirectional: bool = True


@dataclass(frozen=True)
class MirroredSEANetDecoderConfig(_MirroredSEANetConfig):
    """`codec.backbones.seanet_mirrored.MirroredSEANetDecoder`."""

    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class WavTokenizerDecoderConfig:
    """`codec.backbones.wavtokenizer.WavTokenizerDecoder`: `window` in samples, a multiple of the frame size."""

    name: str = "wavtokenizer"
    channels: int = 768
    hidden: int = 2304
    blocks: int = 12
    kernel_size: int = 7
    window: int = 1280
    window_frames: int = 1500
    overlap_frames: int = 150


@dataclass(frozen=True)
class DACEncoderConfig:
    """`codec.backbones.dac.DACEncoder`: `strides` multiply to the frame size, `channels` at the sample rate."""

    name: str = "dac"
    channels: int = 64
    strides: tuple[int, ...] = (2, 4, 5, 8)


@dataclass(frozen=True)
class DACDecoderConfig:
    """`codec.backbones.dac.DACDecoder`: `channels` at the frame rate."""

    name: str = "dac"
    channels: int = 1536
    strides: tuple[int, ...] = (8, 5, 4, 2)
    whole: bool = True
    tanh: bool = True


@dataclass(frozen=True)
class SNACEncoderConfig:
    """`codec.backbones.snac.SNACEncoder`: `strides` multiply to the frame size, `channels` at the sample rate."""

    name: str = "snac"
    channels: int = 48
    strides: tuple[int, ...] = (2, 4, 8, 8)
    depthwise: bool = True


@dataclass(frozen=True)
class SNACDecoderConfig:
    """`codec.backbones.snac.SNACDecoder`: `channels` at the frame rate."""

    name: str = "snac"
    channels: int = 1024
    strides: tuple[int, ...] = (8, 8, 4, 2)
    depthwise: bool = True
    noise: bool = True


@dataclass(frozen=True)
class XCodecEncoderConfig:
    """`codec.backbones.xcodec.XCodecEncoder`: a DAC encoder, and a teacher (HuBERT-base where nothing else is said)."""

    name: str = "xcodec"
    channels: int = 64
    strides: tuple[int, ...] = (8, 5, 4, 2)
    sound_dim: int = 256
    semantic_channels: tuple[int, ...] = (768, 768)
    semantic_kernel_size: int = 3
    semantic_unit_kernel_size: int = 3
    semantic_dilations: tuple[int, ...] = (1, 1)
    window_frames: int = 1500
    overlap_frames: int = 100
    teacher: str = "hubert"
    teacher_dim: int = 768
    teacher_layers: int = 12
    teacher_heads: int = 12
    teacher_hidden: int = 3072
    teacher_conv_channels: tuple[int, ...] = (512,) * 7
    teacher_conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    teacher_conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    teacher_conv_bias: bool = False
    teacher_norm: str = "group"
    teacher_stable: bool = False
    teacher_position_kernel: int = 128
    teacher_position_groups: int = 16
    teacher_buckets: int = 320
    teacher_max_distance: int = 800


@dataclass(frozen=True)
class XCodecDecoderConfig:
    """`codec.backbones.xcodec.XCodecDecoder`: `channels` at the frame rate."""

    name: str = "xcodec"
    sound_dim: int = 256
    channels: int = 1024
    strides: tuple[int, ...] = (8, 5, 4, 2)


@dataclass(frozen=True)
class XCodec2EncoderConfig:
    """`codec.backbones.xcodec2.XCodec2Encoder`."""

    name: str = "xcodec2"
    channels: int = 48
    strides: tuple[int, ...] = (2, 2, 4, 4, 5)
    sound_dim: int = 1024
    levels: tuple[int, ...] = (4,) * 8
    centred: bool = True
    window_frames: int = 1500
    overlap_frames: int = 100
    teacher_dim: int = 1024
    teacher_layers: int = 16
    teacher_heads: int = 16
    teacher_hidden: int = 4096
    teacher_kernel_size: int = 31
    teacher_left: int = 64
    teacher_right: int = 8


@dataclass(frozen=True)
class XCodec2DecoderConfig:
    """`codec.backbones.xcodec2.XCodec2Decoder`."""

    name: str = "xcodec2"
    channels: int = 1024
    layers: int = 12
    heads: int = 16
    head_dim: int = 64
    hidden: int = 4096
    window_frames: int = 1500
    overlap_frames: int = 100


EncoderConfig = Union[
    ConvNeXtEncoderConfig, FusedEncoderConfig, SEANetEncoderConfig, SEANetTransformerEncoderConfig, DACEncoderConfig,
    SNACEncoderConfig, XCodecEncoderConfig, XCodec2EncoderConfig, MirroredSEANetEncoderConfig,
]
DecoderConfig = Union[
    ConvNeXtDecoderConfig, SEANetDecoderConfig, SEANetTransformerDecoderConfig, DACDecoderConfig, SNACDecoderConfig,
    XCodecDecoderConfig,
    XCodec2DecoderConfig,
    MirroredSEANetDecoderConfig, WavTokenizerDecoderConfig,
]

ENCODERS = {cls().name: cls for cls in typing.get_args(EncoderConfig)}
DECODERS = {cls().name: cls for cls in typing.get_args(DecoderConfig)}
