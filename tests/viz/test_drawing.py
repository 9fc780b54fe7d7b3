"""What the figures share: images in grey and in colour, and texts of predictions and drawn parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from hard_aug import HardAugmenter
from hard_aug.transforms import Affine, Color, Filter, Transform
from hard_aug.viz import draw_disagreement, draw_distributions, draw_predictions, gallery, parameter_grid
from hard_aug.viz.drawing import (
    check_class_names,
    class_name,
    drawn_text,
    prediction_text,
    relative_position,
    relative_std,
    show_image,
    value_at,
)
from tests.helpers.figures import assert_saves


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_are_drawn_in_grey_or_colour(channels: int) -> None:
    image = torch.linspace(-0.5, 1.5, channels * 12).view(channels, 3, 4)
    axis = Figure().subplots()
    show_image(axis, image)
    shown = torch.as_tensor(axis.images[0].get_array().data)
    pixels = image.clamp(0, 1)
    expected = pixels[:3].permute(1, 2, 0) if channels > 2 else pixels.mean(0)
    assert torch.equal(shown, expected)
    assert len(axis.get_xticks()) == len(axis.get_yticks()) == 0
    if channels < 3:
        assert axis.images[0].get_clim() == (0, 1)


def test_predictions_are_a_name_and_a_probability() -> None:
    logits = torch.tensor([0.1, 0.7, 0.2]).log().half()
    assert prediction_text(logits, ["cat", "dog", "cow"]) == ("dog, 70 %", 1)
    assert prediction_text(logits, None) == ("1, 70 %", 1)
    assert class_name(2, None) == "2"
    assert class_name(0, ["Staffordshire bullterrier"]) == "Staffordshi…"


def test_drawn_parameters_are_in_units_in_use() -> None:
    spec = {parameter.name: parameter for parameter in (*Affine().spec, *Color().spec, *Filter().spec)}
    values = {"translation_x": 0.25, "translation_y": -0.1, "rotation": -3.2, "scale_x": 1.2, "shear": 0.3, "blur": 2.0}
    assert [drawn_text(spec[name], value, (30, 20)) for name, value in values.items()] == [
        "shift x +5 px",
        "shift y -3 px",
        "rotation -3°",
        "scale x 1.20",
        "shear +0.30",
        "blur +2.0 px",
    ]


@pytest.mark.parametrize("transform", [Affine(), Filter()])
def test_random_augmentation_has_the_relative_standard_deviation_1(transform: Transform) -> None:
    values = transform.decode(torch.randn(20_000, transform.size, generator=torch.Generator().manual_seed(0)))
    for parameter in transform.spec:
        assert relative_std(parameter, values[parameter.name].numpy()) == pytest.approx(1, abs=0.02)
        assert relative_std(parameter, np.full(9, parameter.high)) == pytest.approx(0)
        middle = relative_position(parameter, np.array(value_at(parameter, 0.5)))
        assert float(middle) == pytest.approx(0.5)


def test_there_has_to_be_a_name_for_each_class() -> None:
    check_class_names(None, 3)
    check_class_names(["a", "b", "c", "d"], 3)
    with pytest.raises(ValueError, match="classes: expected 3 names, got 2"):
        check_class_names(["a", "b"], 3)


ODD = ("$x$", "a $b_$ c$", "\\frac{$", "<&\"'", "é 猫", "two\nlines", "-dash", ".dot", "\udcff", "")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_with_any_character_are_drawn_as_they_are() -> None:
    """Dollars are no formulas, in whose place matplotlib raises for what it cannot parse."""
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, len(ODD))) for _ in range(2))
    images, transform = torch.rand(6, 1, 8, 8), Affine()
    hard = HardAugmenter(teacher=teacher, student=student, transform=transform)(images)
    labels = torch.arange(6)
    for index, given in enumerate(ODD):
        name = class_name(index, ODD)
        both = {name: student, f"{index} again": teacher}
        figures = [
            gallery(hard, both, classes=ODD, labels=labels, columns=3, title=name),
            draw_predictions(hard, student, rows=2, classes=ODD),
            parameter_grid(teacher, student, images[:2], transform, "rotation", columns=3, classes=ODD),
            draw_disagreement({f"{name}{index}": torch.rand(9)}, unit=name, title=name),
            draw_distributions({name: transform.decode(torch.randn(9, transform.size))}, transform.spec, title=name),
        ]
        for figure in figures[:: 1 if index < 3 else 4]:
            assert_saves(figure)
        assert figures[0].get_suptitle().startswith(name)
        assert class_name(index, ODD) == " ".join(given.split()).replace("\udcff", "\\udcff")


def test_a_parameter_may_have_dollars() -> None:
    spec = tuple(replace(one, name=f"$k_{number}", unit="US$ to $") for number, one in enumerate(Affine().spec))
    u = torch.randn(9, len(spec))
    drawn = {"drawn": {one.name: u[:, place].abs() + one.identity for place, one in enumerate(spec)}}
    assert_saves(draw_distributions(drawn, spec))
