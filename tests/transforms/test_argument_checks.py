"""Checks of the arguments of transforms: what passes, and what the errors say."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from hard_aug import transforms
from hard_aug.transforms import Affine, Color, Elastic, Filter, PatchMix, Perspective
from hard_aug.transforms.argument_checks import check_factors, check_pair, check_positive


def test_ranges_that_pass() -> None:
    check_positive(rotation=0.1, shear=None)
    check_factors(scale=1.01, contrast=None)
    assert check_pair(size=3) == (3, 3)
    assert check_pair(size=(3, 5)) == (3, 5)
    assert check_pair(size=[3, 5]) == (3, 5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_ranges_are_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match=rf"shear={value}: expected a positive number; shear=None switches it off"):
        check_positive(rotation=1.0, shear=value)


@pytest.mark.parametrize("value", [1.0, 0.5, -2.0, math.nan, math.inf])
def test_factors_are_above_one_and_finite(value: float) -> None:
    with pytest.raises(
        ValueError, match=rf"scale={value}: expected a factor above 1, such as 1\.2 .*; scale=None switches"
    ):
        check_factors(scale=value)


def test_a_range_of_two_numbers() -> None:
    with pytest.raises(
        ValueError, match=r"rotation=\(-10, 10\).*positive number, the end of a range that is symmetric"
    ):
        Affine(rotation=(-10, 10))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scale=\(0\.8, 1\.2\).*above 1, the end of a range that is symmetric"):
        Affine(scale=(0.8, 1.2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blur=2: expected a positive number;"):
        Filter(blur="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blur=True: expected a positive number"):
        Filter(blur=True)


OTHER_UNITS = [
    (Affine, {"translation": 8.0}, "translation=8 is a fraction of the image's size.*divide pixels"),
    (Affine, {"rotation": 0.6}, r"rotation=0\.6 is in degrees; math\.degrees\(x\) converts radians"),
    (Affine, {"rotation": math.pi / 2}, r"rotation=1\.5708 is in degrees"),
    (Affine, {"rotation": 2 * math.pi}, r"rotation=6\.28319 is in degrees"),
    (Affine, {"scale": 120.0}, r"scale=120 is a factor; 20 % more or less is scale=1\.2"),
    (Affine, {"shear": 10.0}, "shear=10 is the tangent of an angle"),
    (Color, {"brightness": 32.0}, r"brightness=32 is in units of .*\[0, 1\]; divide bytes by 255"),
    (Color, {"contrast": 50.0}, "contrast=50 is a factor"),
    (Color, {"saturation": 50.0}, "saturation=50 is a factor"),
    (Color, {"hue": 0.1}, r"hue=0\.1 is in degrees.* 360 \* x a fraction x of the circle"),
    (Elastic, {"magnitude": 4.0}, "magnitude=4 is a fraction of the image's size"),
    (Perspective, {"tilt": 0.5}, r"tilt=0\.5 is in degrees"),
    (Perspective, {"focal_length": 224.0}, "focal_length=224 is in units of the image's longer side"),
    (Filter, {"blur": 0.1}, r"blur=0\.1 is a standard deviation in pixels"),
    (Filter, {"noise": 25.0}, "noise=25 is in units of"),
    (Filter, {"gamma": 80.0}, "gamma=80 is a factor"),
]


@pytest.mark.parametrize(("kind", "settings", "words"), OTHER_UNITS)
def test_values_of_another_unit_are_warned_of(kind: Any, settings: dict[str, float], words: str) -> None:
    with pytest.warns(UserWarning, match=words) as caught:
        kind(**settings)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # the line that gave the value


@pytest.mark.parametrize("settings", [{"rotation": 1.0}, {"rotation": 3}, {"rotation": 360.0}, {"translation": 1.0}])
def test_values_that_may_be_meant_are_not(settings: dict[str, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Affine(**settings)  # type: ignore[arg-type]
        for transform in (Affine, Color, Elastic, Perspective, Filter):
            transform()
        for name in ("color", "elastic", "filter"):
            configuration = OmegaConf.load(
                Path(__file__).parents[2] / "experiments" / "conf" / "transform" / f"{name}.yaml"
            )
            given = OmegaConf.to_container(configuration)
            assert isinstance(given, dict)
            kind = str(given.pop("_target_")).rsplit(".", 1)[1]
            getattr(transforms, kind)(**{key: value for key, value in given.items() if isinstance(value, float)})


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16, torch.tensor])
def test_numbers_of_numpy_become_pythons(number: Any) -> None:
    made = [
        Affine(translation=number(0.25), rotation=number(15.0), scale=number(1.5), shear=number(0.25)),
        Color(brightness=number(0.25), contrast=number(1.5), saturation=number(1.5), hue=number(30.0)),
        Elastic(magnitude=number(0.25), control=np.int64(4)),
        Perspective(tilt=number(30.0), focal_length=number(2.5)),
        Filter(
            blur=number(2.0), gamma=number(1.5), noise=number(0.25), motion_blur=number(0.5), motion_length=np.int64(5)
        ),
        PatchMix(image_size=np.int64(8), patch_size=(np.int32(4), torch.tensor(2)), temperature=number(0.5)),
    ]
    for transform in made:
        assert json.loads(json.dumps(vars(transform), default=dataclasses.asdict))
        for parameter in transform.spec:
            assert type(parameter.high) is float
    assert repr(made[0]) == "Affine(translation=0.25, rotation=15.0, scale=1.5, shear=0.25, padding_mode='zeros')"


@pytest.mark.parametrize("size", [True, (True, 4), np.float32(4)])
def test_what_is_no_integer(size: Any) -> None:
    with pytest.raises(TypeError, match="expected an integer, or a pair"):
        Elastic(control=size)
    with pytest.raises(ValueError, match=r"motion_length=.*odd number"):
        Filter(motion_length=size)


@pytest.mark.parametrize("size", [4.5, (4, 4.5), (4,), (4, 4, 4), "ab"])
def test_sizes_are_one_or_two_integers(size: Any) -> None:
    with pytest.raises(TypeError, match=r"control=.*expected an integer, or a pair \(rows, columns\)"):
        check_pair(control=size)


@pytest.mark.parametrize("size", [0, (4, 0), (-1, 4)])
def test_sizes_are_at_least_one(size: Any) -> None:
    with pytest.raises(ValueError, match=r"control=.*expected integers >= 1"):
        check_pair(control=size)
