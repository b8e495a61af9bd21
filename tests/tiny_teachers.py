"""Tiny random teachers, saved by transformers as published ones are."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import torch

WAVE = {
    "conv_dim": [8] * 7, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "hidden_dropout": 0.5, "attention_dropout": 0.5,
    "layerdrop": 0.5,
}
# A row sees its own 320 samples alone.
EVEN = {"conv_dim": [8] * 4, "conv_kernel": [10, 4, 4, 2], "conv_stride": [10, 4, 4, 2]}
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_layers": 1,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "num_mel_bins": 20, "vocab_size": 30, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2, "max_target_positions": 8,
}
KINDS = ("hubert", "wavlm", "wav2vec2", "data2vec-audio", "wav2vec2-bert", "whisper", "audio-spectrogram-transformer")


def save(folder: Path, kind: str, seed: int = 0, **settings) -> Path:
    """A tiny teacher of this model_type in a folder, 50 frames/s (AST: 10) and 16 wide."""
    import transformers as hf

    config = {
        "hubert": lambda: hf.HubertConfig(**(WAVE | settings)),
        "wavlm": lambda: hf.WavLMConfig(**(WAVE | settings)),
        "wav2vec2": lambda: hf.Wav2Vec2Config(**(WAVE | settings)),
        "data2vec-audio": lambda: hf.Data2VecAudioConfig(**(
            WAVE | {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2} | settings
        )),
        "wav2vec2-bert": lambda: hf.Wav2Vec2BertConfig(**(
            {key: WAVE[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
            | {"feature_projection_input_dim": 40, "layerdrop": 0.5} | settings
        )),
        "whisper": lambda: hf.WhisperConfig(**(WHISPER | {"max_source_positions": 100} | settings)),
        "audio-spectrogram-transformer": lambda: hf.ASTConfig(**(
            {key: WAVE[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
            | {"max_length": 204, "num_mel_bins": 36} | settings
        )),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.AutoModel.from_config(config)
    write(model, folder)
    return folder


def write(model, folder: Path) -> None:
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        model.save_pretrained(folder)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"


def save_ctc(folder: Path, kind: str = "Wav2Vec2", letters: str = LETTERS, between: str = "|") -> Path:
    """A random CTC model of two layers with a hop of 20 samples, saved as those on the hub are."""
    import transformers as hf

    special = ["<pad>", "<s>", "</s>", "<unk>", *([between] if between else [])]
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    hf.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        pad_token_id=0,
    )
    write(getattr(hf, f"{kind}ForCTC")(config), folder)
    return folder


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "un", "##happ", "##y", ",", ".", *"abcdefg"]
POSITIONS = 16


def save_bert(folder: Path, kind: str = "Bert", **settings) -> Path:
    """A random model of two layers with a tokenizer of twenty pieces."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    backend = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.decoder = decoders.WordPiece()
    hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32} | settings
    config = getattr(hf, f"{kind}Config")(vocab_size=len(WORDS), max_position_embeddings=POSITIONS, pad_token_id=0, **sizes)
    write(getattr(hf, f"{kind}Model")(config), folder)
    return folder
