"""PatchMix: masks, the partner, and the reference of the teacher's prediction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Affine, Compose, Context, PatchMix

MODES = ["relaxed", "straight_through"]


def u_of(weights: Tensor) -> Tensor:
    """`u` that decodes to weights in [0, 1)."""
    return math.sqrt(2) * torch.erfinv(weights)


@pytest.mark.parametrize("mode", MODES)
def test_zero_is_the_identity(mode: str) -> None:
    transform = PatchMix(image_size=12, patch_size=4, mode=mode)  # type: ignore[arg-type]  # from a list
    images, partners = torch.rand(2, 3, 3, 12, 12)
    context = Context(partner_images=partners, partner_logits=torch.randn(3, 5))
    assert torch.allclose(transform(images, torch.zeros(3, 9), context), images, atol=1e-4)
    logits = torch.randn(3, 5)
    reference = transform.reference(logits, torch.zeros(3, 9), context)
    assert torch.allclose(reference.softmax(-1), logits.softmax(-1), atol=1e-4)


def test_whole_patches_come_from_the_partner() -> None:
    transform = PatchMix(image_size=(4, 6), patch_size=(2, 3))
    images, partners = torch.zeros(1, 1, 4, 6), torch.ones(1, 1, 4, 6)
    u = u_of(torch.tensor([[0.4, 0.6, 0.9, 0.1]]))
    mixed = transform(images, u, Context(partner_images=partners))[0, 0]
    assert mixed.tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2


def test_a_blend_is_a_relaxed_bernoulli_variable() -> None:
    weights = torch.tensor([[0.2, 0.5, 0.7, 0.95]], dtype=torch.float64)
    for temperature in (1.0, 0.5, 0.25):
        transform = PatchMix(image_size=4, patch_size=2, mode="relaxed", temperature=temperature)
        expected = ((weights / (1 - weights)).log() / temperature).sigmoid()
        assert torch.allclose(transform.mask(u_of(weights)).flatten(), expected.flatten(), atol=1e-9)


def test_uniform_draws_are_uniform_weights() -> None:
    transform = PatchMix(image_size=4, patch_size=4)
    weights = transform.decode(torch.randn(20_000, 1))["mask_0_0"]
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weights.std()) == pytest.approx(1 / 12**0.5, abs=0.01)


def test_the_reference_is_the_mean_of_both_predictions_by_area() -> None:
    transform = PatchMix(image_size=4, patch_size=2)
    own, partner = torch.randn(2, 3, 5, dtype=torch.float64)
    u = u_of(torch.tensor([0.9, 0.1, 0.1, 0.1], dtype=torch.float64).expand(3, 4))
    found = transform.reference(own, u, Context(partner_logits=partner))
    expected = 0.75 * own.softmax(-1) + 0.25 * partner.softmax(-1)
    assert torch.allclose(found.exp(), expected)
    both = Compose(Affine(), transform)
    assert torch.equal(
        both.reference(own, torch.cat((torch.randn(3, 6), u), 1), Context(partner_logits=partner)), found
    )


def test_gradients_of_blends() -> None:
    transform = PatchMix(image_size=4, patch_size=2, mode="relaxed")
    images, partners = torch.rand(2, 2, 1, 4, 4, dtype=torch.float64)
    u = u_of(0.1 + 0.8 * torch.rand(2, 4, dtype=torch.float64)).requires_grad_()
    logits = torch.randn(2, 3, dtype=torch.float64)
    context = Context(partner_images=partners, partner_logits=torch.randn(2, 3, dtype=torch.float64))
    inputs = (images.requires_grad_(), u)
    assert torch.autograd.gradcheck(lambda i, v: transform(i, v, context), inputs)
    assert torch.autograd.gradcheck(lambda v: transform.reference(logits, v, context), (u,))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0.0, 1.0, 40.0])
def test_gradients_are_finite_everywhere(mode: str, size: float) -> None:
    transform = PatchMix(image_size=8, patch_size=4, mode=mode)  # type: ignore[arg-type]  # from a list
    u = (size * torch.randn(4, 4)).requires_grad_()
    context = Context(partner_images=torch.rand(4, 1, 8, 8), partner_logits=torch.randn(4, 3))
    out = transform(torch.rand(4, 1, 8, 8), u, context)
    assert 0 <= float(out.detach().min()) <= float(out.detach().max()) <= 1
    total = out.square().sum() + transform.reference(torch.randn(4, 3), u, context).sum()
    (gradient,) = torch.autograd.grad(total, u)
    assert bool(gradient.isfinite().all())
    if size == 1.0:
        assert float(gradient.abs().max()) > 0


def test_no_images() -> None:
    transform = PatchMix(image_size=4, patch_size=2)
    empty = torch.zeros(0, 1, 4, 4)
    assert transform(empty, torch.zeros(0, 4), Context(partner_images=empty)).shape == empty.shape


def test_errors() -> None:
    with pytest.raises(
        ValueError, match="patch_size=5 does not divide image_size=12; expected one of 1, 2, 3, 4, 6, 12"
    ):
        PatchMix(image_size=12, patch_size=5)
    with pytest.raises(ValueError, match="expected one of relaxed, straight_through"):
        PatchMix(image_size=12, patch_size=4, mode="hard")  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match=r"temperature=2: expected a fraction in \(0, 1\]"):
        PatchMix(image_size=12, patch_size=4, temperature=2)
    transform = PatchMix(image_size=4, patch_size=2)
    u, images = torch.zeros(1, 4), torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="expected images of 4 x 4 pixels, got 6 x 4"):
        transform(torch.rand(1, 1, 6, 4), u, Context(partner_images=images))
    with pytest.raises(ValueError, match=r"requires partner images.*Context\(partner_images"):
        transform(images, u)
    with pytest.raises(ValueError, match="requires the teacher's logits on the partners"):
        transform.reference(torch.zeros(1, 3), u, Context(partner_images=images))


def test_repr_shows_the_settings() -> None:
    assert repr(PatchMix(image_size=12, patch_size=4)) == (
        "PatchMix(image_size=(12, 12), patch_size=(4, 4), mode='straight_through', temperature=0.5)"
    )


@pytest.mark.parametrize("mask", [-math.inf, -1e9, torch.finfo(torch.float32).min])
def test_the_reference_of_classes_that_the_teacher_masks(mask: float) -> None:
    transform = PatchMix(image_size=4, patch_size=2, mode="relaxed")
    logits, partner_logits = torch.randn(2, 3, 5)
    logits[:, 4] = partner_logits[:, 4] = mask
    u = torch.randn(3, transform.size, requires_grad=True)
    found = transform.reference(logits, u, Context(partner_logits=partner_logits))
    rest = transform.reference(logits[:, :4], u, Context(partner_logits=partner_logits[:, :4]))
    assert torch.allclose(found[:, :4], rest)
    assert not bool(found[:, 4].exp().any())
    gradient, expected = (
        torch.autograd.grad((logs.exp() * weights).sum(), u)[0]
        for logs, weights in ((found, torch.arange(5.0)), (rest, torch.arange(4.0)))
    )
    assert torch.allclose(gradient, expected, atol=1e-6)
