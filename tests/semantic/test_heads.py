"""Heads that predict a teacher's features from codes or from a student."""

from __future__ import annotations

import pytest
import torch

import quantizers
from codec.model import CodecOutput
from codec.semantic.heads import SemanticHeads, contributions
from codec.semantic.losses import d_axis_distillation_loss
from codec.semantic.target import SemanticTarget

BATCH, FRAMES, WIDTH = 3, 20, 7


def quantized(name: str, latents: torch.Tensor, **options):
    """A quantizer after a step of training, and what the codec gives of it."""
    torch.manual_seed(0)
    quantizer = quantizers.build(name, dim=12, num_codebooks=4, codebook_size=16, **options)
    quantizer.initialize(latents.detach())
    result = quantizer(latents)
    return quantizer, CodecOutput(latents, latents, result.quantized, result.codes, result.losses, result.stats)


@pytest.fixture
def latents():
    return torch.randn(BATCH, 12, FRAMES, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture
def features():
    return torch.randn(BATCH, FRAMES, WIDTH, requires_grad=True), torch.ones(BATCH, FRAMES, dtype=torch.bool)


ALL = torch.full((BATCH,), 4)


def test_contributions_add_up_to_what_is_decoded(latents):
    quantizer, output = quantized("rvq", latents)
    parts = contributions(output, quantizer, ALL, (1, 2, 3, 4))
    torch.testing.assert_close(sum(parts), quantizer.decode(output.codes))
    torch.testing.assert_close(parts[0], quantizer.decode(output.codes[:, :1]))
    some = contributions(output, quantizer, torch.tensor([1, 4, 2]), (2, 3))
    assert some[0][0].abs().max() == 0 and some[0][2].abs().max() > 0 and some[1][2].abs().max() == 0


@pytest.mark.parametrize("combine", ["sum", "mean", "each"])
def test_the_loss_is_that_of_the_heads_on_the_named_codebooks(latents, features, combine):
    quantizer, output = quantized("rvq", latents)
    heads = SemanticHeads([SemanticTarget("t", codebooks=(1, 3), combine=combine)], [WIDTH], quantizer)
    parts = contributions(output, quantizer, ALL, (1, 3))
    if combine == "each":
        students = [head(part.mT) for head, part in zip(heads.heads[0], parts)]
    else:
        students = [heads.heads[0][0]((sum(parts) / (2 if combine == "mean" else 1)).mT)]
    expected = sum(d_axis_distillation_loss(student, *features) for student in students) / len(students)
    torch.testing.assert_close(heads(output, quantizer, ALL, [features])["semantic_1"], expected)


@pytest.mark.parametrize("name", ["rvq", "factorized_rvq"])
@pytest.mark.parametrize("combine", ["sum", "each"])
def test_gradients_reach_encoder_quantizer_and_heads_but_never_the_teacher(latents, features, name, combine):
    quantizer, output = quantized(name, latents)
    heads = SemanticHeads([SemanticTarget("t", codebooks=(1, 2), combine=combine, head="conv")], [WIDTH], quantizer)
    heads(output, quantizer, ALL, [features])["semantic_1"].backward()
    assert latents.grad.abs().sum() > 0
    assert features[0].grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in heads.parameters())
    if name == "factorized_rvq":
        reached = [key for key, parameter in quantizer.named_parameters() if parameter.grad is not None]
        assert any("out" in key for key in reached), reached


def test_an_item_that_does_not_use_a_codebook_does_not_train_its_head(latents, features):
    quantizer, output = quantized("rvq", latents)
    heads = SemanticHeads([SemanticTarget("t", codebooks=(1, 3), combine="each", loss="mse")], [WIDTH], quantizer)
    heads(output, quantizer, torch.full((BATCH,), 2), [features])["semantic_1"].backward()
    assert heads.heads[0][1].weight.grad.abs().sum() == 0
    assert heads.heads[0][0].weight.grad.abs().sum() > 0


def test_before_the_codebooks_there_is_no_loss_on_codes(latents, features):
    quantizer, output = quantized("rvq", latents)
    output.codes = None
    heads = SemanticHeads([SemanticTarget("t")], [WIDTH], quantizer)
    assert heads(output, quantizer, None, [features]) == {}


def test_a_student_is_compared_as_it_is(latents, features):
    quantizer, output = quantized("rvq", latents)
    output.content = torch.randn(BATCH, WIDTH, FRAMES, requires_grad=True)
    heads = SemanticHeads([SemanticTarget("t", source="content", loss="mse")], [WIDTH], quantizer, content_dim=WIDTH)
    assert not list(heads.parameters())
    loss = heads(output, quantizer, ALL, [features])["semantic_1"]
    torch.testing.assert_close(loss, (output.content.mT - features[0]).square().mean())
    loss.backward()
    assert output.content.grad.abs().sum() > 0 and latents.grad is None


def test_what_a_codec_cannot_have_is_refused():
    product = quantizers.build("product", dim=12, num_codebooks=4, codebook_size=16)
    with pytest.raises(ValueError, match="decode alone for k of \\[4\\] only"):
        SemanticHeads([SemanticTarget("t")], [WIDTH], product)
    rvq = quantizers.build("rvq", dim=12, num_codebooks=4, codebook_size=16)
    with pytest.raises(ValueError, match="decode alone"):
        SemanticHeads([SemanticTarget("t", codebooks=(5,))], [WIDTH], rvq)
    with pytest.raises(ValueError, match="has no student: take the encoder `fused` with content_dim=7"):
        SemanticHeads([SemanticTarget("t", source="content")], [WIDTH], rvq)
    with pytest.raises(ValueError, match="has a student 9 wide"):
        SemanticHeads([SemanticTarget("t", source="content")], [WIDTH], rvq, content_dim=9)


@pytest.mark.parametrize("wrong, words", [
    ({"loss": "l2"}, "d_axis, t_axis, cosine, mse or ctc"), ({"combine": "all"}, "sum, mean or each"), ({"teacher": ""}, "name a folder"),
    ({"codebooks": ()}, "different numbers"), ({"codebooks": (1, 1)}, "different numbers"), ({"codebooks": (0,)}, "from 1"),
    ({"shift": -1}, "at least 0"), ({"weight": 0.0}, "above 0"), ({"head": "mlp"}, "linear or conv"),
])
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        SemanticTarget(**({"teacher": "t"} | wrong))
