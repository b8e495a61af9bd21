"""Letters of transcripts: which of them are in a crop, and how they are learnt."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import quantizers
from codec.model import CodecOutput
from codec.semantic.alignment import Word
from codec.semantic.heads import SemanticHeads
from codec.semantic.letters import LETTERS, SYMBOLS, Letters, numbered
from codec.semantic.losses import ctc_loss
from codec.semantic.target import SemanticTarget
from codec.semantic.transcripts import Skip, Transcript, TranscriptError, Transcripts

WORDS = (
    Word("The", 0.1, 0.3), Word("cat's", 0.3, 0.7), Word("12", 0.8, 1.0), Word("lives,", 1.1, 1.5), Word("so", 1.6, 1.9),
)


def text(letters: torch.Tensor) -> str:
    return "".join(LETTERS[number - 1] for number in letters)


@pytest.fixture
def stored(tmp_path):
    with Transcripts(tmp_path / "t.jsonl", write=True) as out:
        out.add("a", Transcript("The cat's 12 lives, so", WORDS, seconds=2.0))
        out.add("digits", Transcript("12", (Word("12", 0.0, 1.0),), seconds=1.0))
        out.add("nothing", Transcript(""))
        out.add("untimed", Transcript("the cat", seconds=1.0))
        out.skip("silent", Skip("silent"))
    return Letters(tmp_path / "t.jsonl", frame_rate=50.0)


def frames(valid: torch.Tensor) -> tuple[int, int]:
    """The first, and the one behind the last; there is no gap."""
    found = valid.nonzero()[:, 0]
    assert torch.equal(found, torch.arange(found[0], found[-1] + 1))
    return int(found[0]), int(found[-1]) + 1


def test_a_crop_has_the_words_inside_it_and_the_frames_around_them(stored):
    letters, valid = stored.crop("a", 0, 40)  # to 0.8 s, where the number begins
    assert text(letters) == "the cat's" and letters.dtype == torch.int64 and frames(valid) == (0, 40)
    letters, valid = stored.crop("a", 10, 30)  # the first word is cut: from its end on
    assert text(letters) == "cat's" and frames(valid) == (5, 30)
    letters, valid = stored.crop("a", 0, 30)  # the second is
    assert text(letters) == "the" and frames(valid) == (0, 15)
    letters, valid = stored.crop("a", 6, 2)
    assert not len(letters) and not valid.any() and valid.shape == (2,)


def test_what_cannot_be_spelled_parts_a_crop_and_the_longer_side_is_taken(stored):
    letters, valid = stored.crop("a", 0, 100)
    assert text(letters) == "the cat's" and frames(valid) == (0, 40)
    letters, valid = stored.crop("a", 30, 100)  # goes on behind the end of the recording, 2 s
    assert text(letters) == "lives so" and frames(valid) == (20, 70)
    letters, valid = stored.crop("a", -10, 60)  # and before its start
    assert text(letters) == "the cat's" and frames(valid) == (10, 50)


def test_frames_are_the_codecs(stored):
    slow = Letters(stored.path, frame_rate=12.5)
    assert (slow.dim, stored.dim) == (4 * SYMBOLS, SYMBOLS)
    letters, valid = slow.crop("a", 0, 8)  # to 0.64 s; the second word begins in the fourth frame
    assert text(letters) == "the" and frames(valid) == (0, 3)
    letters, valid = slow.crop("a", 0, 9)
    assert text(letters) == "the cat's" and frames(valid) == (0, 9)


def test_recordings_without_letters_are_not_there(stored, tmp_path):
    assert "a" in stored
    assert not any(key in stored for key in ("digits", "nothing", "untimed", "silent", "never heard"))
    letters, valid = stored.crop("never heard", 0, 10)
    assert not len(letters) and not valid.any()
    assert "1 texts in" in stored.lacks() and "--asr or --align" in stored.lacks()
    with pytest.raises(TranscriptError, match="codec transcribe"):
        Letters(tmp_path / "none.jsonl", 50.0)


def by_hand(log_probs: torch.Tensor, letters: list[int]) -> float:
    """-log of the sum over all paths."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == letters:
            total += math.exp(sum(float(log_probs[frame, symbol]) for frame, symbol in enumerate(path)))
    return -math.log(total)


@pytest.mark.parametrize("letters", [[1], [1, 2], [1, 1]])
def test_the_loss_is_that_of_all_paths_for_each_letter(letters):
    student = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[False, True, True, True, False]])
    expected = by_hand(student[0, 1:4].log_softmax(1), letters) / len(letters)
    loss = ctc_loss(student, torch.tensor([letters + [0]]), valid, symbols=3)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    places = student[:, :4].reshape(1, 2, 6)  # two in a frame
    expected = by_hand(student[0, :4].log_softmax(1), letters) / len(letters)
    assert ctc_loss(places, torch.tensor([letters]), symbols=3).item() == pytest.approx(expected, rel=1e-5)


def test_masked_frames_and_items_without_a_text_or_room_for_it_do_not_count():
    torch.manual_seed(0)
    student = torch.randn(4, 6, SYMBOLS, requires_grad=True)
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0, 4:], valid[3] = False, False
    letters = torch.tensor([numbered("abc"), [0, 0, 0], [5, 5, 5], numbered("abc")])  # 555 needs 5 frames
    assert torch.isfinite(ctc_loss(student, letters, valid))
    valid[2, 4:] = False
    loss = ctc_loss(student, letters, valid)
    torch.testing.assert_close(loss, ctc_loss(student[:1, :4], letters[:1]))
    loss.backward()
    assert student.grad[0, :4].abs().sum() > 0
    assert student.grad[0, 4:].abs().sum() == 0 and student.grad[1:].abs().sum() == 0
    none = ctc_loss(student, torch.zeros_like(letters), valid)
    assert none.item() == 0 and not torch.autograd.grad(none, student)[0].any()
    assert ctc_loss(student, letters[:, :0], valid).item() == 0


def test_shapes_are_checked():
    student, letters = torch.zeros(2, 6, SYMBOLS), torch.ones(2, 3, dtype=torch.int64)
    assert ctc_loss(student, letters, torch.ones(2, 7, dtype=torch.bool)).isfinite()  # convolutions disagree by one frame
    long, whole = torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 6)
    for wrong in ((student[..., 1:], letters), (student, letters[:1]), (student, letters, long), (student, letters, whole)):
        with pytest.raises(ValueError, match="must be"):
            ctc_loss(*wrong)


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize("name", ["rvq", "factorized_rvq"])
def test_gradients_reach_encoder_quantizer_and_head(name, head):
    torch.manual_seed(0)
    latents = torch.randn(2, 12, 20, requires_grad=True)
    quantizer = quantizers.build(name, dim=12, num_codebooks=4, codebook_size=16)
    quantizer.initialize(latents.detach())
    result = quantizer(latents)
    output = CodecOutput(latents, latents, result.quantized, result.codes, result.losses, result.stats)
    target = SemanticTarget(transcripts="t", loss="ctc", codebooks=(1, 2), head=head)
    heads = SemanticHeads([target], [2 * SYMBOLS], quantizer)
    letters, valid = torch.tensor([numbered("cat"), [1, 2, 0]]), torch.ones(2, 20, dtype=torch.bool)
    heads(output, quantizer, torch.tensor([4, 4]), [(letters, valid)])["semantic_1"].backward()
    assert all(latents.grad[item].abs().sum() > 0 for item in range(2))
    assert all(parameter.grad.abs().sum() > 0 for parameter in heads.parameters())
    if name == "factorized_rvq":
        assert any("out" in key for key, parameter in quantizer.named_parameters() if parameter.grad is not None)


@pytest.mark.parametrize("wrong, words", [
    ({"loss": "ctc"}, "needs transcripts=FILE"),
    ({"transcripts": "t"}, "take loss: ctc"),
    ({"loss": "ctc", "transcripts": "t", "teacher": "hubert"}, "leave teacher=hubert out"),
    ({"loss": "ctc", "transcripts": "t", "source": "content"}, "leave source=content out"),
])
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        SemanticTarget(**wrong)
