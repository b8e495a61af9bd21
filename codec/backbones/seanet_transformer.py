"""SEANet with a causal transformer at its frame rate, and a strided convolution from there to a lower one, as in Mimi
(Défossez et al. 2024, https://arxiv.org/abs/2410.00037)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from codec.backbones.base import Network
from codec.backbones.seanet import SEANetDecoder, SEANetEncoder
from codec.nn.attention import CausalTransformer
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d
from codec.nn.state import State

BLOCK_STEPS = 200  # of the transformer: `Network.block_frames`


class SEANetTransformerEncoder(Network):
    """(B, 1, n * hop) samples to (B, dim, n) latents. Looks only back: frame t ends with sample (t + 1) * hop - 1.

    Args:
        strides: of SEANet; with `frame_stride`, of the convolution behind the transformer, they multiply to the hop. That
            convolution repeats its first input before the start of a signal.
        transformer_layers, heads, hidden, attention_window, rotary_base, layer_scale: see `CausalTransformer`; the window
            counts frames of SEANet.
        others: as `SEANetEncoder`.
    """

    def __init__(
        self, dim: int, hop: int, strides: Sequence[int], frame_stride: int, transformer_layers: int, heads: int, hidden: int,
        attention_window: int, rotary_base: float, layer_scale: float, ragged: bool, **seanet,
    ):
        super().__init__()
        self.seanet = SEANetEncoder(dim, _seanet_hop(hop, frame_stride), strides=strides, ragged=ragged, **seanet)
        self.transformer = CausalTransformer(
            dim, transformer_layers, heads, hidden, attention_window, rotary_base, layer_scale
        )
        self.down = CausalConv1d(dim, dim, 2 * frame_stride, stride=frame_stride, padding="replicate", bias=False)
        self.ragged, self.start_frames = ragged, -(-self.seanet.start_frames // frame_stride)
        self.block_frames = max(self.start_frames, BLOCK_STEPS // frame_stride)

    def forward(self, wav: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        seanet, transformer, down = (None, None, None) if state is None else state
        x, seanet = self.seanet(wav, seanet)
        x, transformer = self.transformer(x.transpose(1, 2), transformer)
        x, down = self.down(x.transpose(1, 2), down)
        return x, (seanet, transformer, down)


class SEANetTransformerDecoder(Network):
    """(B, dim, n) latents to (B, 1, n * hop) samples: the encoder's mirror image, which adds no delay.

    Args: as `SEANetTransformerEncoder`; upsample_groups: of the transposed convolution, every channel on its own for None.
    """

    def __init__(
        self, dim: int, hop: int, strides: Sequence[int], frame_stride: int, transformer_layers: int, heads: int, hidden: int,
        attention_window: int, rotary_base: float, layer_scale: float, upsample_groups: int | None = None, **seanet,
    ):
        super().__init__()
        self.up = CausalConvTranspose1d(
            dim, dim, 2 * frame_stride, frame_stride, bias=False, groups=upsample_groups or dim
        )
        self.transformer = CausalTransformer(
            dim, transformer_layers, heads, hidden, attention_window, rotary_base, layer_scale
        )
        self.seanet = SEANetDecoder(dim, _seanet_hop(hop, frame_stride), strides=strides, **seanet)
        self.start_frames = -(-self.seanet.start_frames // frame_stride)
        self.block_frames = max(self.start_frames, BLOCK_STEPS // frame_stride)

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        up, transformer, seanet = (None, None, None) if state is None else state
        x, up = self.up(latents, up)
        x, transformer = self.transformer(x.transpose(1, 2), transformer)
        x, seanet = self.seanet(x.transpose(1, 2), seanet)
        return x, (up, transformer, seanet)


def _seanet_hop(hop: int, frame_stride: int) -> int:
    if hop % frame_stride:
        raise ValueError(f"a frame of {hop} samples is not a multiple of frame_stride={frame_stride}")
    return hop // frame_stride
