"""With `torch.compile`: whole graphs of the leaves, and no compilation beyond the first steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import kl_divergence
from hard_aug.schedules import Alternating, Joint
from hard_aug.transforms import Affine, Color, Compose, Transform


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("transform", [Affine(), Color(), Compose(Affine(), Color())])
def test_a_transform_is_one_graph(transform: Transform) -> None:
    compiled = torch.compile(lambda i, v: transform(i, v), backend="aot_eager", fullgraph=True)
    images, u = torch.rand(3, 3, 10, 12), torch.randn(3, transform.size, requires_grad=True)
    found, expected = compiled(images, u), transform(images, u)
    assert torch.allclose(found, expected, atol=1e-6)
    gradients = [torch.autograd.grad(out.square().sum(), u)[0] for out in (found, expected)]
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_the_divergence_is_one_graph() -> None:
    compiled = torch.compile(
        lambda t, s: kl_divergence(teacher_logits=t, student_logits=s, temperature=2.0),
        backend="aot_eager",
        fullgraph=True,
    )
    teacher, student = torch.randn(2, 6, 5)
    expected = kl_divergence(teacher_logits=teacher, student_logits=student, temperature=2.0)
    assert torch.allclose(compiled(teacher, student), expected, atol=1e-6)


@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_networks_compile_once(teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any) -> None:
    compilations: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        compilations.append(1)
        return graph.forward

    compiled = torch.compile(student, backend=counting)
    augmenter = HardAugmenter(
        teacher=torch.compile(teacher, backend=counting), student=compiled, transform=Affine(), schedule=schedule
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    counts = []
    for _ in range(6):
        hard = augmenter(images)
        optimizer.zero_grad()
        hard.loss().backward()
        optimizer.step()
        augmenter.step()
        assert float(hard.disagreement.mean()) >= 0
        counts.append(len(compilations))
    assert counts[0] >= 1
    assert counts[-1] == counts[1]
    assert student.training
    assert augmenter.dropped_steps == 0
