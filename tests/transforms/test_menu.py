"""`menu`: its parameters and groups, parts that are switched off, and the images that it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Affine, Color, Compose, Context, Elastic, Filter, Menu, Perspective, make_context, menu
from hard_aug.transforms.spec import columns_by_group

GROUPS = {
    "translation": 2,
    "rotation": 1,
    "scale": 2,
    "shear": 1,
    "tilt": 2,
    "elastic": 50,
    "brightness": 1,
    "hue": 1,
    "contrast": 1,
    "saturation": 1,
    "gamma": 1,
    "sharpness": 1,
    "blur": 1,
    "noise": 1,
}


def context_of(transform: Compose, images: Tensor) -> Context:
    return make_context(transform, images, generator=torch.Generator().manual_seed(0))


def test_parameters_and_groups() -> None:
    transform = menu()
    assert isinstance(transform, Menu)
    assert repr(transform).startswith("Menu(Affine(translation=0.3, rotation=180.0, ")
    assert transform.size == 66
    assert {name: len(columns) for name, columns in columns_by_group(transform.spec).items()} == GROUPS
    assert [type(stage) for stage in transform.stages] == [Affine, Perspective, Elastic, Color, Filter]
    ranges = {p.name: (p.low, p.high, p.unit) for p in transform.spec}
    assert ranges["rotation"] == (-180, 180, "degrees")
    assert ranges["translation_y"] == (-0.3, 0.3, "fraction of height")
    assert ranges["scale_x"] == (0.5, 2, "factor")
    assert ranges["noise"] == (0, 0.3, "intensity")


def test_geometry_and_colours_are_one_gather() -> None:
    assert len(menu().fused_stages) == 2  # the filters are the other


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("channels", [1, 3])
def test_zero_is_the_identity_and_every_group_changes_images(channels: int, padding_mode: Any) -> None:
    transform = menu(padding_mode=padding_mode)
    images = 0.2 + 0.6 * torch.rand(2, channels, 20, 20, generator=torch.Generator().manual_seed(1))
    context = context_of(transform, images)
    u = torch.zeros(2, transform.size)
    same = transform.render(images, u, context)
    assert same.shape == images.shape
    assert torch.allclose(same, images, atol=1e-4)
    for name, columns in columns_by_group(transform.spec).items():
        u = torch.zeros(2, transform.size)
        u[:, columns] = torch.randn(2, len(columns), generator=torch.Generator().manual_seed(2))
        changed = float((transform.render(images, u, context) - same).abs().max())
        grey = channels == 1 and name in ("hue", "saturation")
        assert (changed < 1e-5) if grey else (changed > 0.01), (name, changed)


def test_draws_stay_in_range() -> None:
    transform, images = menu(), torch.rand(16, 3, 12, 16)
    u = 10 * torch.randn(16, transform.size, generator=torch.Generator().manual_seed(0))
    found = transform.render(images, u, context_of(transform, images))
    assert bool(found.isfinite().all())
    assert 0 <= float(found.min()) < float(found.max()) <= 1


@pytest.mark.parametrize("name", GROUPS)
def test_each_part_can_be_switched_off(name: str) -> None:
    off: dict[str, Any] = {name: None}
    assert list(columns_by_group(menu(**off).spec)) == [group for group in GROUPS if group != name]


@pytest.mark.parametrize("name", GROUPS)
def test_each_part_alone(name: str) -> None:
    values = {p.group: p.high for p in menu().spec}
    only: dict[str, Any] = {**dict.fromkeys(GROUPS), name: values[name]}
    transform = menu(**only)
    assert [p.name for p in transform.spec] == [p.name for p in menu().spec if p.group == name]
    assert len(transform.stages) == 1


def test_everything_off() -> None:
    off: dict[str, Any] = dict.fromkeys(GROUPS)
    with pytest.raises(ValueError, match="menu with every part switched off has no effect; give at least one range"):
        menu(**off)


def test_bad_ranges() -> None:
    with pytest.raises(ValueError, match=r"scale=0\.5"):
        menu(scale=0.5)
    with pytest.raises(ValueError, match=r"blur=-1\.0"):
        menu(blur=-1.0)
    with pytest.raises(ValueError, match="padding_mode"):
        menu(padding_mode="wrap")  # type: ignore[arg-type]  # wrong on purpose


def test_images_that_do_not_fit() -> None:
    small = torch.rand(2, 1, 4, 4)
    transform = menu()
    with pytest.raises(ValueError, match=r"Elastic.* at least 5 x 5 pixels, got 4 x 4; .*menu\(elastic=None\)"):
        transform.render(small, torch.zeros(2, transform.size), context_of(transform, small))
    without = menu(elastic=None)
    found = without.render(small, torch.zeros(2, without.size), context_of(without, small))
    assert torch.allclose(found, small, atol=1e-4)
    with pytest.raises(ValueError, match="Color expected images with 1 or 3 channels, got 4"):
        transform.render(torch.rand(2, 4, 8, 8), torch.zeros(2, transform.size), Context())
