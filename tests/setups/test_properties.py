"""Whatever the networks and the settings: a call gives hard images and leaves the rest alone, or is refused by name."""

from __future__ import annotations

import copy
import dis
import random
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from torch import Tensor, nn

import hard_aug
from hard_aug import HardAugmenter, HardBatch
from tests.helpers.defaults import defaults
from tests.helpers.random_settings import Setup, setups

LIBRARY = Path(hard_aug.__file__).parent
NAMED = (TypeError, ValueError, RuntimeError, FloatingPointError)
CALLS = 3
#: Of the weights of an interpolation, whose sum is 1.
ROUNDING = 1e-6
#: Of warnings: the policy's gradient is zero, or a mix has a single image.
NOTHING_TO_LEARN = ("learns nothing", "has only itself to be mixed")
few = settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
many = settings(few, max_examples=500)


def is_raised_by_library(error: Exception) -> bool:
    """Whether the innermost frame is the library's, at a `raise` of its own (not at a call into torch)."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    assert innermost is not None
    code = innermost.tb_frame.f_code
    opcode = next(i.opname for i in dis.get_instructions(code) if i.offset == innermost.tb_lasti)
    return Path(code.co_filename).is_relative_to(LIBRARY) and opcode == "RAISE_VARARGS"


def check_named(error: Exception) -> None:
    """Fail unless the library itself raised `error`, of a kind that it documents, or a network that it has named."""
    of_network = any(
        note.startswith(("(in the teacher's", "(in the student's")) for note in getattr(error, "__notes__", ())
    )
    if type(error) not in NAMED or not (of_network or is_raised_by_library(error)):
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise AssertionError(f"{type(error).__name__} at {last.filename}:{last.lineno}: {error}") from error


def expect(condition: bool, message: str) -> None:
    """Fail with the message unless the condition holds."""
    assert condition, message


def same(first: Any, second: Any) -> bool:
    """Whether two nested values are equal, bit by bit; NaN equals NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        return bool(((first == second) | (first.isnan() & second.isnan())).all())
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, np.ndarray):
        return bool((first == second).all())
    return bool(first == second)


def network_state(network: nn.Module) -> dict[str, Any]:
    """Everything of a network that could be changed."""
    modules = list(network.named_modules())
    return {
        "modes": {name: module.training for name, module in modules},
        "values": {name: value.clone() for name, value in network.state_dict().items()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in network.named_parameters()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()},
        "attributes": {name: sorted(vars(module)) for name, module in modules},
        "hooks": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for name, m in modules
        },
    }


def process_state(*, torch_rng: bool = True) -> dict[str, Any]:
    """Everything of a process that could be changed; the generator of torch, if asked for."""
    return {
        "torch": torch.get_rng_state() if torch_rng else None,
        "numpy": np.random.get_state(),  # noqa: NPY002 - the global one is what others rely on
        "python": random.getstate(),
        "dtype": str(torch.get_default_dtype()),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    found = []
    for key, value in before.items():
        if not same(value, after[key]):
            parts = (
                differences(value, after[key]) if isinstance(value, dict) and value.keys() == after[key].keys() else []
            )
            found.append(f"{key}: {parts}" if parts else key)
    return found


class World:
    """A setup with its networks and its augmenter.

    Args:
        setup: what they are built from.

    Attributes:
        gradients: number of policy updates whose gradient (without that of the entropy) was not zero.

    Raises:
        AssertionError: the augmenter raised an error that is not named, or changed something.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.teacher, self.student = (plan.build(setup.channels, setup.side) for plan in setup.networks)
        for index, parameter in enumerate(self.student.parameters()):
            if index % 2:  # as after an earlier backward
                parameter.grad = torch.ones_like(parameter)
        self.augmenter: HardAugmenter | None = None
        self.gradients = 0
        with self.unchanged():
            self.augmenter = setup.augmenter(self.teacher, self.student)
        step = self.augmenter._optimizer.step

        def counted_step(gradients: Sequence[Tensor], *others: Any) -> None:
            self.gradients += any(bool(gradient.any()) for gradient in gradients)
            step(gradients, *others)

        self.augmenter._optimizer.step = counted_step  # type: ignore[method-assign]

    def state(self) -> dict[str, Any]:
        """Everything but what an augmenter's call may change."""
        return {
            "teacher": network_state(self.teacher),
            "student": network_state(self.student),
            "process": process_state(),
        }

    @contextmanager
    def unchanged(self, *given: Tensor | None) -> Iterator[None]:
        """Fail if the block changes anything, or if it raises and the error isn't named or the augmenter differs."""
        before = self.state()
        copies = [None if tensor is None else tensor.clone() for tensor in given]
        own = None if self.augmenter is None else copy.deepcopy(self.augmenter.state_dict())
        try:
            yield
        except Exception as error:
            check_named(error)
            if self.augmenter is not None:
                expect(same(own, self.augmenter.state_dict()), "the augmenter's state is not as before")
            raise
        finally:
            found = differences(before, self.state())
            assert not found, found
            assert same(copies, list(given)), "the caller's tensors"

    def call(self, number: int) -> HardBatch:
        """Call the augmenter, and check the result."""
        setup = self.setup
        images, labels = setup.images(number), setup.targets()
        assert self.augmenter is not None
        with torch.set_grad_enabled(setup.gradients), self.unchanged(images, labels), self.autocast():
            hard = self.augmenter(images, labels)
        assert (hard.images.dtype, hard.images.shape) == (images.dtype, images.shape)
        assert hard.u.dtype == torch.float32
        within = (hard.images >= 0) & (hard.images <= 1 + ROUNDING)
        assert bool(within.all()), "not in [0, 1]"
        assert not len(images) or hard.images.is_contiguous(memory_format=setup.memory_format), "memory format"
        assert not hard.images.requires_grad
        if setup.teacher.norm != "batch without statistics":  # its logits depend on the rest of the batch
            assert self.close(hard.teacher_logits, self.evaluate("teacher", hard.images)), "teacher_logits"
            clean = self.evaluate("teacher", hard.clean_images)
            assert self.close(hard.clean_teacher_logits, clean), "clean_teacher_logits"
        return hard

    def autocast(self) -> torch.autocast:
        """The caller's."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.setup.autocast)

    def evaluate(self, name: str, images: Tensor) -> Tensor:
        """Logits of a copy of the "teacher" or the "student" for images in [0, 1], in evaluation mode."""
        network = copy.deepcopy(getattr(self, name)).eval()
        with torch.no_grad(), self.autocast():
            return network(self.normalized(name, images))  # type: ignore[no-any-return]

    def normalized(self, name: str, images: Tensor) -> Tensor:
        """What the network gets for images in [0, 1], a copy."""
        constants = self.setup.normalization_of(name)
        if constants is None:
            return images.clone()
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        mean, std = (constant.to(wide) for constant in constants)
        return ((wide - mean) / std).to(images.dtype)

    def close(self, found: Tensor, expected: Tensor) -> bool:
        """Whether values are equal up to rounding in the type that they were computed in."""
        types = [found.dtype, expected.dtype, *([torch.bfloat16] if self.setup.autocast else [])]
        precision = min(types, key=lambda dtype: dtype.itemsize)
        tolerance = {torch.float32: 1e-4, torch.float64: 1e-6}.get(precision, 3e-2)
        scale = expected.double().abs().nan_to_num(0, posinf=0).max().item() if expected.numel() else 1.0
        close = torch.isclose(
            found.double(), expected.double(), rtol=0.0, atol=tolerance * max(1.0, scale), equal_nan=True
        )
        return bool(close.all())

    def train(self, hard: HardBatch) -> None:
        """Compute a loss and its gradients, and check that only the student changes, as in a plain forward."""
        others = network_state(self.teacher), process_state(torch_rng=False)
        student, plain = self.without_buffers(), copy.deepcopy(self.student)
        try:
            with self.autocast():
                loss = self.loss(hard)
            assert bool(loss.isfinite()), f"the loss is {float(loss)}"
            if loss.requires_grad:
                loss.backward()
        finally:
            after = network_state(self.teacher), process_state(torch_rng=False)
            for one, other in zip((*others, student), (*after, self.without_buffers()), strict=True):
                assert not differences(one, other), differences(one, other)
        self.check_buffers(plain, hard)
        if self.setup.student.dtype.itemsize >= 4 and not self.setup.student.defect:
            assert all(bool(p.grad.isfinite().all()) for p in self.student.parameters() if p.grad is not None)

    def without_buffers(self) -> dict[str, Any]:
        """The student's state that a training step's forward and backward may not change."""
        state = network_state(self.student)
        buffers = {name for name, _ in self.student.named_buffers()}
        return {
            **{key: value for key, value in state.items() if key != "grads"},
            "values": {name: value for name, value in state["values"].items() if name not in buffers},
        }

    def loss(self, hard: HardBatch) -> Tensor:
        """The batch's loss, or one as a training loop has it."""
        if not self.setup.own_loss:
            return hard.loss()
        images = hard.images if self.setup.normalization == "none" else hard.normalized()
        try:
            logits = self.student(images.clone()).double()
            return (logits - hard.teacher_logits.double()).square().sum() / max(1, logits.numel())
        except Exception:  # the loop's own
            return torch.zeros(())

    def check_buffers(self, plain: nn.Module, hard: HardBatch) -> None:
        """Compare the student's buffers with those of a copy after a plain forward."""
        images = [self.normalized("student", hard.clean_images)]
        if self.setup.own_loss:
            return
        if self.setup.batch_norm == "shared":
            images.append(self.normalized("student", hard.images[: hard.num_hard]))
        try:
            with torch.no_grad(), self.autocast():
                plain(torch.cat(images))
        except Exception:  # a plain forward can't do it
            return
        for (name, expected), found in zip(plain.named_buffers(), self.student.buffers(), strict=True):
            assert self.close(found, expected), name


def check(setup: Setup) -> None:
    """Build a setup, and call it several times with a backward after each; see the head of this file."""
    torch.manual_seed(setup.seed)
    with defaults(setup.default_dtype), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _check(setup, said)


def _check(setup: Setup, said: list[warnings.WarningMessage]) -> None:
    try:
        world = World(setup)
    except NAMED as error:
        event(f"construction: {type(error).__name__}")
        return
    augmenter = world.augmenter
    assert augmenter is not None
    for number in range(CALLS):
        before, gradients = copy.deepcopy(augmenter.state_dict()), world.gradients
        try:
            hard = world.call(number)
            world.train(hard)
            after = copy.deepcopy(augmenter.state_dict())
        except NAMED as error:
            check_named(error)
            expect(not setup.is_sound, f"refused: {error}")
            event(f"refused: {type(error).__name__}")
            return
        moved = not same(before["policy"], after["policy"]) and (setup.draws_uniformly or world.gradients > gradients)
        dropped = int(after["dropped_steps"]) > int(before["dropped_steps"])
        assert not setup.evaluates or same(before, after), "an evaluation changed the augmenter"
        if setup.is_due(number):
            warned = any(text in str(one.message) for one in said for text in NOTHING_TO_LEARN)
            assert moved or dropped or warned, "nothing was learned, and nothing was said"
    if setup.is_sound:
        assert augmenter.dropped_steps == 0
    event("went through")


@pytest.mark.slow
@few
@given(setups())
def test_fifty_setups(setup: Setup) -> None:
    check(setup)


@pytest.mark.long
@many
@given(setups())
def test_five_hundred_setups(setup: Setup) -> None:
    check(setup)
