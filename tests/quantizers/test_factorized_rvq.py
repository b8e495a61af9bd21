from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from quantizers.factorized_rvq import FactorizedResidualVQ


def make(dim: int = 12, books: int = 3, size: int = 32, codebook_dim: int = 4) -> FactorizedResidualVQ:
    torch.manual_seed(0)
    return FactorizedResidualVQ(dim, books, size, codebook_dim)


def test_a_stage_takes_the_vector_of_the_most_similar_direction():
    quantizer, latents = make(), torch.randn(2, 12, 40)
    codes, residual, decoded = quantizer.encode(latents), latents.mT, 0
    for index, stage in enumerate(quantizer.stages):
        similarity = F.cosine_similarity(stage.in_proj(residual)[:, :, None], stage.codebook.weight, dim=3)
        assert torch.equal(similarity.argmax(2), codes[:, index])
        part = stage.out_proj(stage.codebook(codes[:, index]))
        residual, decoded = residual - part, decoded + part
        torch.testing.assert_close(quantizer.decode(codes[:, : index + 1]), decoded.mT)


def test_agrees_with_vector_quantize_pytorch():
    from vector_quantize_pytorch import VectorQuantize

    ours = make(books=1)
    stage, theirs = ours.stages[0], VectorQuantize(12, 32, codebook_dim=4, use_cosine_sim=True).eval()
    theirs.project_in.load_state_dict(stage.in_proj.state_dict())
    theirs._codebook.embed.data.copy_(F.normalize(stage.codebook.weight, dim=1)[None])
    latents = torch.randn(2, 12, 200)
    assert (theirs(latents.mT)[1] == ours.encode(latents)[:, 0]).float().mean() > 0.995


def test_its_parameters_are_named_and_shaped_for_published_weights():
    shapes = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    assert len(shapes) == 15 and {name: shape for name, shape in shapes.items() if name.startswith("stages.2")} == {
        "stages.2.in_proj.weight": (4, 12), "stages.2.in_proj.bias": (4,), "stages.2.codebook.weight": (32, 4),
        "stages.2.out_proj.weight": (12, 4), "stages.2.out_proj.bias": (12,),
    }


def test_gradients_train_everything_without_running_away():
    """Where gradients reach the lengths of what a stage quantizes, the error ends above the latents' power."""
    quantizer = make(24, 4, 32, codebook_dim=8).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=2e-3)
    mixing = torch.randn(24, 24) * 0.9 ** torch.arange(24)
    latents = [mixing @ torch.randn(2, 24, 80) + 1 for _ in range(300)]
    quantizer.initialize(torch.cat(latents[:20], 2)[:1])
    errors = []
    for batch in latents:
        output = quantizer(batch)
        optimizer.zero_grad()
        ((output.quantized - batch).square().mean() + sum(output.losses.values())).backward()
        optimizer.step()
        errors.append(output.stats["relative_error"][-1].item())
    assert sum(errors[-20:]) < 1.05 * sum(errors[:20]) and max(errors) < 0.5
    assert set(output.losses) == {"commitment", "codebook"}


def test_losses_teach_who_they_are_for():
    """The commitment pulls latents and maps, the codebook loss the codebook; both are the same distance."""
    quantizer = make().train()
    latents = torch.randn(2, 12, 60, requires_grad=True)
    losses = quantizer(latents).losses
    torch.testing.assert_close(losses["commitment"].detach(), losses["codebook"].detach())
    losses["codebook"].backward(retain_graph=True)
    assert latents.grad is None or (latents.grad == 0).all()
    assert all(stage.codebook.weight.grad.abs().sum() > 0 for stage in quantizer.stages)
    quantizer.zero_grad()
    losses["commitment"].backward()
    assert latents.grad.abs().sum() > 0
    gradients = [stage.codebook.weight.grad for stage in quantizer.stages]
    assert all(gradient is None or (gradient == 0).all() for gradient in gradients)


def test_training_imports_nothing_but_torch():
    import subprocess
    import sys

    script = ("import sys; sys.modules['vector_quantize_pytorch'] = None; import torch, quantizers; "
              "quantizer = quantizers.build('factorized_rvq', dim=8, num_codebooks=2, codebook_size=8); "
              "quantizer.train()(torch.randn(1, 8, 30))")
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("codebook_dim", [0, 13])
def test_what_does_not_fit_is_refused(codebook_dim):
    with pytest.raises(ValueError, match=f"codebook_dim={codebook_dim} is outside 1..12"):
        make(codebook_dim=codebook_dim)
