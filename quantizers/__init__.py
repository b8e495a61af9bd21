"""Vector quantizers behind one interface; knows nothing of the codec.

    quantizer = quantizers.build("rvq", dim=64, num_codebooks=8, codebook_size=1024)
    codes = quantizer.encode(latents)         # latents (B, dim, T), codes (B, K, T) int64
    latents = quantizer.decode(codes[:, :4])  # the first 4 codebooks
    output = quantizer(latents)               # training: quantized, codes, losses, stats

Encoding and decoding need torch alone; `vector_quantize_pytorch` is imported when a method that it trains is trained.
"""

from __future__ import annotations

from quantizers.base import Quantizer, QuantizerOutput
from quantizers.mvq_fit import fit_mvq
from quantizers.mvq_prediction import JointCodebookLoss
from quantizers.registry import available, build, option_types, options

__all__ = ["JointCodebookLoss", "Quantizer", "QuantizerOutput", "available", "build", "fit_mvq", "option_types", "options"]
