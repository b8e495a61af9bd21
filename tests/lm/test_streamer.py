"""Speech plays while a language model of `transformers` generates, with the samples of the whole."""

from __future__ import annotations

import pytest
import torch

from codec.lm import patterns
from codec.lm.streamer import AudioStreamer
from codec.lm.vocab import Vocabulary


def language_model(size: int):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_generate_is_heard_as_it_writes(tiny_model, skip_prompt):
    vocab = Vocabulary(tiny_model.codebook_sizes, first=10)
    pattern = patterns.build("flatten", 4, special=vocab.pad)
    prompt = tiny_model.encode(0.3 * torch.randn(800, generator=torch.Generator().manual_seed(0))).codes
    ids = torch.cat([torch.tensor([[1, 2, vocab.start]]), pattern.apply(vocab.encode(prompt))], 1)
    heard, written = [], []
    streamer = AudioStreamer(tiny_model, pattern, vocab, heard.append, skip_prompt)
    put = streamer.put
    streamer.put = lambda ids: (put(ids), written.append(sum(len(part) for part in heard)))
    torch.manual_seed(1)
    out = language_model(vocab.size).generate(
        ids, attention_mask=torch.ones_like(ids), min_new_tokens=60, max_new_tokens=61, do_sample=True, streamer=streamer, eos_token_id=vocab.end,
        pad_token_id=vocab.pad, prefix_allowed_tokens_fn=vocab.allowed(pattern),
    )
    audio = out[0, 3:].tolist()
    audio = audio[: audio.index(vocab.end)] if vocab.end in audio else audio
    codes = vocab.decode(pattern.revert(torch.tensor([audio])))
    whole = tiny_model.decode_frames(codes)[0, 0]
    assert codes.shape[2] >= 10 and len(set(written)) > 8  # it came in many parts
    assert torch.equal(torch.cat(heard), whole[5 * 160 * skip_prompt :])


def test_the_end_of_audio(tiny_model):
    vocab = Vocabulary(tiny_model.codebook_sizes)
    pattern = patterns.build("flatten", 4, special=vocab.pad)
    codes, heard = torch.randint(32, (1, 4, 5)), []
    streamer = AudioStreamer(tiny_model, pattern, vocab, heard.append)
    streamer.put(torch.tensor([[vocab.start]]))
    for id in [*pattern.apply(vocab.encode(codes))[0], vocab.end, vocab.pad, 3]:
        streamer.put(torch.as_tensor(id).reshape(1))
    assert sum(map(len, heard)) == 800  # all is there before generate returns
    streamer.end()
    assert torch.equal(torch.cat(heard), tiny_model.decode_frames(codes)[0, 0])


def test_what_cannot_be_played_is_refused(tiny_model):
    vocab = Vocabulary(tiny_model.codebook_sizes)
    for name, own, words in (("delay", vocab, "take flatten, or vocab=None"), ("flatten", None, "give the vocabulary")):
        with pytest.raises(ValueError, match=words):
            AudioStreamer(tiny_model, patterns.build(name, 4), own, print)
    pattern = patterns.build("flatten", 4, special=vocab.pad)
    for ids, words in (([[1, 2]], "no start of audio"), ([[vocab.start], [vocab.start]], "one sequence can be played"),
                       ([[vocab.start, 0, 1, 64, 96]], "row 0, codebook 1, frame 0: id 1 is code 1 of codebook 0"),
                       ([[vocab.start, 0, vocab.pad, 64, 96]], "row 0, step 1, codebook 1: 130 is the special id")):
        with pytest.raises(ValueError, match=words):
            AudioStreamer(tiny_model, pattern, vocab, print).put(torch.tensor(ids))
