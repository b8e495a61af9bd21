"""Vocabularies of codes and text: offsets, marks, tokenizers of `transformers`, runs."""

from __future__ import annotations

import pytest
import torch

from codec.lm import patterns, vocab
from codec.lm.vocab import END, PAD, START, Vocabulary

SIZES = (8, 4, 6)


def codes_of(sizes, frames=7, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (batch, frames), generator=generator) for size in sizes], 1)


def tokenizer_of_words():
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {word: id for id, word in enumerate(["<unk>", "<s>", "say", "it", "again", ":", "a0", "<", "|"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def test_offsets():
    own = Vocabulary(SIZES, first=100)
    assert own.offsets == (100, 108, 112) and (own.start, own.end, own.pad) == (118, 119, 120) and own.size == 121
    codes = codes_of(SIZES)
    ids = own.encode(codes)
    for k, (offset, size) in enumerate(zip(own.offsets, SIZES)):
        assert torch.equal(ids[:, k], codes[:, k] + offset) and ids[:, k].max() < offset + size
    assert torch.equal(own.decode(ids), codes) and torch.equal(own.decode(ids[:, :2]), codes[:, :2])
    assert own.encode(codes[..., :0]).shape == (2, 3, 0)
    assert Vocabulary((5,)).size == 8 and Vocabulary((5,), first=3, start=0, end=1, pad=2).size == 8
    assert [own.describe(id) for id in (3, 118, 109, 121)] == [
        "text", START, "code 1 of codebook 1", "outside the vocabulary of 121"]


@pytest.mark.parametrize("name", ["flatten", "delay", "coarse_first"])
def test_with_a_pattern(name):
    own, codes = Vocabulary(SIZES), codes_of(SIZES)
    pattern = patterns.build(name, 3, special=own.pad)
    sequence = pattern.apply(own.encode(codes), [7, 4])
    assert ((sequence >= 0) & (sequence < own.size)).all()
    back = own.decode(pattern.revert(sequence[1:, ..., : pattern.steps(4)]))
    assert torch.equal(back, codes[1:, :, :4])
    with pytest.raises(ValueError, match="is the special id"):  # behind a shorter row is nothing
        pattern.revert(sequence)


def test_what_lies_outside_is_refused_with_its_place():
    own, codes = Vocabulary(SIZES, first=10), codes_of(SIZES)
    codes[1, 1, 5] = 4
    with pytest.raises(ValueError, match="row 1, codebook 1, frame 5: code 4 does not lie in 0 to 3"):
        own.encode(codes)
    ids = own.encode(codes.clamp(max=3))
    for id, words in ((own.end, r"<\|audio_end\|>"), (3, "text"), (22, "code 0 of codebook 2"), (31, "outside the vocabulary of 31")):
        ids[0, 1, 2] = id
        with pytest.raises(ValueError, match=f"row 0, codebook 1, frame 2: id {id} is {words}, no code of this codebook"):
            own.decode(ids)
    for wrong in (codes[0], codes.float(), torch.zeros(1, 4, 2).long()):
        with pytest.raises(ValueError, match=r"integers \(B, k, T\), k from 1 to 3"):
            own.encode(wrong)
    for settings in ({"start": 3, "first": 0}, {"start": 20, "end": 20}, {"pad": -1}, {"codebook_sizes": ()}, {"first": -1}):
        with pytest.raises(ValueError):
            Vocabulary(**({"codebook_sizes": SIZES, "first": 0} | settings))


def test_text_and_back():
    own = Vocabulary(SIZES, first=5)
    ids = torch.tensor([own.start, 5, 13, 17, 12, own.pad, own.end])
    text = own.text(ids)
    assert text == f"{START}<|a0_0|><|a1_0|><|a2_0|><|a0_7|>{PAD}{END}"
    assert torch.equal(own.parse(text), ids) and torch.equal(own.parse(text.replace("><", "> \n<")), ids)
    assert own.text([]) == "" and own.parse("").shape == (0,)
    with pytest.raises(ValueError, match="place 1: id 4 is text"):
        own.text([5, 4])
    for text in ("<|a0_8|>", "<|a3_0|>", "<|a0_1|>hello", "<|what|>", "<|a0_1"):
        with pytest.raises(ValueError, match=f"character {8 * text.endswith('hello')}: .* is no audio of 3 codebooks"):
            own.parse(text)


def test_split():
    own = Vocabulary(SIZES, first=5)
    parts = list(own.split([1, 2, own.start, 5, 13, own.end, 3, own.start, 9, own.end, own.pad]))
    assert [(kind, ids.tolist()) for kind, ids in parts] == [("text", [1, 2]), ("audio", [5, 13]), ("text", [3]), ("audio", [9])]
    assert list(own.split([])) == list(own.split([own.start])) == []


def test_merged_with_a_tokenizer_it_survives_saving(tmp_path):
    transformers, tokenizer = pytest.importorskip("transformers"), tokenizer_of_words()
    before, words = len(tokenizer), tokenizer("say it again :").input_ids
    own = vocab.merge(tokenizer, SIZES)
    assert own.first == before and own.codebook_sizes == SIZES and own.size == len(tokenizer)
    ids = own.encode(codes_of(SIZES))
    flat = patterns.build("flatten", 3, special=own.pad).apply(ids)[0].tolist()
    audio = own.text(flat)
    text = f"say it again : {START}{audio}{END}"
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert vocab.of(one) == own
        assert one(text, add_special_tokens=False).input_ids == [*words, own.start, *flat, own.end]
        assert own.parse(one.decode(flat)).tolist() == flat == own.parse(one.decode(flat, skip_special_tokens=True)).tolist()
        assert one("say it again :").input_ids == words
    with pytest.raises(ValueError, match="has audio already"):
        vocab.merge(tokenizer, SIZES)


def test_tokenizers_without_all_of_the_audio_are_refused():
    tokenizer = tokenizer_of_words()
    with pytest.raises(ValueError, match="no audio in it"):
        vocab.of(tokenizer)
    tokenizer.add_tokens(["<|a0_0|>", "<|a0_2|>", "<|a1_0|>", START, END, PAD])
    with pytest.raises(ValueError, match="do not follow each other"):
        vocab.of(tokenizer)


def test_a_mark_that_the_text_has_already_is_kept():
    tokenizer = tokenizer_of_words()
    tokenizer.add_tokens([START], special_tokens=True)
    id = tokenizer.convert_tokens_to_ids(START)
    own = vocab.merge(tokenizer, SIZES)
    assert own.start == id < own.first and own.end == own.first + 18


def test_runs():
    codes = torch.tensor([[[1, 1, 2, 2, 2, 1], [5, 5, 5, 6, 6, 6]]])
    kept, counts = vocab.runs(codes)
    assert kept.tolist() == [[[1, 2, 2, 1], [5, 5, 6, 6]]] and counts.tolist() == [2, 1, 2, 1]
    assert torch.equal(vocab.expand(kept, counts), codes)
    assert vocab.runs(codes[0, 0])[0].tolist() == [1, 2, 1]
    kept, counts = vocab.runs(codes[..., :0])
    assert torch.equal(vocab.expand(kept, counts), codes[..., :0])
    with pytest.raises(ValueError, match="6 numbers"):
        vocab.expand(codes, torch.ones(5, dtype=torch.int64))


def test_what_a_model_may_write_next():
    own = Vocabulary((4, 2, 3), first=5)
    allowed = own.allowed(patterns.build("flatten", 3))
    first, second, third = [5, 6, 7, 8], [9, 10], [11, 12, 13]
    prompt = [1, own.start, 5, own.end, 2, own.start]
    for ids, expected in (([], [*first, own.end]), ([7], second), ([7, 9], third), ([7, 9, 13], [*first, own.end]),
                          ([7, 9, 13, own.end], [own.pad]), ([7, 9, 13, own.end, own.pad], [own.pad])):
        assert allowed(0, torch.tensor(prompt + ids)) == expected
    rates = own.allowed(patterns.build("flatten", 3, strides=(4, 2, 1)))
    turns = [rates(0, torch.tensor([own.start] + [5] * n))[:2] for n in range(8)]
    assert turns == [first[:2], second, third[:2], third[:2], second, third[:2], third[:2], first[:2]]
    with pytest.raises(ValueError, match="the prompt has no"):
        allowed(0, torch.tensor([1, 2]))
    for name in ("delay", "coarse_first"):
        with pytest.raises(ValueError, match="allowed takes flatten"):
            own.allowed(patterns.build(name, 3))
