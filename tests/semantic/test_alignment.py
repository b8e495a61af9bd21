"""Times of words: CTC alignment against all paths and torchaudio, a tiny CTC model of transformers, matched and spread times."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tiny_teachers import LETTERS, save_ctc

from codec.semantic.alignment import (
    AlignmentError, CtcAligner, Word, fill_times, forced_align, match_times, spread_words, voiced_frames,
)


def random_log_probs(frames, tokens, seed):
    return torch.randn(frames, tokens, generator=torch.Generator().manual_seed(seed)).log_softmax(-1).double().numpy()


def best_path(log_probs, targets, blank):
    """The most probable of all paths that collapse to the targets, and how probable it is."""
    best, score = None, -np.inf
    for path in itertools.product(range(log_probs.shape[1]), repeat=log_probs.shape[0]):
        collapsed = [token for token, before in zip(path, (None, *path)) if token != before and token != blank]
        if collapsed == list(targets):
            total = sum(log_probs[frame, token] for frame, token in enumerate(path))
            if total > score:
                best, score = path, total
    return best, score


def path_of(spans, targets, frames, blank):
    path = np.full(frames, blank)
    for (start, end), token in zip(spans, targets):
        path[start:end] = token
    return tuple(path.tolist())


@pytest.mark.parametrize("targets", [[1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 2], [3, 3, 3]])
@pytest.mark.parametrize("blank", [0, 4])
def test_it_is_the_best_of_all_paths(targets, blank):
    for seed in range(4):
        log_probs = random_log_probs(6, 5, seed)
        spans = forced_align(log_probs, targets, blank)
        path, _ = best_path(log_probs, targets, blank)
        assert path_of(spans, targets, 6, blank) == path


def test_it_agrees_with_torchaudio():
    torchaudio = pytest.importorskip("torchaudio")
    rng = np.random.default_rng(0)
    for seed in range(5):
        log_probs, targets = random_log_probs(80, 12, seed), rng.integers(1, 12, 20)
        theirs, _ = torchaudio.functional.forced_align(
            torch.from_numpy(log_probs).float()[None], torch.from_numpy(targets)[None], blank=0
        )
        assert path_of(forced_align(log_probs, targets), targets, 80, 0) == tuple(theirs[0].tolist())


def test_no_more_frames_than_needed_and_nothing_to_align():
    log_probs = random_log_probs(5, 4, 0)
    assert forced_align(log_probs, [1, 2, 2, 3]).tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]
    assert forced_align(torch.from_numpy(log_probs), []).shape == (0, 2)


@pytest.mark.parametrize("targets, blank, words", [
    ([1, 2, 3, 1, 2, 3], 0, "6 characters needs 6 frames, and the recording has 5"), ([1, 1, 1, 1], 0, "needs 7 frames"),
    ([0], 0, "not the blank"), ([4], 0, "from 0 to 3"), ([-1], 0, "from 0 to 3"), ([1], 9, "blank"),
])
def test_what_cannot_be_aligned_is_refused(targets, blank, words):
    with pytest.raises(AlignmentError, match=words):
        forced_align(random_log_probs(5, 4, 0), targets, blank)


def test_impossible_and_broken_probabilities_are_refused():
    log_probs = random_log_probs(5, 4, 0)
    log_probs[:, 2] = -np.inf
    assert len(forced_align(log_probs, [1, 3])) == 2
    with pytest.raises(AlignmentError, match="no probability"):
        forced_align(log_probs, [1, 2])
    log_probs[0, 0] = np.nan
    with pytest.raises(AlignmentError, match="NaN"):
        forced_align(log_probs, [1])
    with pytest.raises(AlignmentError, match="frames, tokens"):
        forced_align(log_probs[0], [1])


def test_a_long_text():
    """More states than fit into 8 bits; every token where it is all but certain."""
    targets = [1 + number % 5 for number in range(200)]
    log_probs = np.full((600, 6), -10.0)
    for number, token in enumerate(targets):
        log_probs[3 * number : 3 * number + 2, token] = -0.01
        log_probs[3 * number + 2, 0] = -0.01
    assert forced_align(log_probs, targets).tolist() == [[3 * number, 3 * number + 2] for number in range(200)]


# A CTC model


@pytest.fixture(scope="module")
def ctc_dir(tmp_path_factory):
    return save_ctc(tmp_path_factory.mktemp("ctc"))


@pytest.fixture(scope="module")
def aligner(ctc_dir):
    return CtcAligner(ctc_dir)


WAV = np.random.default_rng(0).standard_normal(4000).astype(np.float32)


def test_words_of_a_model_loaded_from_a_folder(aligner):
    assert aligner.hop == 20 and not aligner._model.training
    assert not any(parameter.requires_grad for parameter in aligner._model.parameters())
    words = aligner("Hello, it’s Zoë", WAV)
    assert [word.text for word in words] == ["Hello,", "it’s", "Zoë"]
    assert aligner.tokens("Zoë") == [30, 19, 9] and aligner.tokens("it’s") == [13, 24, 31, 23]  # E for ë
    log_probs = aligner.log_probs(WAV)
    assert log_probs.shape == (199, 32) and np.allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-5)
    targets = [12, 9, 16, 16, 19, 4, 13, 24, 31, 23, 4, 30, 19, 9]
    spans = forced_align(log_probs, targets) * 20 / 16_000
    expected = [spans[[a, b], [0, 1]] for a, b in ((0, 4), (6, 9), (11, 13))]
    assert np.allclose([(word.start, word.end) for word in words], expected)


@pytest.mark.parametrize("kind, letters, between", [("Hubert", LETTERS, "|"), ("Wav2Vec2", LETTERS.lower(), None), ("WavLM", LETTERS, "|")])
def test_other_models_and_vocabularies(kind, letters, between, tmp_path):
    other = CtcAligner(save_ctc(tmp_path, kind, letters, between))
    assert other.tokens("aB") == ([5, 6] if between else [4, 5])
    words = other("a b, it's", WAV)
    assert [word.text for word in words] == ["a", "b,", "it's"]
    assert all(before.end <= after.start for before, after in zip(words, words[1:])) and words[-1].end <= 0.25


def test_the_samples_are_normalised_as_the_model_wants(aligner):
    assert np.allclose(aligner.log_probs(WAV), aligner.log_probs(0.01 * WAV + 1), atol=1e-4)


def test_a_word_of_unknown_characters_shares_the_gap(aligner):
    before, year, after = aligner("about 1862 again", WAV)
    assert (before.end, after.start) == (year.start, year.end)


def test_long_recordings_run_in_windows(aligner, monkeypatch):
    """With a context that covers what the model sees the frames are those of one run."""
    whole = aligner.log_probs(WAV)
    monkeypatch.setattr("codec.semantic.alignment.WINDOW_SECONDS", 0.05)
    monkeypatch.setattr("codec.semantic.alignment.CONTEXT_SECONDS", 0.2)
    windows = aligner.log_probs(WAV)
    assert windows.shape == whole.shape
    monkeypatch.setattr("codec.semantic.alignment.CONTEXT_SECONDS", 1)
    assert np.allclose(aligner.log_probs(WAV), whole, atol=1e-5)


def test_texts_that_do_not_fit_are_refused(aligner):
    with pytest.raises(AlignmentError, match="needs .* frames"):
        aligner("hello " * 50, WAV)
    with pytest.raises(AlignmentError, match="knows 0 of the 8 letters"):
        aligner("Ж Ш 1234 Щ Ю", WAV)
    with pytest.raises(AlignmentError, match="knows 0"):
        aligner("", WAV)
    assert len(aligner("a", WAV[:5])) == 1  # shorter than what one frame sees


def test_what_is_no_ctc_model_is_refused(tmp_path, ctc_dir):
    with pytest.raises(ValueError, match="config.json") as error:
        CtcAligner(tmp_path)
    assert "\n" not in str(error.value)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((ctc_dir / name).read_bytes())
    with pytest.raises(AlignmentError, match="lacks a vocabulary"):
        CtcAligner(tmp_path)


def test_a_model_without_a_ctc_head_is_refused(tmp_path, ctc_dir):
    from transformers import Wav2Vec2Model

    for path in ctc_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Wav2Vec2Model.from_pretrained(ctc_dir).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights are missing.*lm_head"):
        CtcAligner(tmp_path)


# Times of other words


HEARD = (Word("The", 0.0, 0.2), Word("quick,", 0.2, 0.5), Word("brown", 0.5, 0.9), Word("fox", 1.1, 1.5))


def times(words):
    return [(word.text, pytest.approx(word.start), pytest.approx(word.end)) for word in words]


def test_equal_words_take_the_heard_times():
    assert times(match_times("THE QUICK BROWN FOX", HEARD, 2.0)) == [
        ("THE", 0.0, 0.2), ("QUICK", 0.2, 0.5), ("BROWN", 0.5, 0.9), ("FOX", 1.1, 1.5)
    ]


def test_other_words_share_the_time_of_what_was_heard():
    assert times(match_times("the a bcd brown fox", HEARD, 2.0)) == [
        ("the", 0.0, 0.2), ("a", 0.2, 0.275), ("bcd", 0.275, 0.5), ("brown", 0.5, 0.9), ("fox", 1.1, 1.5)
    ]


def test_unheard_words_share_the_gap():
    assert times(match_times("the quick brown red fox", HEARD, 2.0))[3] == ("red", 0.9, 1.1)
    assert times(match_times("the quick brown fox ran", HEARD, 2.0))[4] == ("ran", 1.5, 2.0)
    assert times(match_times("quick fox", HEARD, 2.0)) == [("quick", 0.2, 0.5), ("fox", 1.1, 1.5)]


def test_another_text_is_refused():
    with pytest.raises(AlignmentError, match="of 4 words .* 1 were heard"):
        match_times("the wrong text altogether", HEARD, 2.0)


def test_filled_times_are_in_order():
    filled = fill_times([("ab", None), ("c", (1.0, 1.5)), ("d", (0.9, 0.95)), ("e", None)], 2.0)
    assert times(filled) == [("ab", 0.0, 1.0), ("c", 1.0, 1.5), ("d", 1.0, 1.0), ("e", 1.0, 2.0)]


def burst(*seconds):
    """Sound and silence in turn, beginning with silence."""
    parts = [np.zeros(int(16_000 * s)) if i % 2 == 0 else np.sin(np.arange(int(16_000 * s))) for i, s in enumerate(seconds)]
    return np.concatenate(parts).astype(np.float32)


def test_words_are_spread_over_the_voiced_part():
    wav = burst(0.5, 1.0, 0.4, 1.0, 0.3)
    assert voiced_frames(wav).nonzero()[0].tolist() == [*range(25, 75), *range(95, 145)]
    first, second, third = spread_words("aaaaa bbbbb cccccccccc", wav)  # 5 + 5 | 10 characters: the pause lies between
    assert times([first, second, third]) == [("aaaaa", 0.5, 1.0), ("bbbbb", 1.0, 1.5), ("cccccccccc", 1.9, 2.9)]
    (word,) = spread_words("all", wav)
    assert times([word]) == [("all", 0.5, 2.9)]
    assert spread_words("  ", wav) == ()
    quieter = wav + 1e-3 * np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)
    assert spread_words("aaaaa bbbbb", quieter) == spread_words("aaaaa bbbbb", 0.1 * quieter)


def test_silence_has_no_words():
    with pytest.raises(AlignmentError, match="silent"):
        spread_words("hello", np.zeros(16_000, np.float32))
    assert voiced_frames(np.zeros(0, np.float32)).shape == (0,)
