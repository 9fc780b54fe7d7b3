"""Figures: drawn without a display, from what the library returns."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Conditional
from hard_aug.transforms import Affine, Color, Compose
from hard_aug.viz import PolicyHistory, draw_policy, gallery

PNG = b"\x89PNG"


def test_gallery_shows_both_views_and_both_answers(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    figure = gallery(hard, student, classes=list("abcde"), columns=3)
    assert len(figure.axes) == 6
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert sum(text.startswith("teacher: ") for text in texts) == 6
    top = int(hard.teacher_logits[1].argmax())
    share = 100 * float(hard.teacher_logits[1].softmax(0).max())
    assert f"teacher: {'abcde'[top]}, {share:.0f} %" in texts
    assert student.training
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(PNG)
    with pytest.raises(ValueError, match="2 names for 5 classes"):
        gallery(hard, student, classes=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        gallery(hard, student, columns=0)


def test_a_gallery_of_a_wrapped_student_asks_the_one_inside(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    class Wrapper(nn.DataParallel):  # stands for one that waits for other processes
        def forward(self, *inputs: Tensor) -> Tensor:
            raise AssertionError("a forward of the wrapper")

    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    assert len(gallery(hard, Wrapper(student)).axes) == 16


def test_a_history_of_a_policy_that_looks_at_images_wants_them(teacher: nn.Module, student: nn.Module) -> None:
    policy = Conditional(Affine().spec, channels=1)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), policy=policy)
    with pytest.raises(ValueError, match=r"record\(step, augmenter, images\)"):
        PolicyHistory(Affine().spec).record(0, augmenter)


def test_history_records_what_is_drawn(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    transform = Compose(Affine(), Color(saturation=None, hue=None))
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform)
    history = PolicyHistory(transform.spec)
    with pytest.raises(ValueError, match="nothing has been recorded"):
        draw_policy(history)
    generator = augmenter.state_dict()["generator"]
    for step in range(3):
        history.record(step, augmenter)
    assert torch.equal(augmenter.state_dict()["generator"], generator)
    last = history.last()
    assert last["rotation"]["sd"] == pytest.approx(30 * 0.237, rel=0.1)  # of erf(u / sqrt(2)) at sd 0.3
    assert last["contrast"]["mean"] == pytest.approx(1.0, abs=0.05)
    figure = draw_policy(history, title="a title")
    assert [axis.get_title() for axis in figure.axes][:3] == ["translation x", "translation y", "rotation"]
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(PNG)
    other = PolicyHistory(transform.spec)
    other.load_state_dict(history.state_dict())
    assert other.last() == last
    with pytest.raises(ValueError, match="wanted one of"):
        PolicyHistory(Affine().spec).load_state_dict(history.state_dict())
