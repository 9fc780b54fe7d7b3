"""The Diffusion transform: its identity, its gradient, its bounds, and its use in the augmenter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug import HardAugmenter
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.objectives import ConfidenceGap
from hard_aug.policies import Search
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Compose
from hard_aug.transforms.base import Context
from hard_aug.transforms.diffusion_noise import Diffusion
from tests.helpers.generative_parts import (
    CHANNELS,
    CLASSES,
    LATENT,
    SIZE,
    Classifier,
    diffusion_model,
    labels,
    make_sampler,
    pictures,
    pixel_diffusion_model,
    unet,
)

diffusers = pytest.importorskip("diffusers")
GIVEN = Context(labels())


def transform(*, steps: int = 4, strength: float = 0.5, **settings: Any) -> Diffusion:
    return Diffusion(make_sampler(steps=steps, strength=strength), **settings)


def draws(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pixels", [False, True])
def test_the_identity(pixels: bool) -> None:
    sampler = DiffusionSampler(pixel_diffusion_model() if pixels else diffusion_model(), steps=4, strength=0.5)
    same = Diffusion(sampler)
    assert same.size == CHANNELS * (SIZE if pixels else LATENT) ** 2
    out = same(pictures(), torch.zeros(3, same.size), GIVEN)
    assert torch.allclose(out, pictures(), atol=1e-6)
    edited = same(pictures(), draws(3, same.size), GIVEN)
    assert not torch.allclose(edited, pictures(), atol=0.02)
    # Without the residual: the image as far as the inversion is exact.
    fine = DiffusionSampler(diffusion_model(), steps=100, strength=0.2)
    shown = fine.model.decode(fine.model.encode(pictures(1))).detach()
    with torch.no_grad():
        out = Diffusion(fine, residual=False)(pictures(1), torch.zeros(1, 128), Context(labels(1)))
    assert torch.allclose(out, shown, atol=0.1)
    assert not torch.equal(out, shown)


def test_the_edit_turns_the_noise() -> None:
    """A larger scale turns it further; an infinite one leaves nothing of the old noise."""
    u, sampler = draws(3, 128), make_sampler(steps=4, strength=0.5)
    with torch.no_grad():
        clean = sampler.model.encode(pictures())
        noise = sampler.invert(clean, labels())
        size = noise.flatten(1).norm(dim=1)
        fresh = (u * (size / u.norm(dim=1))[:, None]).view_as(noise)
        expected = sampler.model.decode(sampler.run(sampler.start(fresh, clean), labels()))
        found = [
            Diffusion(sampler, noise_scale=noise_scale, residual=False)(pictures(), u, GIVEN)
            for noise_scale in (0.05, 0.5, 1e6, math.inf)
        ]
    assert torch.allclose(found[3], expected, atol=1e-5)
    assert torch.allclose(found[2], expected, atol=1e-3)
    near = [float((image - expected).abs().mean()) for image in found]
    assert near[0] > near[1] > near[2]
    # The noise's length, and so that of the edit, does not matter where all of it is replaced.
    with torch.no_grad():
        again = Diffusion(sampler, noise_scale=math.inf, residual=False)(pictures(), 3 * u, GIVEN)
    assert torch.allclose(again, found[3], atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_gradients_match_finite_differences(residual: bool) -> None:
    turned = transform(steps=3, residual=residual)
    weight = torch.randn(3, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    u, change, step = 0.3 * draws(3, turned.size), draws(3, turned.size, seed=2), 1e-2

    def value(u: Tensor, images: Tensor | None = None) -> Tensor:
        shown = turned(pictures() if images is None else images, u, GIVEN)
        return (shown.double() * weight).sum()

    u.requires_grad_()
    images = pictures().requires_grad_()
    gradients = torch.autograd.grad(value(u, images), (u, images), allow_unused=True)
    with torch.no_grad():
        slope = (value(u + step * change) - value(u - step * change)) / (2 * step)
    assert float((gradients[0] * change).sum()) == pytest.approx(float(slope), rel=0.03)
    if residual:
        assert torch.allclose(gradients[1], weight, atol=1e-5)
    else:
        assert gradients[1] is None
    # At the identity too, where the edit has no length.
    zero = torch.zeros_like(u).requires_grad_()
    (start,) = torch.autograd.grad(value(zero), zero)
    assert bool(start.isfinite().all())
    assert float(start.abs().max()) > 0


def test_rows_are_independent_and_reproducible() -> None:
    turned = transform()
    u = draws(3, turned.size)
    with torch.no_grad():
        whole = turned(pictures(), u, GIVEN)
        assert torch.equal(whole, turned(pictures(), u, GIVEN))
        for rows in ([1], [2, 0]):
            part = turned(pictures()[rows], u[rows], Context(labels()[rows]))
            assert torch.allclose(part, whole[rows], atol=1e-5)
        other = turned(pictures(), u, Context((labels() + 1) % CLASSES))
    assert not torch.allclose(other, whole, atol=1e-3)


def test_forms_of_images() -> None:
    turned = transform()
    u = draws(3, turned.size)
    with torch.no_grad():
        plain = turned(pictures(), u, GIVEN)
        wide = turned(pictures().contiguous(memory_format=torch.channels_last), u, GIVEN)
        half = turned(pictures().bfloat16(), u, GIVEN)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = turned(pictures(), u, GIVEN)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(wide, plain, atol=1e-5)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), plain, atol=0.05)
    assert torch.equal(inside, plain)
    assert turned(pictures(0), u[:0], Context(labels(0))).shape == (0, CHANNELS, SIZE, SIZE)
    tall = transform(height=8, width=24)
    assert tall.latent_shape == (CHANNELS, 4, 12)
    assert tall(pictures()[:, :, :8].repeat(1, 1, 1, 2)[..., :24], draws(3, tall.size), GIVEN).shape[-2:] == (8, 24)
    free = Diffusion(
        DiffusionSampler(DiffusionModel(unet(size=SIZE, classes=None), make_sampler().model.scheduler), steps=2)
    )
    assert free(pictures(), torch.zeros(3, free.size)).shape == pictures().shape


@pytest.mark.parametrize("parts", ["search", "ascent", "composed", "confidence"])
def test_the_augmenter_searches_noises(parts: str) -> None:
    turned: Any = transform(steps=2, noise_scale=2.0)
    if parts == "composed":
        turned = Compose(turned, Affine())
    settings: dict[str, Any] = {"objective": ConfidenceGap(2.0)} if parts == "confidence" else {}
    policy = Search(turned.spec, candidates=1 if parts == "ascent" else 4, steps=2 if parts == "ascent" else 0)
    augmenter = HardAugmenter(
        teacher=Classifier(1),
        student=Classifier(2),
        transform=turned,
        policy=policy,
        schedule=Alternating(),
        **settings,
    )
    hard = augmenter(pictures(6), labels(6))
    assert hard.images.shape == (6, CHANNELS, SIZE, SIZE)
    assert 0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1
    assert not torch.allclose(hard.images, pictures(6), atol=0.02)
    hard.loss().backward()
    denoiser = getattr(turned, "stages", (turned,))[0].sampler.model.denoiser
    assert all(weight.grad is None for weight in denoiser.parameters())
    with pytest.raises(ValueError, match=r"labels"):
        augmenter(pictures(6))


def test_a_search_finds_harder_images_than_a_draw() -> None:
    found = {}
    for candidates in (2, 12):
        turned = transform(steps=2, noise_scale=math.inf)
        policy = Search(turned.spec, candidates=candidates)
        augmenter = HardAugmenter(teacher=Classifier(1), student=Classifier(2), transform=turned, policy=policy)
        found[candidates] = float(augmenter(pictures(6), labels(6)).disagreement.mean())
    assert found[12] > found[2]


def test_bad_input() -> None:
    turned = transform()
    u = torch.zeros(3, turned.size)
    with pytest.raises(ValueError, match=r"conditioned on a class: call augmenter\(images, labels\)"):
        turned(pictures(), u)
    with pytest.raises(ValueError, match="this transform was made for 16 x 16; give height= and width="):
        turned(pictures(size=8), u, GIVEN)
    with pytest.raises(ValueError, match="takes images of 2 channels, got 1"):
        turned(pictures()[:, :1], u, GIVEN)
    pixels = Diffusion(DiffusionSampler(pixel_diffusion_model(), steps=2))
    with pytest.raises(ValueError, match="takes images of 2 channels, got 3"):
        pixels(torch.rand(3, 3, SIZE, SIZE), torch.zeros(3, pixels.size), GIVEN)
    with pytest.raises(ValueError, match=r"are noise_0_0_0, .*, noise_0_1_3, \.\.\. \(128 in total\)$") as raised:
        turned(pictures(), u[:, :5], GIVEN)
    assert "noise_0_1_4" not in str(raised.value)
    with pytest.raises(ValueError, match="stride of 2 does not divide"):
        transform(height=15)
    with pytest.raises(TypeError, match="expected a DiffusionSampler"):
        Diffusion(diffusion_model())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"use DiffusionSampler\(\.\.\., eta=0\.0\)"):
        Diffusion(make_sampler(diffusers.LCMScheduler()))
    for noise_scale in (0.0, -1.0, math.nan, -math.inf):
        with pytest.raises(ValueError, match="noise_scale"):
            transform(noise_scale=noise_scale)
    with pytest.raises(ValueError, match="no sample_size"):
        Diffusion(DiffusionSampler(DiffusionModel(unet(size=None), make_sampler().model.scheduler), steps=2))  # type: ignore[arg-type]


def test_a_call_under_inference_mode_does_not_affect_later_ones() -> None:
    turned, given = transform(), pictures()
    u = draws(3, turned.size)
    with torch.inference_mode():
        inside = turned(given, u, GIVEN)
    u.requires_grad_()
    out = turned(given, u, GIVEN)
    assert torch.allclose(out, inside, atol=1e-6)
    assert float(torch.autograd.grad(out.square().sum(), u)[0].abs().max()) > 0
