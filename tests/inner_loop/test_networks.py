"""`Networks`: both networks, unwrapped and in evaluation mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug.inner_loop.networks import Networks
from hard_aug.models import NetworkNormalizations


def test_wrappers_are_removed(teacher: nn.Module, student: nn.Module) -> None:
    networks = Networks(teacher=torch.compile(teacher, backend="eager"), student=nn.DataParallel(student))
    assert networks.teacher.inner is teacher
    assert networks.student.inner is student


def test_the_device_is_that_of_the_first_tensor(teacher: nn.Module) -> None:
    elsewhere = nn.Linear(2, 2, device="meta")
    assert Networks(teacher=teacher, student=elsewhere).device.type == "meta"
    assert Networks(teacher=elsewhere, student=nn.Flatten()).device.type == "meta"
    assert Networks(teacher=nn.Flatten(), student=nn.Flatten()).device.type == "cpu"
    buffers_only = nn.BatchNorm1d(2, affine=False, device="meta")
    assert Networks(teacher=teacher, student=buffers_only).device.type == "meta"


def test_evaluation_mode_of_both_or_the_teacher_alone(teacher: nn.Module, student: nn.Module) -> None:
    networks = Networks(teacher=teacher.train(), student=student)
    with networks.eval_mode():
        assert not any(m.training for m in (*teacher.modules(), *student.modules()))
    with networks.eval_mode(student=False):
        assert not teacher.training
        assert student.training
    assert teacher.training


def test_each_gets_its_own_normalisation(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    normalization = NetworkNormalizations.parse({"teacher": ((0.5,), (0.25,)), "student": ((0.1,), (0.5,))})
    networks = Networks(teacher=teacher, student=plain_student, normalization=normalization)
    assert torch.allclose(networks.teacher(images), teacher((images - 0.5) / 0.25), atol=1e-5)
    assert torch.allclose(networks.student(images), plain_student((images - 0.1) / 0.5), atol=1e-5)


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_gradient_has_to_pass_through_both(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    class Detached(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return plain_student(inputs.detach())  # type: ignore[no-any-return]  # a tensor

    networks = {"teacher": teacher, "student": plain_student}
    Networks(**networks).check_gradient(images)
    with pytest.raises(ValueError, match=f"the {name}'s logits carry no gradient"):
        Networks(**networks | {name: Detached()}).check_gradient(images)
