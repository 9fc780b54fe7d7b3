"""Compose: what is joined, in which order, under which names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Affine, Color, Compose, Context, Parameter, Transform
from tests.helpers.transform_parts import smooth_images

GREY = Color(saturation=None, hue=None)


class Negative(Transform):
    """Neither spatial nor colour, as far as Compose can see: mixes an image with its negative."""

    spec = (Parameter("strength", 0.0, 1.0, 0.5, "fraction"),)

    @property
    def bounded(self) -> bool:
        return True

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        strength = self.decode(u)["strength"][:, None, None, None]
        return images + strength * (1 - 2 * images)


def parts_of(composed: Compose, u: Tensor) -> tuple[Tensor, ...]:
    return u.split([stage.size for stage in composed.stages], dim=1)


def in_turn(composed: Compose, images: Tensor, u: Tensor) -> Tensor:
    for stage, part in zip(composed.stages, parts_of(composed, u), strict=True):
        images = stage(images, part)
    return images


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_in_turn_are_one_matrix(channels: int) -> None:
    first = GREY if channels == 1 else Color()
    composed = Compose(first, Color(contrast=3, saturation=None, hue=None), first)
    images = torch.rand(3, channels, 5, 4, dtype=torch.float64)
    u = torch.randn(3, composed.size, dtype=torch.float64)
    assert torch.allclose(composed(images, u), in_turn(composed, images, u), atol=1e-12)


def test_a_single_warp_and_colours_are_exactly_those_in_turn() -> None:
    composed = Compose(Affine(padding_mode="border"), Color(), GREY)
    images = torch.rand(3, 3, 9, 12, dtype=torch.float64)
    u = torch.randn(3, composed.size, dtype=torch.float64)
    assert torch.allclose(composed(images, u), in_turn(composed, images, u), atol=1e-12)


def test_colour_before_a_warp_leaves_the_fill_black() -> None:
    shift = Affine(translation=0.5, rotation=None, scale=None, shear=None)
    bright = Color(brightness=0.5, contrast=None, saturation=None, hue=None)
    images = torch.full((1, 1, 8, 8), 0.25)
    u_shift, u_bright = torch.tensor([[9.0, 0.0]]), torch.tensor([[9.0]])  # half the width, 0.5
    before = Compose(bright, shift)(images, torch.cat((u_bright, u_shift), dim=1))
    after = Compose(shift, bright)(images, torch.cat((u_shift, u_bright), dim=1))
    assert torch.allclose(before[..., :4], torch.zeros(1, 1, 8, 4), atol=1e-5)
    assert torch.allclose(after[..., :4], torch.full((1, 1, 8, 4), 0.5), atol=1e-5)
    assert torch.allclose(before[..., 4:], after[..., 4:], atol=1e-5)
    assert torch.allclose(after[..., 4:], torch.full((1, 1, 8, 4), 0.75), atol=1e-5)


def test_content_that_leaves_and_returns_is_not_lost() -> None:
    shift = Affine(translation=0.5, rotation=None, scale=None, shear=None)
    images = torch.rand(1, 1, 8, 8)
    there_and_back = torch.tensor([[9.0, 9.0, -9.0, -9.0]])
    assert torch.allclose(Compose(shift, shift)(images, there_and_back), images, atol=1e-4)
    assert not torch.allclose(in_turn(Compose(shift, shift), images, there_and_back), images, atol=1e-1)


def test_a_stage_of_another_kind_stands_alone() -> None:
    composed = Compose(Affine(), Negative(), Affine(), GREY)
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    u = torch.randn(2, composed.size, dtype=torch.float64)
    assert torch.allclose(composed(images, u), in_turn(composed, images, u), atol=1e-12)
    assert not composed.bounded
    assert Compose(Affine(), Negative()).bounded


def test_nested_composition_is_one_of_its_parts() -> None:
    nested = Compose(Compose(Affine(), GREY), Compose(Affine(), GREY))
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    u = torch.randn(2, nested.size, dtype=torch.float64)
    assert torch.allclose(nested(images, u), in_turn(nested, images, u), atol=1e-12)


@pytest.mark.parametrize(
    "composed",
    [
        Compose(Affine(), Affine(), Affine()),
        Compose(Compose(Affine(), Affine()), Affine()),
        Compose(Affine(), Compose(Affine(), Affine())),
        Compose(Compose(Affine(), Color()), Compose(Color(), Affine()), Affine()),
    ],
)
def test_every_parameter_has_a_name_of_its_own(composed: Compose) -> None:
    names = [parameter.name for parameter in composed.spec]
    assert len(set(names)) == len(names) == composed.size
    u = torch.randn(2, composed.size)
    values = composed.decode(u)
    assert list(values) == names
    first = composed.stages[0]
    for own, name in zip(first.decode(u[:, : first.size]).values(), names, strict=False):
        assert torch.equal(values[name], own)


def test_the_second_of_a_name_is_numbered() -> None:
    names = [p.name for p in Compose(GREY, GREY, GREY).spec]
    assert names == ["brightness", "contrast", "brightness_2", "contrast_2", "brightness_3", "contrast_3"]


def test_unsupported_channels_raise_before_any_work() -> None:
    images = torch.rand(2, 1, 8, 8)
    transform = Compose(Affine(), Color(brightness=None, contrast=None))
    with pytest.raises(ValueError, match=r"do not change images with 1 channel"):
        transform(images, torch.zeros(2, transform.size))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        GREY(torch.rand(2, 2, 8, 8), torch.zeros(2, 2))


def test_what_is_not_a_transform_raises() -> None:
    with pytest.raises(TypeError, match=r"Compose: expected transforms, .*got Identity"):
        Compose(Affine(), torch.nn.Identity())  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match=r"\['border', 'zeros'\]"):
        Compose(Affine(padding_mode="zeros"), Affine(padding_mode="border"))
    apart = Compose(Affine(padding_mode="zeros"), GREY, Affine(padding_mode="border"))
    assert apart.size == 14  # a colour stage between them starts a new gather


def test_compose_of_spatial_stages_is_one_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = torch.nn.functional.grid_sample

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "grid_sample", counted)
    images = torch.rand(2, 1, 8, 8)
    for transform, gathers in ((Compose(Affine(), Affine(), GREY), 1), (Compose(Affine(), GREY, Affine()), 2)):
        calls.clear()
        transform(images, torch.randn(2, transform.size))
        assert len(calls) == gathers


def test_compose_equals_applying_in_turn_away_from_borders() -> None:
    first, second, third = Affine(scale=None), Affine(translation=None), Color()
    composed = Compose(first, second, third)
    images = smooth_images(3, 3, 96, 96)
    u = 0.15 * torch.randn(3, composed.size, dtype=torch.float64)
    a, b, c = u.split([first.size, second.size, third.size], dim=1)
    in_turn = third(second(first(images, a), b), c)
    inside = (slice(None), slice(None), slice(24, -24), slice(24, -24))
    assert torch.allclose(composed(images, u)[inside], in_turn[inside], atol=2e-3)
    names = [p.name for p in composed.spec]
    assert len(set(names)) == len(names) == composed.size
