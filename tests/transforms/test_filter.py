"""Filter: identity, directions, gradients, and that each sample has its own parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import kornia
import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Context, Filter
from hard_aug.transforms.filter import MIN_INTENSITY, MIN_SIGMA
from tests.helpers.transform_parts import u_of

OFF: dict[str, Any] = dict.fromkeys(("blur", "gamma", "noise", "sharpness", "solarize", "motion_blur"))
EVERY: dict[str, Any] = {
    "blur": 1.5,
    "gamma": 2.0,
    "noise": 0.2,
    "sharpness": 1.0,
    "solarize": 1.0,
    "motion_blur": 1.0,
}


def only(**on: float) -> Filter:
    return Filter(**{**OFF, "motion_length": 5, **on})


def picture() -> Tensor:
    axis = torch.linspace(-1, 1, 15, dtype=torch.float64)
    return (0.1 + 0.8 * torch.exp(-8 * (axis[:, None] ** 2 + (axis - 0.2) ** 2)))[None, None]


def context_for(images: Tensor) -> Context:
    return Context(noise=torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype))


@pytest.mark.parametrize("channels", [1, 3])
def test_zero_is_the_identity(channels: int) -> None:
    transform = Filter(**EVERY)
    images = torch.rand(2, channels, 12, 13)
    images[0, :, 0] = 0
    images[0, :, 1] = 1
    found = transform(images, torch.zeros(2, transform.size), context_for(images))
    assert torch.allclose(found, images, atol=1e-4)


def test_directions() -> None:
    image = picture()

    def filtered(**values: float) -> Tensor:
        name, top = next(iter(values.items()))
        transform = only(**{name: max(top, 1.0) if name != "gamma" else 2.0})
        return transform(image, u_of(transform, **values), context_for(image))

    assert float(filtered(gamma=1.5).mean()) < float(image.mean()) < float(filtered(gamma=0.7).mean())
    assert float(filtered(blur=0.99).max()) < float(filtered(blur=0.5).max()) < float(image.max())
    assert float(filtered(sharpness=0.9).std()) > float(image.std())
    assert float((filtered(noise=0.5) - image).std()) == pytest.approx(0.5, rel=0.1)
    inverted = filtered(solarize=0.999999)
    bright = image > 0.5
    assert torch.allclose(inverted[bright], 1 - image[bright], atol=1e-4)
    assert torch.allclose(inverted[~bright], image[~bright])


def test_motion_blur_is_along_its_line() -> None:
    line = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    line[..., 7, :] = 1  # horizontal
    transform = only(motion_blur=1.0)
    along, across = (
        transform(line, u_of(transform, motion_blur=0.999999, motion_angle=angle))[0, 0, 7, 7] for angle in (0.0, 89.99)
    )
    assert float(along) == pytest.approx(1, abs=1e-3)
    assert float(across) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", list(EVERY))
def test_gradients(name: str) -> None:
    transform = only(**{name: EVERY[name]})
    images = (0.6 if name == "solarize" else 0.2) + 0.25 * torch.rand(2, 1, 7, 8, dtype=torch.float64)
    context = context_for(images)
    u = 0.4 + 0.3 * torch.rand(2, transform.size, dtype=torch.float64)
    inputs = (images.requires_grad_(), u.requires_grad_())
    assert torch.autograd.gradcheck(lambda i, v: transform(i, v, context), inputs)
    (gradient,) = torch.autograd.grad(transform(images, u, context).square().sum(), u)
    assert float(gradient.abs().min()) > 0


def test_each_sample_has_its_own_parameters() -> None:
    transform = Filter(**EVERY)
    images, u = torch.rand(3, 3, 12, 12), torch.randn(3, transform.size)
    context = context_for(images)
    assert context.noise is not None
    together = transform(images, u, context)
    for i in range(3):
        alone = transform(images[i : i + 1], u[i : i + 1], Context(noise=context.noise[i : i + 1]))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def sharpened(images: Tensor, strength: Tensor) -> Tensor:
    return kornia.enhance.sharpness(images, 1 + strength)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    pairs = sigma.clamp(min=MIN_SIGMA)[:, None].expand(-1, 2)
    return kornia.filters.gaussian_blur2d(images, (7, 7), pairs, border_type="replicate")


@pytest.mark.parametrize(("name", "value", "expected"), [("sharpness", 1.0, sharpened), ("blur", 1.0, blurred)])
@pytest.mark.parametrize("used", [[], [1], [0, 2, 3], [0, 1, 2, 3, 4]])
def test_images_of_strength_0_are_left_out(
    name: str, value: float, expected: Callable[[Tensor, Tensor], Tensor], used: list[int]
) -> None:
    """It is as if the filter were applied to all: the images, and the gradients of the images and of `u`."""
    transform = only(**{name: value})
    u = torch.zeros(5, 1, dtype=torch.float64)
    u[used] = torch.linspace(-1.5, 1.2, 5, dtype=torch.float64)[used, None]
    images = 0.2 + 0.5 * torch.rand(5, 3, 9, 8, dtype=torch.float64)
    found = []
    for function in (transform, lambda images, u: expected(images, transform.decode(u)[name])):
        inputs = (images.clone().requires_grad_(), u.clone().requires_grad_())
        out = function(*inputs)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True)
        found.append((out.detach(), gradients[0], torch.zeros_like(u) if gradients[1] is None else gradients[1]))
    others = [row for row in range(5) if row not in used]
    assert torch.equal(found[0][0][others], images[others])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    assert used == [] or float(found[0][2][used].abs().min()) > 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_leaving_images_out_keeps_the_memory_format(memory_format: torch.memory_format) -> None:
    transform, images = Filter(**EVERY), torch.rand(4, 3, 8, 8).contiguous(memory_format=memory_format)
    u = torch.randn(4, transform.size)
    u[:2] = 0
    found = transform(images, u, context_for(images))
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.allclose(found[:2], images[:2], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_full(dtype: torch.dtype) -> None:
    transform = Filter(**EVERY)
    images = torch.rand(2, 3, 12, 12).to(dtype).contiguous(memory_format=torch.channels_last)
    u, context = torch.randn(2, transform.size), context_for(images)
    found = transform(images, u, context)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, transform(images.float(), u, context).to(dtype))


@pytest.mark.parametrize("value", [-30.0, -0.5, 0.5, 30.0])
def test_gradients_of_gamma_at_steep_places(value: float) -> None:
    """`d x^g / dx = g x^(g-1)` between the clamps of x, and 0 outside."""
    transform = only(gamma=2.0)
    pixels = torch.tensor([[-0.5, 0.0, 1.01 * MIN_INTENSITY, 0.3, 0.999, 1.5]], dtype=torch.float64)
    images = pixels[None, None].requires_grad_()
    u = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    out = transform(images, u)
    gamma = 2 ** math.erf(value / math.sqrt(2))
    inside = (pixels > MIN_INTENSITY) & (pixels < 1)
    clamped = pixels.clamp(MIN_INTENSITY, 1)
    found, by_u = torch.autograd.grad(out.sum(), (images, u))
    assert torch.allclose(found[0, 0], inside * (gamma * clamped ** (gamma - 1)), rtol=1e-9)
    gamma_by_u = gamma * math.log(2) * math.sqrt(2 / math.pi) * math.exp(-(value**2) / 2)
    expected = float((clamped**gamma * clamped.log()).sum()) * gamma_by_u
    assert float(by_u) == pytest.approx(expected, rel=1e-9)


def test_gradients_at_extreme_parameters() -> None:
    """The squash is flat there, so gradients in `u` are 0; pixels outside [0, 1] have gradient 0 too."""
    transform = Filter(**EVERY)
    images = torch.tensor([-0.5, 0.0, 1.0, 1.5]).repeat(16).view(1, 1, 8, 8).requires_grad_()
    u = (30 * torch.randn(1, transform.size).sign()).requires_grad_()
    out = transform(images, u, context_for(images.detach()))
    by_images, by_u = torch.autograd.grad(out.sum(), (images, u))
    assert torch.equal(by_u, torch.zeros_like(u))
    outside = (images < MIN_INTENSITY) | (images > 1)
    assert torch.equal(by_images[outside], torch.zeros(48))
    assert bool(by_images.isfinite().all())


def test_images_smaller_than_the_kernel_and_none() -> None:
    small, none = torch.rand(2, 1, 3, 1), torch.rand(0, 1, 3, 3)
    transform = Filter(sharpness=None)
    assert bool(transform(small, torch.randn(2, 3), context_for(small)).isfinite().all())
    assert torch.allclose(transform(small, torch.zeros(2, 3), context_for(small)), small, atol=1e-4)
    flat = torch.full((1, 1, 3, 1), 0.4)  # a blur does not change it, whatever the padding
    blurred = only(blur=3.0)(flat, torch.tensor([[1.5]]))
    assert torch.allclose(blurred, flat, atol=1e-6)
    assert Filter()(none, torch.zeros(0, 4)).shape == none.shape
    with pytest.raises(ValueError, match=r"at least 3 x 3 pixels, got 3 x 1; use Filter\(sharpness=None\)"):
        Filter()(small, torch.randn(2, 4), context_for(small))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (OFF, "every part switched off"),
        ({"blur": 0.0}, "blur=None switches it off"),
        ({"gamma": 0.8}, "expected a factor above 1"),
        ({"solarize": 2.0}, r"solarize=2\.0: expected a fraction in \(0, 1\]"),
        ({"motion_length": 4}, "expected an odd number"),
    ],
)
def test_errors(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Filter(**arguments)


def test_noise_is_required() -> None:
    with pytest.raises(ValueError, match=r"requires noise.*Context\(noise="):
        Filter()(torch.rand(1, 1, 8, 8), torch.zeros(1, 4))
    assert not Filter(noise=None).requires_noise


def test_repr_shows_the_settings() -> None:
    assert repr(only(blur=2.0)) == (
        "Filter(blur=2.0, gamma=None, noise=None, sharpness=None, solarize=None, motion_blur=None, motion_length=5)"
    )


@pytest.mark.parametrize("images_dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("u_dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_pair_of_precisions(images_dtype: torch.dtype, u_dtype: torch.dtype) -> None:
    transform = Filter(**{**EVERY, "motion_length": 5})
    images, noise = torch.rand(2, 3, 12, 12).to(images_dtype), torch.randn(2, 3, 12, 12).to(images_dtype)
    u = torch.randn(2, transform.size).to(u_dtype)
    found = transform(images, u, Context(noise=noise))
    expected = transform(images.double(), u.double(), Context(noise=noise.double()))
    assert found.dtype == images_dtype
    tolerance = max(1e-4, 2 * torch.finfo(images_dtype).eps)
    assert torch.allclose(found.double(), expected, atol=tolerance, rtol=tolerance)
