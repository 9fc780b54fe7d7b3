"""Two processes with DistributedDataParallel: the student's gradients are those of one process on both shares."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from deterministic import FromImages
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.schedules import Alternating, Joint, Schedule
from hard_aug.transforms import Affine

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.BatchNorm1d(16), nn.Linear(16, 5))
    student[3].eval()  # its statistics would be those of a share
    return teacher.eval(), student


def batch() -> Tensor:
    return torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def train(student: nn.Module, teacher: nn.Module, images: Tensor, schedule: Schedule, look: bool) -> list[Tensor]:
    """The gradients of the first batch; a look at the disagreement must not wait for the other process."""
    transform = Affine()
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=transform, policy=FromImages(transform.spec), schedule=schedule
    )
    hard = augmenter(images)
    if look:
        assert float(hard.disagreement.mean()) > 0
    hard.loss().backward()
    gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    augmenter.step()
    assert augmenter.dropped_steps == 0
    augmenter(images).loss().backward()
    return gradients


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    found: list[Any] = []
    for schedule in (Alternating(steps=2, every=5), Joint()):
        teacher, student = networks()
        wrapped = nn.parallel.DistributedDataParallel(student)
        share = batch()[4 * rank : 4 * rank + 4]
        found.append(train(wrapped, teacher, share, schedule, look=rank == 0))
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(ours, theirs)
    teacher, student = networks()
    expected = train(student, teacher, batch(), Joint(), look=False)  # its ascent comes after the loss
    assert len(expected) == 6
    for ours, plain in zip(found[0][1], expected, strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert torch.equal(ours, theirs)
        assert bool(ours.isfinite().all())
