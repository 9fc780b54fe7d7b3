"""Gallery: order, texts, marks of changed predictions, several students, and wrapped students."""

from __future__ import annotations

import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.transforms import Affine, Color
from hard_aug.viz import gallery
from tests.helpers.figures import assert_saves


def texts(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts[::2]]


def test_the_hardest_images_with_both_predictions(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    labels = torch.arange(len(images)) % 5
    figure = gallery(hard, student, classes=list("abcde"), labels=labels, columns=3, difference=False, step=7)
    assert_saves(figure)
    assert student.training
    assert len(figure.axes) == 6
    assert figure.get_suptitle() == f"3 of {len(images)} images, those with the largest disagreement, step 7"
    order = hard.disagreement.argsort(descending=True)[:3].tolist()
    student_logits = student.eval()(hard.images).detach()
    expected = hard.clean_teacher_logits.argmax(1)
    for column, index in enumerate(order):
        clean, axis = figure.axes[column], figure.axes[3 + column]
        assert clean.get_title() == f"label {'abcde'[int(labels[index])]}"
        assert torch.equal(torch.as_tensor(axis.images[0].get_array().data), hard.images[index, 0])
        changed = []
        for text, logits in zip(axis.texts[:4:2], (hard.teacher_logits, student_logits), strict=True):
            top, percent = int(logits[index].argmax()), 100 * float(logits[index].softmax(0).max())
            assert text.get_text() == f"{'abcde'[top]}, {percent:.0f} %"
            changed.append(top != int(expected[index]))
            assert (text.get_weight() == "bold") == (text.get_color() == "tab:red") == changed[-1]
        assert (axis.spines["left"].get_linewidth() > 1) == (changed[1] and not changed[0])
        assert len(texts(axis)) == 5
        assert texts(axis)[4] == f"{float(hard.disagreement[index]):.2f} nats"
    assert [text.get_text() for text in figure.axes[3].texts[1::2]] == [
        "teacher",
        "student",
        "drawn",
        "",
        "disagreement",
    ]
    with pytest.raises(ValueError, match="expected 5 names, got 2"):
        gallery(hard, student, classes=["a", "b"])
    for wrong in ({"columns": 0}, {"student": {}}):
        with pytest.raises(ValueError, match="at least one"):
            gallery(hard, **({"student": student} | wrong))
    with pytest.raises(TypeError, match="batch: expected a HardBatch, got Tensor"):
        gallery(hard.images, student)  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(TypeError, match="expected a Module, got list"):
        gallery(hard, [student])  # type: ignore[arg-type]  # the mistake that is tested


def test_several_students_and_the_difference_of_small_edits(
    teacher: nn.Module, student: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    transform = Color(brightness=0.02, contrast=None, saturation=None, hue=None)
    hard = HardAugmenter(teacher=teacher, student=student, transform=transform)(images)
    figure = gallery(hard, {"plain": plain_student, "other": student}, columns=2)
    assert len(figure.axes) == 6  # with a row of differences
    assert [text.get_text() for text in figure.axes[0].texts[1::2]] == ["teacher", "plain", "other"]
    first = int(hard.disagreement.argmax())
    assert texts(figure.axes[2])[3:] == [
        f"brightness {float(hard.params['brightness'][first]):+.2f}",
        f"{float(hard.disagreement[first]):.2f} nats",
    ]
    order = hard.disagreement.argsort(descending=True)[:2]
    change = (hard.images - hard.clean_images)[order]
    shown = torch.as_tensor(figure.axes[4].images[0].get_array().data)
    torch.testing.assert_close(shown, 0.5 + change[0, 0] / (2 * change.abs().max()))
    moved = HardAugmenter(teacher=teacher, student=student, transform=Affine())(torch.rand(8, 1, 12, 12))
    assert len(gallery(moved, student, columns=2).axes) == 4


def test_only_hard_images_are_shown_unless_there_are_none(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    made = HardAugmenter(teacher=teacher, student=student, transform=Affine(), hard_fraction=0.25, warmup_calls=1)
    assert len(gallery(made(images[:8]), student).axes) == 12
    assert len(gallery(made(images[:8]), student, difference=False).axes) == 4


def test_a_gallery_of_a_wrapped_student_runs_the_network_inside(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    class Wrapper(nn.DataParallel):  # stands for one that synchronises with other processes
        def forward(self, *inputs: Tensor) -> Tensor:
            raise AssertionError("a forward of the wrapper")

    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    assert len(gallery(hard, Wrapper(student), difference=False).axes) == 12
