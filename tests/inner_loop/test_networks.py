"""`Networks`: unwrapped, in evaluation mode, with checked logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.inner_loop.networks import Networks


def test_wrappers_are_removed(teacher: nn.Module, student: nn.Module) -> None:
    networks = Networks(teacher=torch.compile(teacher, backend="eager"), student=nn.DataParallel(student))
    assert networks.teacher is teacher
    assert networks.student is student


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


def test_logits_have_a_graph_to_the_images(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    networks = Networks(teacher=teacher, student=plain_student)
    leaf = images.clone().requires_grad_()
    for found, network in (
        (networks.teacher_logits(leaf), teacher),
        (networks.student_logits(leaf), plain_student),
    ):
        assert torch.equal(found, network(leaf))
        assert bool(torch.autograd.grad(found.sum(), leaf)[0].any())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("network", ["teacher", "student"])
def test_logits_that_are_not_finite_are_named(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, network: str, value: float
) -> None:
    networks = Networks(teacher=teacher, student=plain_student)
    getattr(networks, network)[-1].bias.data.fill_(value)
    with pytest.raises(ValueError, match=f"the {network} returned NaN or infinite logits"):
        getattr(networks, f"{network}_logits")(images)


def test_large_logits_of_half_precision_are_finite(images: Tensor) -> None:
    """Their sum overflows in float16."""

    class Large(nn.Module):
        def forward(self, inputs: Tensor) -> Any:
            return torch.full((len(inputs), 5), 6e4, dtype=torch.float16)

    assert Networks(teacher=Large(), student=Large()).teacher_logits(images).shape == (8, 5)
