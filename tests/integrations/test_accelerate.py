"""accelerate needs no integration: the augmenter takes the prepared student, and accelerate checkpoints its state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hard_aug import HardAugmenter
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Reset the settings, which accelerate keeps in class attributes."""

    def reset() -> None:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()

    reset()
    yield
    reset()


class Run:
    """The recipe of the README."""

    def __init__(self, teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, **settings: Any) -> None:
        self.accelerator = Accelerator(cpu=True, **settings)
        optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
        loader = DataLoader(TensorDataset(images), batch_size=4)
        self.student, self.optimizer, self.loader = self.accelerator.prepare(student, optimizer, loader)
        self.augmenter = HardAugmenter(
            teacher=teacher.to(self.accelerator.device), student=self.student, transform=Affine(), schedule=schedule
        )
        self.accelerator.register_for_checkpointing(self.augmenter)

    def epoch(self) -> list[float]:
        losses = []
        for (images,) in self.loader:
            with self.accelerator.accumulate(self.student):
                with self.accelerator.autocast():
                    loss = self.augmenter(images).loss()
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses


@pytest.mark.parametrize("schedule", [Alternating(), None])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_it_trains(teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, precision: str) -> None:
    run = Run(teacher, plain_student, images, schedule, mixed_precision=precision, gradient_accumulation_steps=2)
    first = run.epoch()
    start = run.augmenter.policy.mean.detach().clone()
    for _ in range(30):
        last = run.epoch()
    assert sum(last) < 0.5 * sum(first)
    assert not torch.equal(run.augmenter.policy.mean, start)
    assert run.augmenter.dropped_steps == 0


def test_accumulation_does_not_change_the_policy(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    """accelerate divides the loss by the number of micro-batches; policy updates do not depend on the loss."""
    run = Run(teacher, plain_student, images, Alternating(), gradient_accumulation_steps=2)
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=Alternating())
    for micro_batch in images.split(4):
        augmenter(micro_batch)
    run.epoch()
    assert bool(augmenter.policy.mean.any())
    assert torch.equal(run.augmenter.policy.mean, augmenter.policy.mean)


def test_accelerates_checkpoints_hold_the_policy(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    run = Run(teacher, plain_student, images, Alternating())
    run.epoch()
    run.accelerator.save_state(str(tmp_path))
    expected = run.epoch()
    policy = run.augmenter.policy.mean.detach().clone()
    run.epoch()
    run.accelerator.load_state(str(tmp_path))
    assert run.epoch() == expected
    assert torch.equal(run.augmenter.policy.mean, policy)
