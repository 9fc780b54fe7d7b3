"""Gallery: texts, marks of changed predictions, and wrapped students."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.transforms import Affine
from hard_aug.viz import gallery
from tests.helpers.figures import assert_saves


def test_gallery_shows_both_views_and_both_predictions(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    figure = gallery(hard, student, classes=list("abcde"), columns=3)
    assert student.training
    assert len(figure.axes) == 6
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert sum(text.startswith("teacher: ") for text in texts) == 6
    top = int(hard.teacher_logits[1].argmax())
    percent = 100 * float(hard.teacher_logits[1].softmax(0).max())
    assert f"teacher: {'abcde'[top]}, {percent:.0f} %" in texts
    student_logits = student.eval()(hard.images)
    student.train()
    expected = hard.clean_teacher_logits.argmax(1)
    for column in range(3):
        for text, logits in zip(figure.axes[3 + column].texts[:2], (hard.teacher_logits, student_logits), strict=True):
            differs = int(logits[column].argmax()) != int(expected[column])
            assert (text.get_weight() == "bold") == differs
            assert (text.get_color() == "tab:red") == differs
    assert_saves(figure)
    with pytest.raises(ValueError, match="expected 5 names, got 2"):
        gallery(hard, student, classes=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        gallery(hard, student, columns=0)


def test_a_gallery_of_a_wrapped_student_runs_the_network_inside(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    class Wrapper(nn.DataParallel):  # stands for one that synchronises with other processes
        def forward(self, *inputs: Tensor) -> Tensor:
            raise AssertionError("a forward of the wrapper")

    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    assert len(gallery(hard, Wrapper(student)).axes) == 16
