"""WavTokenizer put together of parts of public packages: the authors' own code is on no package index.

Its encoder and codebook are those of the package `encodec`, not causal; blocks, adaptive normalisation and inverse STFT those
of `vocos`; what lies between (`pos_net`) is written out here from its description, layer by layer.
"""

from __future__ import annotations

import torch
from torch import nn

STRIDES, HOP, DIM, BINS = [5, 4, 2], 40, 512, 48
WIDTH = 192  # groups of a few channels only would divide a single frame by next to nothing


def settings(strides=STRIDES, width=WIDTH, hidden=96, blocks=2, bins=BINS, adaptive=True):
    hop = torch.tensor(strides).prod().item()
    backbone = {"input_channels": DIM, "dim": width, "intermediate_dim": hidden, "num_layers": blocks}
    return {
        "seed_everything": 1,
        "model": {"class_path": "decoder.experiment.WavTokenizer", "init_args": {
            "sample_rate": 24_000,
            "feature_extractor": {"class_path": "decoder.feature_extractors.EncodecFeatures", "init_args": {
                "encodec_model": "encodec_24khz", "bandwidths": [6.6, 6.6, 6.6, 6.6], "train_codebooks": True,
                "num_quantizers": 1, "dowmsamples": strides, "vq_bins": bins, "vq_kmeans": 200,
            }},
            "backbone": {"class_path": "decoder.models.VocosBackbone",
                         "init_args": backbone | ({"adanorm_num_embeddings": 4} if adaptive else {})},
            "head": {"class_path": "decoder.heads.ISTFTHead",
                     "init_args": {"dim": width, "n_fft": 4 * hop, "hop_length": hop, "padding": "same"}},
        }},
    }


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, width, eps=1e-6), nn.GroupNorm(32, width, eps=1e-6)
        self.conv1, self.conv2 = nn.Conv1d(width, width, 3, padding=1), nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x):
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            y = norm(x if norm is self.norm1 else y)
            y = conv(y * torch.sigmoid(y))
        return x + y


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        for name in ("q", "k", "v", "proj_out"):
            setattr(self, name, nn.Conv1d(width, width, 1))

    def forward(self, x):
        y = self.norm(x)
        scores = torch.einsum("bct,bcs->bts", self.q(y), self.k(y)) / x.shape[1] ** 0.5
        return x + self.proj_out(torch.einsum("bts,bcs->bct", scores.softmax(2), self.v(y)))


class Published(nn.Module):
    """Names and shapes of the authors' checkpoints."""

    def __init__(self, values):
        import encodec
        from vocos import heads, models

        super().__init__()
        model = values["model"]["init_args"]
        features = model["feature_extractor"]["init_args"]
        common = {"causal": False, "n_residual_layers": 1, "norm": "weight_norm", "pad_mode": "reflect", "lstm": 2,
                  "dimension": DIM, "channels": 1, "n_filters": 32, "activation": "ELU", "kernel_size": 7,
                  "residual_kernel_size": 3, "last_kernel_size": 7, "dilation_base": 2, "true_skip": False, "compress": 2}
        inner = nn.Module()
        inner.encoder = encodec.modules.SEANetEncoder(ratios=features["dowmsamples"], **common)
        inner.decoder = nn.Sequential(nn.Linear(1, 1))  # of EnCodec, never used
        inner.quantizer = encodec.quantization.ResidualVectorQuantizer(dimension=DIM, n_q=1, bins=features["vq_bins"])
        self.feature_extractor = nn.Module()
        self.feature_extractor.encodec = inner
        self.backbone = models.VocosBackbone(**model["backbone"]["init_args"])
        width = model["backbone"]["init_args"]["dim"]
        self.backbone.pos_net = nn.Sequential(
            Residual(width), Residual(width), Attention(width), Residual(width), Residual(width),
            nn.GroupNorm(32, width, eps=1e-6),
        )
        self.head = heads.ISTFTHead(**model["head"]["init_args"])
        self.adaptive = "adanorm_num_embeddings" in model["backbone"]["init_args"]

    def encode(self, wav):
        inner = self.feature_extractor.encodec
        return inner.quantizer.vq.encode(inner.encoder(wav))  # (1, B, T)

    def decode(self, codes):
        band = torch.tensor([0]) if self.adaptive else None
        backbone = self.backbone
        x = backbone.pos_net(backbone.embed(self.feature_extractor.encodec.quantizer.vq.decode(codes))).transpose(1, 2)
        x = backbone.norm(x, band) if self.adaptive else backbone.norm(x)
        x = x.transpose(1, 2)
        for block in backbone.convnext:
            x = block(x, cond_embedding_id=band)
        return self.head(backbone.final_layer_norm(x.transpose(1, 2)))[:, None]
