"""What the figures share: images in grey and in colour, and texts of predictions."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure

from hard_aug.viz.drawing import check_class_names, class_name, prediction_text, show_image


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


def test_there_has_to_be_a_name_for_each_class() -> None:
    check_class_names(None, 3)
    check_class_names(["a", "b", "c", "d"], 3)
    with pytest.raises(ValueError, match="classes: expected 3 names, got 2"):
        check_class_names(["a", "b"], 3)
