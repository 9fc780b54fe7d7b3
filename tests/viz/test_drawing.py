"""What the figures share: images in grey and in colour, and texts of predictions and drawn parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hard_aug.transforms import Affine, Color, Filter, Transform
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
