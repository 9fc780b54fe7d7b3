"""Context: slices, and the draws of partners and noise."""

from __future__ import annotations

import warnings

import pytest
import torch

from hard_aug.transforms import Affine, Compose, Context, Filter, PatchMix, Transform, make_context
from hard_aug.utils import rng
from tests.helpers.defaults import defaults

BOTH = Compose(Filter(), PatchMix(image_size=12, patch_size=4))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_slices() -> None:
    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)
    context = Context(labels, images, None, -images)
    assert context.first(4) is context
    part = context.first(3)
    assert part.labels is not None
    assert part.partner_images is not None
    assert part.noise is not None
    assert part.labels.tolist() == [0, 1, 2]
    assert torch.equal(part.partner_images, images[:3])
    assert torch.equal(part.noise, -images[:3])
    assert part.partner_logits is None
    middle = context.rows(slice(1, 3)).labels
    assert middle is not None
    assert middle.tolist() == [1, 2]
    assert Context().first(2) == Context()


def test_partners_are_drawn_before_noise() -> None:
    """Results of a seed depend on the order of the draws."""
    images, logits, labels = torch.rand(5, 1, 12, 12), torch.randn(5, 3), torch.arange(5)
    context = make_context(BOTH, images, generator=generator(), labels=labels, teacher_logits=logits)
    source = generator()
    partner = rng.derangement(5, source)
    noise = rng.randn((5, 1, 12, 12), source)
    assert context.labels is labels
    assert context.partner_images is not None
    assert context.partner_logits is not None
    assert context.noise is not None
    assert torch.equal(context.partner_images, images[partner])
    assert torch.equal(context.partner_logits, logits[partner])
    assert torch.equal(context.noise, noise)


def test_every_image_is_the_partner_of_another_one() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 12, 12) / 6
    partners = make_context(PatchMix(image_size=12, patch_size=4), images, generator=generator()).partner_images
    assert partners is not None
    found = partners[:, 0, 0, 0]
    assert sorted(found.tolist()) == images[:, 0, 0, 0].tolist()
    assert bool((found != images[:, 0, 0, 0]).all())


@pytest.mark.parametrize("transform", [Affine(), Filter(noise=None)])
def test_nothing_is_drawn_without_need(transform: Transform) -> None:
    source = generator()
    context = make_context(transform, torch.rand(2, 1, 12, 12), generator=source, teacher_logits=torch.randn(2, 3))
    assert context == Context()
    assert torch.equal(source.get_state(), generator().get_state())


def test_without_logits_there_are_no_partner_logits() -> None:
    context = make_context(BOTH, torch.rand(2, 1, 12, 12), generator=generator())
    assert context.partner_images is not None
    assert context.partner_logits is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_noise_has_the_dtype_of_the_images(dtype: torch.dtype) -> None:
    images = torch.rand(2, 1, 12, 12).to(dtype)
    noise = make_context(Filter(), images, generator=generator()).noise
    assert noise is not None
    assert torch.equal(noise, rng.randn((2, 1, 12, 12), generator()).to(dtype))


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_small_batches(rows: int) -> None:
    images, logits = torch.rand(rows, 1, 12, 12), torch.randn(rows, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        context = make_context(BOTH, images, generator=generator(), teacher_logits=logits)
    words = "mixes the images of a batch, and a single one has only itself"
    assert [words in str(warning.message) for warning in caught] == ([True] if rows == 1 else [])
    u = torch.randn(rows, BOTH.size)
    changed = BOTH.render(images, u, context)
    assert changed.shape == images.shape
    assert bool(changed.isfinite().all())
    assert bool(BOTH.reference(logits, u, context).isfinite().all())
    if rows == 1:
        assert context.partner_images is not None
        assert torch.equal(context.partner_images, images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype_changes_no_draw(dtype: torch.dtype) -> None:
    images = torch.rand(4, 1, 12, 12)
    expected = make_context(BOTH, images, generator=generator())
    with defaults(dtype, "meta"):
        found = make_context(BOTH, images, generator=generator())
    for one, other in ((found.noise, expected.noise), (found.partner_images, expected.partner_images)):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
