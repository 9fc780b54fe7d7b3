"""Predictions as bars: which images, and which probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, Normalized
from hard_aug.models import Normalization
from hard_aug.transforms import Affine
from hard_aug.viz import draw_predictions, gallery, parameter_grid
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


def test_a_student_that_writes_into_its_images_changes_nothing(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = student

        def forward(self, given: Tensor) -> Tensor:
            return self.student(given.sub_(0.5))  # type: ignore[no-any-return]  # a tensor

    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    kept, shown = images.clone(), hard.images.clone()
    for _ in range(2):
        draw_predictions(hard, Overwriting(), rows=8)
        gallery(hard, {"one": Overwriting(), "other": Overwriting()}, columns=8)
        parameter_grid(teacher, Overwriting(), images[:1], Affine(), "rotation", columns=2)
        assert torch.equal(images, kept)
        assert torch.equal(hard.images, shown)


def test_students_that_do_not_normalise_by_themselves(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    """They see what the augmenter shows them, and not images in [0, 1]."""
    pair = ((0.4,), (0.2,))
    given = Normalization(*pair).normalize(images)
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine(), normalization=pair)(given)
    row = int(hard.disagreement.argmax())
    expected = student.eval()(hard.normalized())[row].softmax(0)
    for shown in (student, Normalized(student, *pair)):
        bars = draw_predictions(hard, shown, rows=1).axes[3].patches
        assert [bar.get_height() for bar in bars[5:]] == pytest.approx(expected.tolist(), abs=1e-5)
        texts = gallery(hard, shown, columns=1).axes[1].texts
        assert f"{int(expected.argmax())}, {100 * float(expected.max()):.0f} %" in [text.get_text() for text in texts]
    wrapped = [Normalized(network, *pair) for network in (teacher, student)]
    figures = (
        parameter_grid(teacher, student, given[:2], Affine(), "rotation", columns=3, normalization=pair),
        parameter_grid(*wrapped, images[:2], Affine(), "rotation", columns=3),
    )
    found, other = ([text.get_text() for axis in figure.axes for text in axis.texts] for figure in figures)
    assert found == other
