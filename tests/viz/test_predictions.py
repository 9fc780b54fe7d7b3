"""Predictions as bars: which images, and which probabilities."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.transforms import Affine
from hard_aug.viz import draw_predictions
from tests.helpers.figures import assert_saves


def test_the_images_with_the_largest_disagreement(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    figure = draw_predictions(hard, student, rows=3, top=4, classes=list("abcde"))
    assert_saves(figure)
    assert len(figure.axes) == 12
    worst = int(hard.disagreement.argmax())
    assert (figure.axes[0].images[0].get_array() == hard.clean_images[worst, 0].numpy()).all()
    bars = figure.axes[3].patches
    assert len(bars) == 8
    teachers = hard.teacher_logits[worst].softmax(0)
    shown = ["abcde".index(label.get_text()) for label in figure.axes[3].get_xticklabels()]
    assert [bar.get_height() for bar in bars[:4]] == pytest.approx(teachers[shown].tolist())
    assert student.training
    for wrong in ({"rows": 0}, {"top": 0}):
        with pytest.raises(ValueError, match="at least one"):
            draw_predictions(hard, student, **wrong)
    with pytest.raises(ValueError, match="expected 5 names, got 1"):
        draw_predictions(hard, student, classes=["a"])
