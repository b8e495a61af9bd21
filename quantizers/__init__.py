"""Vector quantizers behind one interface; knows nothing of the codec.

Latents are (B, dim, T), codes (B, K, T) int64.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_FAMILIES = ("rvq",)


def available() -> tuple[str, ...]:
    """Names that `build` knows."""
    return _FAMILIES


def build(name: str, dim: int, num_codebooks: int, codebook_size: int, **options: Any) -> nn.Module:
    """Build the quantizer family `name` for latents (B, dim, T). Raises ValueError for an unknown name."""
    if name == "rvq":
        from quantizers.rvq import ResidualVQ

        return ResidualVQ(dim, num_codebooks, codebook_size, **options)
    raise ValueError(f"no quantizer is named {name!r}; there is {', '.join(_FAMILIES)}")
