"""Joint uses the training loop's own backward, without a further line in the loop."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.inner_loop.exploration import Exploration
from hard_aug.losses import distillation_loss
from hard_aug.objectives import KL, ReverseKL
from hard_aug.ops.backend import current_backend
from hard_aug.policies import Conditional, Generator, Policy, Search
from hard_aug.schedules import Joint
from hard_aug.transforms import Affine, Transform


def make(teacher: nn.Module, student: nn.Module, transform: Transform | None = None, **settings: Any) -> HardAugmenter:
    given: dict[str, Any] = {"schedule": Joint(), **settings}
    return HardAugmenter(teacher=teacher, student=student, transform=transform or Affine(), **given)


def recorded(augmenter: HardAugmenter, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """Gradients of each policy update, which is not made."""
    found: list[list[Tensor]] = []
    monkeypatch.setattr(augmenter._optimizer, "step", lambda gradients, *others: found.append(gradients))
    return found


def parameters(augmenter: HardAugmenter) -> Tensor:
    return torch.cat([p.detach().flatten() for p in augmenter.policy.parameters()])


@pytest.mark.parametrize("policy", [None, Generator(Affine().spec), Conditional(Affine().spec, channels=1, width=4)])
@pytest.mark.parametrize("factor", [1.0, 1024.0])
def test_the_gradient_is_that_of_separate_passes(
    teacher: nn.Module,
    plain_student: nn.Module,
    images: Tensor,
    policy: Policy | None,
    factor: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever factor the loss is multiplied by, and with the weight of the hard view taken out."""
    augmenter = make(teacher, plain_student, schedule=Joint(fraction=0.5), policy=policy)
    found = recorded(augmenter, monkeypatch)
    hard = augmenter(images)
    (factor * hard.loss(clean_weight=0.3)).backward()
    pending = augmenter._runner._pending  # type: ignore[attr-defined]  # of this schedule
    clean, generator_state = pending.clean, pending.generator_state
    augmenter._runner.flush()
    generator = torch.Generator()
    generator.set_state(generator_state)
    with torch.enable_grad():
        u = augmenter.policy.sample(images, generator)
        assert torch.equal(u, hard.u)
        adversary = augmenter._adversary
        with adversary.networks.eval_mode():
            _, expected = adversary._score_with_gradient(clean.first(4), u[:4], adversary.optimizer.parameters)
    assert len(found) == 1
    for ours, theirs in zip(found[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs / 4, rtol=1e-4, atol=1e-6)


def test_two_lines_move_the_policy(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    augmenter = make(teacher, student, schedule=Joint(every=2))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    seen = [parameters(augmenter)]
    for _ in range(4):
        loss = augmenter(images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(parameters(augmenter))
    changed = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changed == [False, True, False, True]  # the call after each that is due


def test_without_a_backward_of_the_loss_the_policy_stays(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = make(teacher, plain_student)
    before = parameters(augmenter)
    for _ in range(3):
        hard = augmenter(images)
        plain_student(hard.images).sum().backward()
        with torch.no_grad():
            hard.loss()
    assert torch.equal(parameters(augmenter), before)
    augmenter(images).loss(clean_weight=1.0).backward()
    augmenter(images)
    assert torch.equal(parameters(augmenter), before)


def test_many_calls_without_a_backward_of_the_loss_warn_once(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    """A loss of one's own gives the policy nothing to learn from."""
    augmenter = make(teacher, plain_student)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(25):
            hard = augmenter(images)
            own = distillation_loss(student_logits=plain_student(hard.images), teacher_logits=hard.teacher_logits)
            own.backward()
    assert [str(one.message).partition(" for ")[0] for one in said] == [
        "Joint has seen no backward of hard.loss() or hard.loss_and_logits()"
    ]


def test_the_student_learns_as_without(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    """The loss and its gradients are those of a batch that nobody watches, and nothing is left on the images."""
    hard = make(teacher, plain_student)(images)
    loss = hard.loss()
    loss.backward()
    gradients = [p.grad.clone() for p in plain_student.parameters() if p.grad is not None]
    plain_student.zero_grad()
    clean, view = plain_student(torch.cat((hard.clean_images, hard.images))).chunk(2)
    expected = 0.5 * distillation_loss(student_logits=clean, teacher_logits=hard.clean_teacher_logits)
    expected = expected + 0.5 * distillation_loss(student_logits=view, teacher_logits=hard.teacher_logits)
    expected.backward()
    assert torch.equal(loss, expected)
    for ours, theirs in zip(gradients, plain_student.parameters(), strict=True):
        assert torch.equal(ours, theirs.grad)
    assert hard.images.grad is None
    assert not hard.images.requires_grad


def test_resume_is_bit_equal(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    first = make(teacher, plain_student, exploration=Exploration(min_uniform_fraction=0.3))
    for _ in range(3):
        first(images).loss().backward()
    second = make(teacher, plain_student, exploration=Exploration(min_uniform_fraction=0.3), seed=9)
    second.load_state_dict(first.state_dict())
    assert torch.equal(parameters(first), parameters(second))
    for _ in range(3):
        one, two = first(images), second(images)
        assert torch.equal(one.images, two.images)
        one.loss().backward()
        two.loss().backward()


def test_a_gradient_that_is_not_finite_is_dropped(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = make(teacher, plain_student)
    (augmenter(images).loss() * torch.inf).backward()
    before = parameters(augmenter)
    augmenter(images)
    assert torch.equal(parameters(augmenter), before)
    assert augmenter.dropped_steps == 1


def test_parts_that_cannot_work_are_refused(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="distillation loss, which ReverseKL is not; use schedule=Alternating"):
        make(teacher, plain_student, objective=ReverseKL())
    with pytest.raises(ValueError, match="Search optimises each image's own; use schedule=Alternating"):
        make(teacher, plain_student, policy=Search(Affine().spec))
    hard = make(teacher, plain_student, objective=KL(temperature=3.0))(images)
    with pytest.raises(ValueError, match=r"temperature=2.0: Joint takes .* at 3.0; use objective=KL"):
        hard.loss(temperature=2.0)


def test_the_update_runs_on_the_augmenters_backend(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in the next call and in `state_dict`."""
    augmenter = make(teacher, plain_student, backend="torch")
    seen: list[str] = []
    monkeypatch.setattr(augmenter._adversary, "update_policy", lambda *_, **__: seen.append(current_backend()))
    for finish in (augmenter.state_dict, lambda: augmenter(images)):
        augmenter(images).loss().backward()
        finish()
    assert seen == ["torch", "torch"]
