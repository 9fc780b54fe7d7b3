"""Filter: identity, directions, gradients, and that each sample has its own parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Context, Filter

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


def u_of(transform: Filter, **values: float) -> Tensor:
    """`(1, P)`, float64, for physical values by name; the others at the identity."""
    shares = []
    for p in transform.spec:
        value = values.get(p.name, p.identity)
        if p.logarithmic:
            shares.append(math.log(value) / math.log(p.high))
        else:
            shares.append((value - p.identity) / (p.high - p.identity))
    return math.sqrt(2) * torch.erfinv(torch.tensor([shares], dtype=torch.float64))


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_full(dtype: torch.dtype) -> None:
    transform = Filter(**EVERY)
    images = torch.rand(2, 3, 12, 12).to(dtype).contiguous(memory_format=torch.channels_last)
    u, context = torch.randn(2, transform.size), context_for(images)
    found = transform(images, u, context)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, transform(images.float(), u, context).to(dtype))


def test_steep_places_have_finite_gradients() -> None:
    transform = Filter(**EVERY)
    images = torch.tensor([-0.5, 0.0, 1.0, 1.5]).repeat(16).view(1, 1, 8, 8).requires_grad_()
    u = (30 * torch.randn(1, transform.size)).requires_grad_()
    out = transform(images, u, context_for(images.detach()))
    for gradient in torch.autograd.grad(out.sum(), (images, u)):
        assert bool(gradient.isfinite().all())


def test_images_smaller_than_the_kernel_and_none() -> None:
    small, none = torch.rand(2, 1, 3, 1), torch.rand(0, 1, 3, 3)
    transform = Filter(sharpness=None)
    assert bool(transform(small, torch.randn(2, 3), context_for(small)).isfinite().all())
    assert Filter()(none, torch.zeros(0, 4)).shape == none.shape
    with pytest.raises(ValueError, match=r"at least 3 x 3 pixels, got 3 x 1; use Filter\(sharpness=None\)"):
        Filter()(small, torch.randn(2, 4), context_for(small))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (OFF, "every part switched off"),
        ({"blur": 0.0}, "blur=None switches it off"),
        ({"gamma": 0.8}, "wanted a factor above 1"),
        ({"solarize": 2.0}, r"solarize=2\.0: wanted a strength in \(0, 1\]"),
        ({"motion_length": 4}, "wanted an odd number"),
    ],
)
def test_errors(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Filter(**arguments)


def test_noise_has_to_come_from_somewhere() -> None:
    with pytest.raises(ValueError, match=r"wants noise.*Context\(noise="):
        Filter()(torch.rand(1, 1, 8, 8), torch.zeros(1, 4))
    assert not Filter(noise=None).wants_noise
