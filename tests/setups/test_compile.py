"""With `torch.compile`: parts are whole graphs, and nothing is compiled after the first steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import kl_divergence
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Color, Compose, Elastic, Perspective, Transform


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform", [Affine(), Color(), Perspective(), Elastic(control=4), Compose(Affine(), Elastic(control=4), Color())]
)
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


class Counting:
    """A backend that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def train(teacher: nn.Module, student: nn.Module, images: Tensor, steps: int, **parts: Any) -> HardAugmenter:
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), **parts)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(steps):
        hard = augmenter(images)
        optimizer.zero_grad()
        hard.loss().backward()
        optimizer.step()
        assert float(hard.disagreement.mean()) >= 0
    assert augmenter.dropped_steps == 0
    return augmenter


@pytest.mark.parametrize("batch_norm", ["shared", "frozen", "split"])
@pytest.mark.parametrize("schedule", [Alternating(), Threshold()])
def test_a_compiled_student_is_one_graph(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, batch_norm: Any
) -> None:
    """Ten steps, one compilation; the inner loop runs the unwrapped networks and compiles nothing."""
    of_teacher, of_student = Counting(), Counting()
    plain = copy.deepcopy(student)
    compiled = torch.compile(student, backend=of_student, fullgraph=True)
    parts = {"schedule": schedule, "batch_norm": batch_norm}
    torch.manual_seed(0)
    found = train(torch.compile(teacher, backend=of_teacher, fullgraph=True), compiled, images, 10, **parts)
    assert of_student.graphs == 1
    assert of_teacher.graphs == 0
    assert student.training
    torch.manual_seed(0)
    expected = train(teacher, plain, images, 10, **parts)
    assert torch.allclose(found.policy.mean, expected.policy.mean, atol=1e-5)
    for ours, theirs in zip(student.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("schedule", [Alternating(), Threshold(max_steps=1)])
def test_networks_compiled_in_place_are_not_recompiled(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any
) -> None:
    """`module.compile()` leaves no uncompiled network to run: one graph for each way of calling it, and no more."""
    counting = Counting()
    teacher.compile(backend=counting)
    student.compile(backend=counting)
    train(teacher, student, images, 2, schedule=schedule)
    settled = counting.graphs
    train(teacher, student, images, 8, schedule=schedule)
    assert counting.graphs == settled


def trained_by(step: Any, parts: list[nn.Module], images: Tensor, steps: int) -> list[Tensor]:
    """Return the losses of some training steps, and what has been learned."""
    losses = [step(images.roll(number, 0)).detach() for number in range(steps)]
    return [*losses, *(value.clone() for part in parts for value in part.state_dict().values())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "backend"),
    [(Alternating(), "eager"), (Threshold(max_steps=1), "eager"), (Joint(), "eager"), (Joint(), "aot_eager")],
)
def test_a_whole_step_may_be_compiled(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, backend: str
) -> None:
    """The call breaks the graph; the student of the loss is compiled."""
    found = {}
    for name in ("plain", "loss", "step"):
        torch._dynamo.reset()
        student = copy.deepcopy(plain_student)
        augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)

        def loss_of(views: Tensor, augmenter: HardAugmenter = augmenter) -> Tensor:
            return augmenter(views).loss()

        if name == "loss":
            loss_of = torch.compile(loss_of, backend=backend)

        def step(views: Tensor, loss_of: Any = loss_of, optimizer: Any = optimizer) -> Tensor:
            loss: Tensor = loss_of(views)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        if name == "step":
            step = torch.compile(step, backend=backend)
        found[name] = trained_by(step, [student, augmenter.policy], images, 4)
        assert augmenter.state_dict()["calls"] == 4
    for name in ("loss", "step"):
        for ours, theirs in zip(found[name], found["plain"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_a_compiled_loss_holds_the_student_and_is_compiled_once(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    operations: list[list[str]] = []

    def backend(graph: Any, inputs: Any) -> Any:
        operations.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=schedule)
    loss_of = torch.compile(lambda views: augmenter(views).loss(), backend=backend)
    for _ in range(3):
        loss_of(images).backward()
    settled = len(operations)
    assert sum(any("linear" in name for name in names) for names in operations) in (1, 2)  # at most a second time
    for _ in range(10):
        loss_of(images).backward()
    assert len(operations) == settled
