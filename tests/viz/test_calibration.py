"""Calibration as bars: lengths, the values at their ends, one-sided parameters, names, and what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from hard_aug import Calibration, calibrate
from hard_aug.transforms import Affine, Color, Compose, Filter, Transform, menu
from hard_aug.viz import draw_calibration
from hard_aug.viz.calibration import CALIBRATED, lighter
from tests.helpers.figures import assert_saves
from tests.helpers.known_invariances import Rows, dots


def calibration_of(transform: Transform, reach: torch.Tensor) -> Calibration:
    kept = torch.full_like(reach, 0.9)
    return Calibration(transform, reach, kept, 0.9, 0.5, 0.8, 0.8, images=64, evaluations=64)


def test_bars_and_values() -> None:
    transform = Compose(Affine(scale=None, shear=None, rotation=80.0), Filter(gamma=4.0, sharpness=None, noise=None))
    reach = torch.tensor([[1.0, 1.0], [0.5, 0.25], [0.8, 0.1], [0.5, 1.0], [0.5, 0.5]])
    figure = draw_calibration(calibration_of(transform, reach), title="a title")
    assert_saves(figure)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "translation x (fraction of width)",
        "translation y (fraction of height)",
        "rotation (degrees)",
        "gamma (factor)",
        "blur (pixels)",
    ]
    bars = [(round(bar.get_x()), round(bar.get_x() + bar.get_width())) for bar in axis.patches]
    assert bars[::2] == [(-100, 100)] * 4 + [(0, 100)]
    assert bars[1::2] == [(-100, 100), (-50, 25), (-80, 10), (-50, 100), (0, 50)]
    texts = {(text.get_text(), round(text.get_position()[1])): text for text in axis.texts}
    assert {("-80", 2), ("-64", 2), ("8", 2), ("80", 2), ("0.25", 3), ("0.5", 3), ("4", 3), ("1", 4), ("2", 4)} == {
        key for key in texts if key[1] >= 2
    }
    assert len([row for _, row in texts if row == 0]) == 2  # kept whole: only the full range's values
    inside, outside = texts["-64", 2], texts["8", 2]  # the left bar is long, the right one short
    assert inside.get_position()[0] > -80
    assert outside.get_position()[0] > 10
    assert inside.get_ha() == outside.get_ha() == "left"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["identity", "full range", "calibrated range"]
    title = "a title\nAt the ends the teacher keeps at least 90 % of its predictions on 64 images"
    assert figure.get_suptitle() == title
    assert draw_calibration(calibration_of(transform, reach)).get_suptitle() == title.split("\n")[1]


def test_the_menu_fits() -> None:
    transform = menu()
    figure = draw_calibration(calibration_of(transform, torch.linspace(0.02, 1, 132).reshape(66, 2)))
    figure.set_dpi(130)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in (*axis.texts, *axis.get_yticklabels())]
    assert len(axis.get_yticklabels()) == 17
    for index, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_a_result_of_calibrate_and_names_with_any_character() -> None:
    transform = Affine(scale=None, shear=None, rotation=None)
    figure = draw_calibration(calibrate(Rows(), dots(), transform), title="a $ and \\frac{")
    assert_saves(figure)
    widths = [round(bar.get_width()) for bar in figure.axes[0].patches]
    assert widths[1] > 2 * widths[3]  # its predictions depend on the rows


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="calibration: expected a Calibration, got a partial of calibrate; call it"):
        draw_calibration(partial(calibrate, Rows()))  # type: ignore[arg-type]  # the mistake that is tested
    assert draw_calibration(calibration_of(Color(hue=None), torch.ones(3, 2))).axes


def test_lighter_colours() -> None:
    assert lighter("black", 0.0) == "#000000"
    assert lighter("black", 1.0) == "#ffffff"
    assert lighter("#ff0000", 0.5) == "#ff8080"
    assert lighter(CALIBRATED, 0.1) != CALIBRATED
