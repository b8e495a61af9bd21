"""Multi-codebook VQ as a codec's quantizer: the joint search, coding, training."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys

import pytest
import torch
from distributed import run_two
from torch import Tensor

import quantizers
from quantizers.joint_search import JointSearch
from quantizers.mvq import MultiCodebookVQ


def make(dim: int = 6, books: int = 4, size: int = 16, seed: int = 0, **options) -> MultiCodebookVQ:
    """Without settling, so that the search is what is tested."""
    torch.manual_seed(seed)
    return MultiCodebookVQ(dim, books, size, **{"settle": False} | options).eval()


def make_training(
    dim: int = 6, books: int = 3, size: int = 16, seed: int = 0, **options
) -> tuple[MultiCodebookVQ, Tensor]:
    quantizer = make(dim, books, size, seed, **options).train()
    quantizer.prepare_training(frames_per_step=200)
    quantizer.initialize(torch.randn(1, dim, 1000))
    return quantizer, torch.randn(4, dim, 50)


def error(quantizer: MultiCodebookVQ, latents: Tensor, k: int | None = None) -> float:
    return float((quantizer.decode(quantizer.encode(latents, k)) - latents).square().mean())


# The search


def energy(x: Tensor, centers: Tensor, indices: Tensor) -> Tensor:
    """(N,) squared errors."""
    total = sum(centers[n][indices[:, n]] for n in range(centers.shape[0]))
    return (x - total).double().square().sum(1)


@pytest.mark.parametrize("books, size, dim", [(1, 16, 4), (2, 16, 4), (3, 8, 6), (5, 33, 8), (8, 64, 16), (2, 300, 8)])
def test_no_round_makes_a_frame_worse(books, size, dim):
    torch.manual_seed(0)
    centers, x = torch.randn(books, size, dim), 2 * torch.randn(200, dim)
    search = JointSearch(centers)
    unary = search.unary(x)
    for start in (torch.randint(size, (200, books)), search.start(unary, 1)):
        before, present = energy(x, centers, start), start
        for rounds in (0, 1, 2, 3, 5):
            after = energy(x, centers, search.refine(unary, start, rounds))
            assert (after <= before * (1 + 1e-5) + 1e-5).all(), rounds
            before = after
        if books > 1:
            assert after.mean() < 0.9 * energy(x, centers, present).mean()


@pytest.mark.parametrize("books, size", [(2, 16), (3, 5), (4, 4)])
def test_small_searches_find_the_best_of_all_combinations(books, size):
    """Where all candidates are kept the last merge is exhaustive for 2 codebooks; more need a few rounds."""
    torch.manual_seed(0)
    centers, x = torch.randn(books, size, 5), torch.randn(50, 5)
    search = JointSearch(centers)
    unary = search.unary(x)
    found = energy(x, centers, search.refine(unary, search.start(unary, 1), 5))
    combinations = itertools.product(range(size), repeat=books)
    every = [energy(x, centers, torch.tensor(indices).expand(50, books)) for indices in combinations]
    best = torch.stack(every).min(0).values
    share = (found <= best * (1 + 1e-5) + 1e-6).float().mean()
    assert share == 1 if books == 2 else share > 0.9


def test_a_merge_counts_every_product():
    """Five codebooks make groups of 1, 2 and 4, whose predicted gains must be what the error really changes by."""
    torch.manual_seed(0)
    centers, x = torch.randn(5, 7, 6).double(), torch.randn(30, 6).double()
    search = JointSearch(centers)
    unary = -torch.einsum("nd,ckd->nck", x, centers) + 0.5 * centers.square().sum(2)
    present = torch.randint(7, (30, 5))
    groups = []
    merge = search._merge
    search._merge = lambda *args: groups.append(merge(*args)) or groups[-1]
    search._round(unary, present + search.first, [3, 1, 0, 4, 2])
    assert len(groups) == 4 and len(groups[-1][0]) == 5
    for entries, gain in groups:
        for candidate in range(gain.shape[1]):
            changed = present.clone()
            for entry in entries:
                book, index = entry[:, candidate] // 7, entry[:, candidate] % 7
                changed.scatter_(1, book[:, None].long(), index[:, None].long())
            truth = 0.5 * (energy(x, centers, changed) - energy(x, centers, present))
            torch.testing.assert_close(gain[:, candidate], truth)


# Encoding and decoding


@pytest.mark.parametrize("options", [{}, {"stages": (3, 1)}, {"start": "predicted"}])
@pytest.mark.parametrize("dim, size", [(6, 5), (7, 33), (64, 256)])
def test_a_frame_alone_has_the_codes_of_a_frame_among_many(dim, size, options):
    quantizer = make(dim, 4, size, **options)
    twins = quantizer.codebooks[:, ::2] * (1 + 1e-7)  # so near that rounding alone decides: it must be the same one
    quantizer.codebooks[:, 1::2] = twins[:, : size // 2]
    latents = torch.randn(1, dim, 400)
    codes = quantizer.encode(latents)
    for start in (0, 1, 130):
        for frames in (1, 2, 3, 7, 8, 15, 16, 17, 100, 257):
            alone = quantizer.encode(latents[..., start : start + frames])
            assert torch.equal(alone, codes[..., start : start + frames]), (start, frames)
    batch = quantizer.encode(latents.reshape(dim, 4, 100).transpose(0, 1))
    assert torch.equal(batch.transpose(0, 1).flatten(1), codes[0])


def test_two_codebooks_searched_in_full_do_not_see_other_frames():
    quantizer = make(8, 2, 256)
    latents = torch.randn(1, 8, 300)
    codes = quantizer.encode(latents)
    for frames in (1, 5, 16, 17, 257):
        assert torch.equal(quantizer.encode(latents[..., 3 : 3 + frames]), codes[..., 3 : 3 + frames])


def test_decode_is_the_sum_of_the_vectors_and_the_mean():
    quantizer = make()
    quantizer.mean.fill_(3.0)
    codes = torch.randint(16, (2, 4, 9))
    expected = 3 + sum(quantizer.codebooks[n][codes[:, n]] for n in range(4)).mT
    torch.testing.assert_close(quantizer.decode(codes), expected)


def test_codebooks_only_decode_together():
    quantizer = make()
    assert quantizer.counts == (4,) and quantizer.bits_per_frame() == 16
    with pytest.raises(ValueError, match="the 4 there are only decode together"):
        quantizer.encode(torch.zeros(1, 6, 3), 2)
    with pytest.raises(ValueError, match="only decode together"):
        quantizer.decode(torch.zeros(1, 3, 5, dtype=torch.int64))


def test_stages_nest():
    quantizer, _ = make_training(books=8, stages=(3, 3, 2))
    quantizer.eval()
    latents = torch.randn(2, 6, 100)
    assert quantizer.counts == (3, 6, 8)
    codes = quantizer.encode(latents)
    errors = [float(latents.square().mean())]
    for k in (3, 6, 8):
        assert torch.equal(quantizer.encode(latents, k), codes[:, :k])
        errors.append(error(quantizer, latents, k))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.3 * errors[1]
    with pytest.raises(ValueError, match="there are 3, 6, 8"):
        quantizer.encode(latents, 4)


def test_stages_are_searched_in_turn_unless_a_beam_goes_through_all():
    quantizer, _ = make_training(books=8, stages=(3, 3, 2))
    quantizer.eval()
    latents = torch.randn(1, 6, 300)
    left, in_turn = latents[0].T - quantizer.mean, []
    for first, last in ((0, 3), (3, 6), (6, 8)):
        search = JointSearch(quantizer.codebooks[first:last])
        unary = search.unary(left)
        in_turn.append(search.refine(unary, search.start(unary, 48), 5))
        left = left - sum(quantizer.codebooks[first + n][in_turn[-1][:, n]] for n in range(last - first))
    codes = quantizer.encode(latents)
    assert quantizer.beam == 1 and torch.equal(codes[0].T, torch.cat(in_turn, 1))
    assert torch.equal(quantizer.encode(latents, 3, beam=16), codes[:, :3])  # one stage has a joint search
    through = quantizer.encode(latents, beam=16)
    nearer = (quantizer.decode(through) - latents).square().mean()
    assert nearer < 0.9 * (quantizer.decode(codes) - latents).square().mean()
    assert (quantizer.encode(quantizer.decode(through), beam=16) == through).float().mean() > 0.99
    assert make().beam == 48  # one stage


@torch.no_grad()
def test_settled_codes_survive_decoding_and_encoding():
    quantizer, _ = make_training(dim=12, books=6)
    quantizer.eval()
    quantizer.beam = 2  # so that there is something to settle
    latents = torch.randn(2, 12, 200)
    codes, name = quantizer.encode(latents), quantizer.id
    quantizer.settle = True
    settled = quantizer.encode(latents)
    assert quantizer.id != name
    assert (quantizer.encode(quantizer.decode(codes)) == codes).float().mean() < 0.99
    assert (quantizer.encode(quantizer.decode(settled)) == settled).float().mean() > 0.99
    before, after = ((quantizer.decode(found) - latents).square().mean() for found in (codes, settled))
    assert after < 1.2 * before
    for frames in (slice(0, 1), slice(57, 60)):
        assert torch.equal(quantizer.encode(latents[..., frames]), settled[..., frames])
    assert quantizer.encode(latents[..., :0]).shape == (2, 6, 0)


@torch.no_grad()
def test_one_stage_settles_by_default():
    torch.manual_seed(0)
    quantizer = MultiCodebookVQ(12, 6, 16)
    quantizer.prepare_training(frames_per_step=200)
    quantizer.initialize(torch.randn(1, 12, 1000))
    latents = torch.randn(1, 12, 400)
    codes = quantizer.eval().encode(latents)
    again = quantizer.encode(quantizer.decode(codes))
    first, second = ((quantizer.decode(found) - latents).square().mean() for found in (codes, again))
    assert quantizer.settle and (codes == again).float().mean() > 0.99 and second < 1.01 * first
    for options in ({"num_codebooks": 1}, {"num_codebooks": 2}, {"rounds": 0}, {"start": "predicted"}, {"stages": (3, 3)}):
        assert not MultiCodebookVQ(**{"dim": 12, "num_codebooks": 6, "codebook_size": 16} | options).settle
    assert MultiCodebookVQ(12, 2, 512).settle


def test_more_rounds_are_no_worse():
    quantizer, _ = make_training(dim=16, books=8, size=32)
    quantizer.eval().beam = 1
    latents, errors = torch.randn(1, 16, 500), []
    for quantizer.rounds in (0, 1, 3, 5):
        errors.append(error(quantizer, latents))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.97 * errors[0]


def test_what_changes_the_codebooks_changes_the_search():
    quantizer, latents = make(), torch.randn(1, 6, 50)
    quantizer.encode(latents)
    fresh = make(seed=5)
    changes = (
        lambda: quantizer.codebooks.data.copy_(fresh.codebooks),
        lambda: quantizer.load_state_dict(make(seed=7).state_dict()),
    )
    for change in changes:
        change()
        fresh.load_state_dict(quantizer.state_dict())
        assert torch.equal(quantizer.encode(latents), copy.deepcopy(fresh).encode(latents))
    assert torch.equal(pickle.loads(pickle.dumps(quantizer)).encode(latents), quantizer.encode(latents))


@torch.no_grad()
def test_half_precision_latents_and_autocast_search_in_float32():
    quantizer, latents = make(8, 4, 32), torch.randn(1, 8, 200).bfloat16()
    codes = quantizer.encode(latents.float())
    assert torch.equal(quantizer.encode(latents), codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(latents.float()), codes)


def test_no_frames_are_fine():
    quantizer = make()
    assert quantizer.encode(torch.zeros(2, 6, 0)).shape == (2, 4, 0)
    assert quantizer.decode(torch.zeros(2, 4, 0, dtype=torch.int64)).shape == (2, 6, 0)


def test_coding_needs_torch_alone():
    program = (
        "import sys; sys.modules['vector_quantize_pytorch'] = None; import torch, quantizers\n"
        "q = quantizers.build('mvq', dim=4, num_codebooks=3, codebook_size=8, start='predicted').eval()\n"
        "x = torch.randn(1, 4, 9); assert q.decode(q.encode(x)).shape == x.shape and q(x).codes.shape == (1, 3, 9)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("options, message", [
    ({"stages": (2, 3)}, "add up to num_codebooks=4"), ({"stages": (4, 0)}, "at least 1"), ({"stages": ()}, "at least 1"),
    ({"rounds": -1}, "0 or more"), ({"beam": 0}, "at least 1"), ({"start": "zero"}, "beam and predicted"),
    ({"decay": 1.0}, r"outside \[0, 1\)"),
    ({"stages": (2, 2), "settle": True}, "give them beam"), ({"start": "predicted", "settle": True}, "set start"),
    ({"kmeans_iters": 0}, "at least 1"),
    ({"size": 8192}, "more stages"), ({"size": 1}, "outside 2..65536"),
    ({"books": 0}, "at least 1"),
])
def test_bad_configuration_says_the_remedy(options, message):
    with pytest.raises(ValueError, match=message) as refused:
        make(**options)
    assert "\n" not in str(refused.value)


def test_large_codebooks_may_stand_alone_in_their_stages():
    assert make(4, 2, 10_000, stages=(1, 1)).encode(torch.zeros(1, 4, 2)).shape == (1, 2, 2)


# Training


@pytest.mark.parametrize("options", [{}, {"stages": (2, 1)}, {"start": "predicted"}])
def test_training_and_encoding_agree(options):
    quantizer, latents = make_training(**options)
    quantizer.eval()
    state = copy.deepcopy(quantizer.state_dict())
    output = quantizer(latents)
    assert torch.equal(output.codes, quantizer.encode(latents))
    torch.testing.assert_close(output.quantized, quantizer.decode(output.codes))
    assert all(torch.equal(value, state[name]) for name, value in quantizer.state_dict().items())
    fresh = make(books=3, seed=3, **options)
    missing, unexpected = fresh.load_state_dict(quantizer.inference_state(), strict=False)
    assert not unexpected and torch.equal(fresh.encode(latents), output.codes) and fresh.id == quantizer.id


def test_gradients_pass_straight_through():
    quantizer, latents = make_training()
    latents.requires_grad_(True)
    weights = torch.randn_like(latents)
    (quantizer(latents).quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_active_limits_the_stages_of_each_item():
    quantizer, latents = make_training(stages=(1, 2))
    quantizer.eval()
    active = torch.tensor([3, 1, 1, 3])
    output = quantizer(latents, active)
    for item, k in enumerate(active.tolist()):
        expected = quantizer.decode(output.codes[item : item + 1, :k])
        torch.testing.assert_close(output.quantized[item : item + 1], expected)
    with pytest.raises(ValueError, match="active"):
        quantizer(latents, torch.tensor([2, 1, 1, 3]))


@pytest.mark.parametrize("options", [{}, {"stages": (2, 1)}])
def test_works_out_of_the_box_and_follows_what_drifts(options):
    torch.manual_seed(0)
    quantizer = quantizers.build("mvq", dim=8, num_codebooks=3, codebook_size=32, decay=0.9, **options)

    def step(shift: float) -> Tensor:
        return quantizer(torch.randn(4, 8, 150) * 0.3 + shift).stats["relative_error"][-1]

    first = step(0.0)
    jumped = step(3.0)
    for _ in range(60):
        last = step(3.0)
    assert quantizer.initialized and last < 2 * first and last < 0.2 * jumped
    assert error(quantizer.eval(), torch.randn(4, 8, 150) * 0.3 + 3) / 0.09 < 2 * first


def test_joint_training_beats_residual_training():
    """Equal bits, the same latents, averages and steps."""
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    results = {}
    for name in ("mvq", "rvq"):
        torch.manual_seed(0)
        quantizer = quantizers.build(name, dim=12, num_codebooks=4, codebook_size=32, decay=0.95).train()
        for _ in range(80):
            quantizer((mixing @ torch.randn(12, 600))[None])
        results[name] = error(quantizer.eval(), (mixing @ torch.randn(12, 3000))[None])
    assert results["mvq"] < 0.93 * results["rvq"]


def test_the_classifier_learns_without_touching_the_latents():
    quantizer, _ = make_training(dim=6, books=2, size=16, start="predicted")
    for layer in quantizer.to_logits:
        torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        latents = torch.randn(1, 6, 400, requires_grad=True)
        output = quantizer(latents)
        optimizer.zero_grad()
        (output.losses["prediction"] + output.losses["prediction_entropy"]).backward()
        assert latents.grad is None
        optimizer.step()
        losses.append(output.losses["prediction"].item())
    assert losses[-1] < 0.7 * losses[0]
    quantizer.eval().rounds = 0
    assert error(quantizer, torch.randn(1, 6, 500)) < 0.9


def test_the_classifier_starts_fitted():
    quantizer, _ = make_training(dim=6, books=2, size=16, start="predicted")
    latents = torch.randn(1, 6, 1000)
    refined = quantizer.eval().encode(latents)
    quantizer.rounds = 0
    assert (quantizer.encode(latents) == refined).float().mean() > 0.4  # 1 in 16 by chance


def test_dead_codes_restart():
    quantizer, _ = make_training()
    quantizer.codebooks[1, 3:] = 100.0  # never of use
    quantizer.start_from_codebooks()
    for _ in range(260):  # 0.99^230 is the tenth of the expected use below which a code is dead
        stats = quantizer(torch.randn(4, 6, 50)).stats
    assert (stats["usage"] > 0.9).all() and quantizer.codebooks.abs().max() < 10


@pytest.mark.parametrize("options", [{}, {"start": "predicted"}])
def test_padding_trains_nothing(options):
    quantizer, _ = make_training(**options)
    twin = copy.deepcopy(quantizer)
    latents, mask = torch.randn(2, 6, 60), torch.ones(2, 60, dtype=torch.bool)
    mask[1, 35:] = False
    padded = latents.masked_fill(~mask[:, None], float("nan"))
    torch.manual_seed(1)
    output = quantizer(padded, mask=mask)
    torch.manual_seed(1)
    frames = torch.cat([latents[0], latents[1, :, :35]], 1)[None]
    expected = twin(frames)
    torch.testing.assert_close(output.losses, expected.losses)
    torch.testing.assert_close(quantizer.state_dict(), twin.state_dict())
    assert torch.equal(output.codes[1, :, :35], expected.codes[0, :, 60:])
    assert (output.codes[1, :, 35:] == 0).all() and (output.quantized[1, :, 35:] == 0).all()


def test_shrinking_the_latents_gains_nothing():
    quantizer, latents = make_training()
    quantizer.eval()
    small = copy.deepcopy(quantizer)
    small.codebooks.mul_(0.1)
    small.mean.mul_(0.1)
    torch.testing.assert_close(small(0.1 * latents).losses, quantizer(latents).losses, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"start": "predicted", "stages": (2, 1)}])
def test_training_resumes_bit_by_bit(options):
    batches = [torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(step)) for step in range(12)]
    quantizer, _ = make_training(**options)
    for batch in batches[:6]:
        quantizer(batch)
    saved, random_state = copy.deepcopy(quantizer.state_dict()), torch.get_rng_state()
    for batch in batches[6:]:
        expected = quantizer(batch)
    resumed = make(books=3, seed=9, **options).train()
    resumed.prepare_training(frames_per_step=200)
    resumed.load_state_dict(saved)
    torch.set_rng_state(random_state)
    for batch in batches[6:]:
        output = resumed(batch)
    assert torch.equal(output.codes, expected.codes) and torch.equal(output.quantized, expected.quantized)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("start", ["beam", "predicted"])
@pytest.mark.parametrize("latents", [
    torch.zeros(1, 6, 100), torch.full((1, 6, 100), 3.0), torch.randn(1, 6, 5), torch.randn(1, 6, 3).repeat(1, 1, 30),
], ids=["zeros", "constant", "few", "repeated"])
def test_degenerate_data_neither_crash_nor_spoil(latents, start):
    quantizer = make(books=3, start=start).train()
    for _ in range(5):
        output = quantizer(latents)
    quantizer(torch.randn(1, 6, 100))
    assert all(value.isfinite().all() for value in [*quantizer.state_dict().values(), output.quantized])
    assert all(value.isfinite().all() for value in [*output.losses.values(), *output.stats.values()])


def test_latents_that_are_not_finite_are_refused():
    quantizer, latents = make_training()
    latents[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantizer(latents)


def _train_on_two(rank: int) -> dict[str, Tensor]:
    torch.manual_seed(rank)  # different data and different random rounds
    quantizer = MultiCodebookVQ(6, 3, 16, stages=(2, 1), start="predicted")
    for step in range(6):
        frames = 40 if rank == 0 else (25, 0, 3)[step % 3]
        quantizer(rank + torch.randn(2, 6, 40), mask=(torch.arange(40) < frames).expand(2, 40))
    return {"codebooks": quantizer.codebooks, "mean": quantizer.mean, "weight": quantizer.to_logits[0].weight.detach()}


def test_two_processes_hold_the_same_codebooks():
    first, second = run_two(_train_on_two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first["mean"], torch.full((6,), 25 / 65), atol=0.4, rtol=0)
