from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import quantizers
from quantizers.rvq import ResidualVQ


def make(dim: int = 6, books: int = 4, size: int = 16, seed: int = 0) -> ResidualVQ:
    torch.manual_seed(seed)
    return ResidualVQ(dim, books, size)


def make_training(dim: int = 6, books: int = 3, size: int = 16, frames: int = 200) -> tuple[ResidualVQ, Tensor]:
    quantizer = make(dim, books, size).train()
    latents = torch.randn(4, dim, frames // 4)
    quantizer.prepare_training(frames_per_step=frames)
    quantizer.initialize(torch.randn(1, dim, 1000))
    return quantizer, latents


# Encoding and decoding


@pytest.mark.parametrize("dim, books, size", [(6, 4, 16), (8, 3, 5), (64, 8, 1024), (3, 2, 2)])
def test_encode_is_the_nearest_vector_at_every_stage(dim, books, size):
    """Against a search in float64; a difference is allowed only where two vectors are equally near."""
    quantizer = make(dim, books, size)
    latents = torch.randn(2, dim, 80)
    codes = quantizer.encode(latents)
    assert codes.shape == (2, books, 80) and codes.dtype == torch.int64
    residual = latents.mT.double()
    for stage, book in enumerate(quantizer.codebooks.double()):
        distances = torch.cdist(residual, book, compute_mode="donot_use_mm_for_euclid_dist").square()  # (2, 80, size)
        nearest = distances.min(-1).values
        chosen = distances.gather(2, codes[:, stage, :, None])[..., 0]
        assert (chosen <= nearest * (1 + 1e-5) + 1e-6).all()
        assert (codes[:, stage] == distances.argmin(-1)).float().mean() > 0.999
        residual = residual - book[codes[:, stage]]


def test_decode_is_the_sum_of_the_first_vectors():
    quantizer = make()
    codes = torch.randint(16, (2, 4, 9))
    for k in range(1, 5):
        expected = sum(quantizer.codebooks[stage][codes[:, stage]] for stage in range(k)).mT
        torch.testing.assert_close(quantizer.decode(codes[:, :k]), expected)


def test_fewer_codebooks_are_the_first_ones():
    quantizer, latents = make(), torch.randn(2, 6, 30)
    codes = quantizer.encode(latents)
    errors = []
    for k in range(1, 5):
        assert torch.equal(quantizer.encode(latents, k), codes[:, :k])
        errors.append((latents - quantizer.decode(codes[:, :k])).square().mean())
    assert quantizer.codebook_sizes == (16,) * 4 and len(errors) == 4


@pytest.mark.parametrize("dim, size", [(6, 5), (7, 33), (64, 1024)])
def test_a_frame_alone_has_the_codes_of_a_frame_among_many(dim, size):
    quantizer = make(dim, 4, size)
    twins = quantizer.codebooks[:, ::2] * (1 + 1e-7)  # so near that rounding alone decides: it must be the same one
    quantizer.codebooks[:, 1::2] = twins[:, : size // 2]
    latents = torch.randn(1, dim, 400)
    codes = quantizer.encode(latents)
    for start in (0, 1, 5, 130):
        for frames in (*range(1, 20), 100, 257):
            alone = quantizer.encode(latents[..., start : start + frames])
            assert torch.equal(alone, codes[..., start : start + frames]), (start, frames)


def test_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import ResidualVQ as Reference

    ours = make(8, 4, 32)
    theirs = Reference(dim=8, num_quantizers=4, codebook_size=32).eval()
    for layer, book in zip(theirs.layers, ours.codebooks):
        layer._codebook.embed.data.copy_(book[None])
        layer._codebook.initted.fill_(True)
    latents = torch.randn(2, 8, 100)
    quantized, indices, _ = theirs(latents.mT)
    codes = ours.encode(latents)
    same = (indices.mT == codes).all(1)  # once a tie goes the other way, all later stages do
    assert same.float().mean() > 0.99
    torch.testing.assert_close(ours.decode(codes).mT[same], quantized[same], rtol=0, atol=1e-5)


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


def test_what_does_not_fit_is_refused():
    quantizer = make()
    for k in (0, 5, -1):
        with pytest.raises(ValueError, match="1 to 4"):
            quantizer.encode(torch.zeros(1, 6, 3), k)
    with pytest.raises(ValueError, match="1 to 4"):
        quantizer.decode(torch.zeros(1, 5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must be \(B, 6, T\)"):
        quantizer.encode(torch.zeros(1, 3, 6))
    for size in (1, 65537):
        with pytest.raises(ValueError, match="outside 2..65536"):
            ResidualVQ(4, 1, size)
    with pytest.raises(ValueError, match="at least 1"):
        ResidualVQ(4, 0)
    for options in ({"decay": 1.0}, {"decay": -0.1}, {"gradient": "rotated"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ResidualVQ(4, 2, 16, **options)


def test_families_are_built_by_name():
    assert "rvq" in quantizers.available()
    assert isinstance(quantizers.build("rvq", dim=4, num_codebooks=2, codebook_size=8), ResidualVQ)
    with pytest.raises(ValueError, match="no quantizer is named 'x'; there is rvq"):
        quantizers.build("x", dim=4, num_codebooks=2, codebook_size=8)


# Training


def test_gradients_pass_straight_through():
    quantizer, latents = make_training()
    latents.requires_grad_(True)
    output = quantizer(latents)
    weights = torch.randn_like(latents)
    (output.quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_training_and_encoding_agree():
    quantizer, latents = make_training()
    quantizer.eval()
    output = quantizer(latents)
    codes = quantizer.encode(latents)
    assert (output.codes == codes).all(1).float().mean() > 0.99
    same = (output.codes == codes).all(1)
    torch.testing.assert_close(output.quantized.mT[same], quantizer.decode(codes).mT[same], rtol=0, atol=1e-5)


def test_commitment_falls_as_it_pulls_the_latents():
    quantizer, latents = make_training()
    quantizer.eval()
    latents.requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=0.03)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = quantizer(latents).losses["commitment"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_shrinking_the_latents_does_not_lower_the_commitment():
    quantizer, latents = make_training()
    quantizer.eval()
    small = copy.deepcopy(quantizer)
    small.codebooks *= 0.1
    torch.testing.assert_close(small(0.1 * latents).losses, quantizer(latents).losses, rtol=1e-3, atol=1e-5)


def test_active_limits_the_codebooks_of_each_item():
    quantizer, latents = make_training()
    quantizer.eval()
    latents.requires_grad_(True)
    active = torch.tensor([3, 1, 2, 3])
    output = quantizer(latents, active)
    for item, k in enumerate(active.tolist()):
        expected = quantizer.decode(output.codes[item : item + 1, :k])
        torch.testing.assert_close(output.quantized[item : item + 1], expected, rtol=0, atol=1e-5)
    assert output.codes.shape == (4, 3, 50)
    # Only the codebooks in use pull: with one each, the loss is a third of what that stage alone would give.
    single = quantizer(latents, torch.ones(4, dtype=torch.int64)).losses["commitment"]
    residual = latents.detach() - quantizer.decode(output.codes[:, :1])
    power = latents.detach().mT.sub(latents.detach().mT.mean((0, 1))).square().mean()
    torch.testing.assert_close(single.detach(), residual.square().mean() / power / 3, rtol=1e-4, atol=1e-6)


def test_codebooks_learn():
    torch.manual_seed(0)
    quantizer = ResidualVQ(4, 2, 16, decay=0.8).train()
    quantizer.prepare_training(frames_per_step=400)
    quantizer.initialize(torch.randn(1, 4, 400))
    def shifted() -> Tensor:
        return torch.randn(1, 4, 400) * 0.3 + torch.tensor([3.0, -2.0, 1.0, 0.0])[:, None]

    first = quantizer(shifted()).stats["relative_error"][-1]
    for _ in range(60):
        last = quantizer(shifted()).stats["relative_error"][-1]
    assert last < 0.5 and last < 0.2 * first
    test = shifted()
    error = (quantizer.decode(quantizer.encode(test)) - test).square().mean() / 0.09
    assert error < 0.5  # what encodes is what was trained


def test_dead_codes_restart():
    quantizer, latents = make_training(books=1, frames=400)
    quantizer.codebooks[0, 3:] = 100.0  # never the nearest
    quantizer.start_from_codebooks()
    for _ in range(260):  # 0.99^230 is the tenth of the expected use below which a code is dead
        stats = quantizer(torch.randn(4, 6, 100)).stats
    assert stats["usage"][0] > 0.9 and quantizer.codebooks.abs().max() < 10


def test_initialize_fills_every_codebook():
    torch.manual_seed(0)
    quantizer = ResidualVQ(6, 4, 32).train()
    quantizer.prepare_training(frames_per_step=200)
    latents = 5 + 0.01 * torch.randn(2, 6, 1000)
    quantizer.initialize(latents)
    before = quantizer.codebooks.clone()
    residuals = latents
    for k in range(1, 5):
        codes = quantizer.encode(latents, k)
        assert codes[:, k - 1].unique().numel() > 24, k
        error = (quantizer.decode(codes) - latents).square().mean()
        assert error < residuals.square().mean()
        residuals = quantizer.decode(codes) - latents
    quantizer(latents[..., :100])  # the first step must not start them again
    assert (quantizer.codebooks - before).abs().max() < 0.5 * 0.01 * 6


def test_what_initializes_does_not_outweigh_the_steps():
    """A hundred times the frames of a step: a code must still follow the first latents that want it elsewhere."""
    torch.manual_seed(0)
    quantizer = ResidualVQ(2, 1, 8, decay=0.9).train()
    quantizer.prepare_training(frames_per_step=100)
    quantizer.initialize(torch.randn(1, 2, 10_000))
    before = quantizer.codebooks[0, 3].clone()
    quantizer((before + 0.01)[None, :, None].repeat(1, 1, 100))
    moved = (quantizer.codebooks[0, 3] - before) / 0.01  # 10 of about 21 frames that count
    assert ((0.2 < moved) & (moved < 0.8)).all()


@pytest.mark.parametrize("latents", [
    torch.zeros(1, 6, 100), torch.full((1, 6, 100), 3.0), torch.randn(1, 6, 5), torch.randn(1, 6, 3).repeat(1, 1, 30),
], ids=["zeros", "constant", "few", "repeated"])
def test_degenerate_data_neither_crash_nor_spoil(latents):
    torch.manual_seed(0)
    quantizer = ResidualVQ(6, 3, 16).train()
    quantizer.prepare_training(frames_per_step=latents.shape[2])
    quantizer.initialize(latents)
    for _ in range(5):
        output = quantizer(latents)
    assert quantizer.codebooks.isfinite().all() and output.quantized.isfinite().all()
    assert output.losses["commitment"].isfinite() and all(value.isfinite().all() for value in output.stats.values())
    quantizer(torch.randn(1, 6, 100))
    assert quantizer.codebooks.isfinite().all()


def test_training_resumes_bit_by_bit():
    batches = [torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(step)) for step in range(12)]
    quantizer, _ = make_training()
    for batch in batches[:6]:
        quantizer(batch)
    saved, random_state = copy.deepcopy(quantizer.state_dict()), torch.get_rng_state()
    for batch in batches[6:]:
        expected = quantizer(batch)

    resumed = make(books=3, seed=9).train()
    resumed.prepare_training(frames_per_step=200)
    resumed.load_state_dict(saved)
    torch.set_rng_state(random_state)
    for batch in batches[6:]:
        output = resumed(batch)
    assert torch.equal(output.codes, expected.codes) and torch.equal(output.quantized, expected.quantized)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_statistics_tell_a_collapse():
    quantizer, latents = make_training()
    healthy = quantizer(latents).stats
    assert all(value.shape == (3,) for value in healthy.values())
    assert (healthy["relative_error"].diff() < 0).all() and (healthy["usage"] > 0.5).all() and (healthy["entropy"] > 2).all()
    quantizer.eval()
    collapsed = quantizer(torch.full_like(latents, 0.3)).stats
    assert (collapsed["entropy"] == 0).all() and (collapsed["usage"] == 1 / 16).all()


@pytest.mark.parametrize("sizes, message", [
    ({"num_codebooks": 65537}, "outside 1..256: take fewer"),
    ({"num_codebooks": -1}, "num_codebooks=-1 is outside"),
    ({"num_codebooks": 2.5}, "num_codebooks=2.5 must be a whole number"),
    ({"codebook_size": "64"}, "codebook_size='64' must be a whole number"),
    ({"codebook_size": 65537}, "codebook_size=65537 is outside 2..65536"),
    ({"codebook_size": 1}, "codebook_size=1 is outside 2..65536: a codebook has at least 2"),
    ({"num_codebooks": 0}, "num_codebooks=0 is outside 1..256: at least 1"),
    ({"dim": 0}, "dim=0"),
])
@pytest.mark.parametrize("name", ["rvq", "product", "fsq", "mvq", "multiscale_rvq"])
def test_sizes_are_checked_for_all(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        quantizers.build(name, **{"dim": 8, "num_codebooks": 1, "codebook_size": 64} | sizes)


@pytest.mark.parametrize("name, options, message", [
    ("fsq", {"levels": 5}, "levels=5 must be a list of whole numbers"),
    ("fsq", {"levels": (5.5, 5)}, "must be a list of whole numbers"),
    ("rvq", {"decay": "0.9"}, "decay='0.9' must be a number"),
    ("rvq", {"beam": 2.0}, "beam=2.0 must be a whole number"),
    ("split_rvq", {"parallel": 1}, "parallel=1 must be True or False"),
    ("lfq", {"reconstruction": 1}, "reconstruction=1 must be a name"),
])
def test_options_of_another_type_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        quantizers.build(name, dim=8, num_codebooks=2, codebook_size=25, **options)


def test_importing_needs_torch_alone():
    import subprocess
    import sys

    script = """
import sys
class Block:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("numpy", "scipy", "einops", "einx", "vector_quantize_pytorch", "codec"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import quantizers
for name in quantizers.available():
    quantizers.build(name, dim=8, num_codebooks=2 if name in ("grouped_rvq", "split_rvq") else 1, codebook_size=16)
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
