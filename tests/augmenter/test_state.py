"""What calls change is saved, loaded and restored together; calls that evaluate change nothing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, Normalized
from hard_aug.policies import Conditional, Gaussian, Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Compose, Filter, PatchMix
from tests.augmenter.test_failures import assert_equal

SPEC = Affine().spec
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "alternating": lambda: {"schedule": Alternating()},
    "default": dict,
    "joint": lambda: {"schedule": Joint()},
    "threshold": lambda: {"schedule": Threshold(low=1.05, high=1.2, max_steps=2)},
    "conditional": lambda: {"schedule": Alternating(), "policy": Conditional(SPEC, channels=1, width=4)},
    "search": lambda: {"policy": Search(SPEC, candidates=2, steps=1, proposal=Gaussian(SPEC))},
    "mix and noise": lambda: {
        "transform": Compose(PatchMix(image_size=12, patch_size=4), Filter(blur=None)),
        "schedule": Alternating(),
    },
    "warm-up": lambda: {"warmup_calls": 2, "hard_fraction": 0.5, "batch_norm": "split"},
}
each_setting = pytest.mark.parametrize("name", SETTINGS)


def augmenter_of(teacher: nn.Module, student: nn.Module, name: str) -> HardAugmenter:
    return HardAugmenter(teacher=teacher, student=student, **{"transform": Affine(), **SETTINGS[name]()})


def train(
    teacher: nn.Module, student: nn.Module, images: Tensor, name: str, *, evaluates: bool = False, no_grad: bool = False
) -> dict[str, Any]:
    """Train for five steps; return all that has been computed and learned."""
    student = copy.deepcopy(student)
    augmenter = augmenter_of(teacher, student, name)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    torch.manual_seed(0)  # of dropout
    seen = []
    for step in range(5):
        with torch.set_grad_enabled(not no_grad):
            hard = augmenter(images.roll(step, 0))
        loss = hard.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append((hard.images, hard.u, loss.detach()))
        if evaluates:
            evaluate(augmenter, student, images.flip(3))
    return {"seen": seen, "student": student.state_dict(), "state": augmenter.state_dict()}


def evaluate(augmenter: HardAugmenter, student: nn.Module, images: Tensor) -> list[Tensor]:
    student.eval()
    with torch.no_grad():
        batches = [augmenter(images), augmenter(images), augmenter(images[:3])]
        losses = [batch.loss() for batch in batches]
        assert all(float(batch.disagreement.mean()) >= -1e-6 for batch in batches)
    student.train()
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(augmenter.generate(images).images, batches[0].images)  # in training mode and with gradients too
    return losses


@each_setting
def test_evaluations_make_no_difference_to_training(
    teacher: nn.Module, student: nn.Module, images: Tensor, name: str
) -> None:
    found = train(teacher, student, images, name, evaluates=True)
    expected = train(teacher, student, images, name)
    assert_equal(found, expected)
    learns = name not in ("default", "warm-up") or expected["state"]["optimizer"]["state"]
    assert bool(learns)


@each_setting
def test_a_call_without_gradients_is_the_same_call(
    teacher: nn.Module, student: nn.Module, images: Tensor, name: str
) -> None:
    """Where everybody's `teacher(images)` stands; the loss is taken outside of it."""
    found = train(teacher, student, images, name, no_grad=True)
    assert_equal(found, train(teacher, student, images, name))
    assert name == "warm-up" or found["state"]["optimizer"]["state"]


@each_setting
def test_an_evaluation_draws_what_the_next_call_would_draw(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    augmenter = augmenter_of(teacher, plain_student, name)
    augmenter(images).loss().backward()
    before = augmenter.state_dict()
    plain_student.eval()
    with torch.no_grad():
        found = augmenter(images)
        loss = found.loss()
    assert not loss.requires_grad
    assert_equal(augmenter.state_dict(), before)
    assert found.num_hard == {"warm-up": 0}.get(name, 8)
    expected = augmenter(images)  # with gradients it is a call like any other
    assert augmenter.state_dict()["calls"] == 2
    if name == "default":  # in the others that call updates the policy first
        assert torch.equal(found.images, expected.images)


@pytest.mark.parametrize("name", ["alternating", "joint", "threshold"])
@pytest.mark.parametrize(("evaluation", "no_grad"), [(True, False), (False, True)])
def test_evaluation_mode_or_no_gradients_alone_is_training(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str, evaluation: bool, no_grad: bool
) -> None:
    """Some train students in evaluation mode, for their BatchNorm."""
    augmenter = augmenter_of(teacher, plain_student, name)
    before = augmenter.policy.mean.detach().clone()
    plain_student.train(not evaluation)
    with torch.set_grad_enabled(not no_grad):
        hard = augmenter(images)
    hard.loss().backward()
    augmenter.state_dict()  # Joint's update
    assert not torch.equal(augmenter.policy.mean, before)
    assert augmenter.state_dict()["calls"] == 1


def test_a_network_inside_a_wrapper_evaluates(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    """Its own flag counts, whatever that of a module around it is."""
    for student in (Normalized(plain_student, (0.5,), (0.25,)), torch.compile(plain_student, backend="eager")):
        augmenter = augmenter_of(teacher, student, "alternating")
        plain_student.eval()
        with torch.no_grad():
            augmenter(images)
        assert augmenter.state_dict()["calls"] == 0
        plain_student.train()
        plain_student[1].eval()  # a layer that is frozen
        with torch.no_grad():
            augmenter(images)
        assert augmenter.state_dict()["calls"] == 1


def test_a_student_without_a_flag_counts_as_in_training(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    frozen = torch.jit.freeze(torch.jit.script(plain_student.eval()))
    augmenter = augmenter_of(teacher, frozen, "alternating")
    before = augmenter.policy.mean.detach().clone()
    with torch.no_grad():
        augmenter(images)
    assert not torch.equal(augmenter.policy.mean, before)


def test_an_evaluation_may_run_in_inference_mode(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter, twin = (augmenter_of(teacher, plain_student, "alternating") for _ in range(2))
    plain_student.eval()
    with torch.inference_mode():
        loss = augmenter(images.clone()).loss()
        with pytest.raises(RuntimeError, match="inference_mode"):
            augmenter_of(teacher, plain_student, "search")(images)  # its steps take gradients
    plain_student.train()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        augmenter(images)
    assert bool(loss.isfinite())
    for _ in range(2):
        found, expected = augmenter(images), twin(images)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.loss(), expected.loss())


def test_an_export_after_nothing_but_evaluations_warns(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    """A policy that is to be learned against a student that is fixed."""
    augmenter = augmenter_of(teacher, plain_student.eval(), "alternating")
    augmenter.export()  # random augmentation, on purpose
    with torch.no_grad():
        augmenter(images)
    with pytest.warns(UserWarning, match=r"all calls so far were evaluations.*call with gradients enabled"):
        augmenter.export()
    augmenter(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augmenter.export()


def test_an_evaluation_that_fails_changes_nothing(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter, twin = (augmenter_of(teacher, plain_student, "alternating") for _ in range(2))
    plain_student.eval()
    with torch.no_grad(), pytest.raises(ValueError, match="NaN"):
        augmenter(images / 0)
    plain_student.train()
    assert torch.equal(augmenter(images).images, twin(images).images)
