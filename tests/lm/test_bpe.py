"""Acoustic BPE: nothing is lost, repetition becomes short, and files come back."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("tokenizers")
from codec.lm.bpe import MOST, AcousticBPE  # noqa: E402


def phrases(seed, count=40, num_ids=50):
    """Sequences out of five phrases of four ids, with noise between them."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(num_ids, (5, 4), generator=torch.Generator().manual_seed(9))
    parts = [part for index in torch.randint(5, (count,), generator=generator).tolist()
             for part in (words[index], torch.randint(num_ids, (1,), generator=generator))]
    return torch.cat(parts)


@pytest.fixture(scope="module")
def bpe():
    return AcousticBPE.train((phrases(seed) for seed in range(20)), num_ids=50, size=80)


def test_sequences_get_shorter_and_come_back(bpe, tmp_path):
    assert (bpe.size, bpe.num_ids) == (80, 50) and len(bpe.lengths) == 80 and bpe.lengths[:50].eq(1).all()
    bpe.save(tmp_path / "bpe.json")
    back = AcousticBPE.load(tmp_path / "bpe.json")
    for seed in range(100, 110):
        ids = phrases(seed)
        short = bpe.encode(ids)
        assert len(short) < 0.6 * len(ids) and short.max() >= 50
        assert torch.equal(bpe.decode(short), ids) and int(bpe.lengths[short].sum()) == len(ids)
        assert torch.equal(back.encode(ids), short) and torch.equal(back.decode(short), ids)
    noise = torch.randint(50, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(bpe.decode(bpe.encode(noise)), noise)


def test_ids_that_never_came_and_the_ends_of_the_range():
    untrained = AcousticBPE.train([torch.tensor([3, 3])], num_ids=70_000, size=70_000)
    ids = torch.tensor([0, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 69_999])
    assert torch.equal(untrained.encode(ids), ids) and torch.equal(untrained.decode(ids), ids)
    assert untrained.encode(ids[:0]).shape == untrained.decode(ids[:0]).shape == (0,)


def test_what_does_not_fit_is_refused(bpe, tmp_path):
    for ids in (torch.tensor([0, 50]), torch.tensor([0, -1])):
        with pytest.raises(ValueError, match=f"place 1: id {ids[1]} does not lie in 0 to 49"):
            bpe.encode(ids)
    with pytest.raises(ValueError, match="does not lie in 0 to 79"):
        bpe.decode(torch.tensor([80]))
    with pytest.raises(ValueError, match="one sequence"):
        bpe.encode(torch.zeros(1, 3).long())
    with pytest.raises(ValueError, match="place 0"):
        AcousticBPE.train([torch.tensor([9])], num_ids=9, size=20)
    for numbers in ((0, 5), (10, 9), (MOST + 1, MOST + 1)):
        with pytest.raises(ValueError, match="must lie in"):
            AcousticBPE.train([], *numbers)
    (tmp_path / "x").write_text("{}")
    for name in ("x", "none"):
        with pytest.raises(ValueError, match="is no BPE that can be read"):
            AcousticBPE.load(tmp_path / name)
