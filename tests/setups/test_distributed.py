"""Two processes with DistributedDataParallel give the results of one process on the joined batch."""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter, Normalized
from hard_aug.objectives import Constraint, KeepRate
from hard_aug.policies import Conditional, Generator, Search, Uniform
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Color, Compose, Filter, PatchMix

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")

STEPS = 20


def transform() -> Compose:
    return Compose(Affine(), Color(saturation=None, hue=None))


#: Settings of the augmenter, by name. Each has other draws, means or decisions that the processes share.
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "alternating": lambda: {"schedule": Alternating(steps=2, every=2)},
    "every call": lambda: {"schedule": Alternating()},
    "joint": lambda: {"schedule": Joint()},
    "generator": lambda: {"schedule": Alternating(), "policy": Generator(transform().spec)},
    "constraint": lambda: {
        "schedule": Alternating(),
        "invariance": Constraint(0.02),
        "exploration": Exploration(min_uniform_fraction=0.3),
    },
    "keep rate": lambda: {
        "schedule": Alternating(),
        "invariance": KeepRate(0.95, gain=1.0),
        "exploration": Exploration(min_uniform_fraction=0.3),
    },
    # At the border of two pixels 1e-7 of rounding makes the derivative jump; this seed draws no such position.
    "threshold": lambda: {"schedule": Threshold(low=1.05, high=1.2, max_steps=2, max_idle_calls=3), "seed": 1},
    "search": lambda: {"policy": Search(transform().spec, candidates=2, steps=1)},
    "uniform": lambda: {"policy": Uniform(transform().spec, scale=0.5)},
    "conditional": lambda: {  # a seed as above
        "schedule": Alternating(),
        "policy": Conditional(transform().spec, channels=1, width=4),
        "seed": 2,
    },
    "noise": lambda: {"schedule": Alternating(), "transform": Filter(blur=None, sharpness=None)},
}


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 5))
    with torch.no_grad():
        teacher[-1].weight.mul_(10)
    return teacher.eval(), student


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(8, 1, 12, 12, generator=generator) for _ in range(STEPS)]


def train(student: nn.Module, teacher: nn.Module, parts: list[Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the student's gradients in each step, the policy after each, and how many steps were dropped."""
    augmenter = HardAugmenter(teacher=teacher, student=student, **{"transform": transform(), **settings})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    gradients, policies = [], []
    for images in parts:
        optimizer.zero_grad()
        augmenter(images).loss().backward()
        gradients.append(torch.cat([p.grad.flatten().clone() for p in student.parameters() if p.grad is not None]))
        optimizer.step()
        policies.append(
            torch.cat([p.detach().flatten().clone() for p in augmenter.policy.parameters()] or [torch.zeros(1)])
        )
    return {"gradients": gradients, "policies": policies, "dropped": augmenter.dropped_steps}


def equal_work(rank: int) -> dict[str, Any]:
    found = {}
    for name, settings in SETTINGS.items():
        teacher, student = networks()
        wrapped = nn.parallel.DistributedDataParallel(student)
        found[name] = train(wrapped, teacher, [b[4 * rank : 4 * rank + 4] for b in batches()], settings())
    return found


class Spoil(torch.autograd.Function):
    """Identity in the forward; NaN in the backward for the rows that are marked."""

    @staticmethod
    def forward(context: Any, logits: Tensor, bad: Tensor) -> Tensor:
        context.save_for_backward(bad)
        return logits.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (bad,) = context.saved_tensors
        return gradient.masked_fill(bad[:, None], float("nan")), None


class Spoiled(nn.Module):
    """A network whose gradients are NaN for white images."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = Spoil.apply(self.inside(images), images.flatten(1).amin(1) > 0.999)
        return found


def dropped_work(rank: int) -> dict[str, Any]:
    """Train with a teacher whose gradient is not finite in the second step of rank 1."""
    found = {}
    for name, schedule in (("alternating", Alternating()), ("threshold", Threshold(max_steps=1, high=1e9))):
        teacher, student = networks()
        wrapped = nn.parallel.DistributedDataParallel(student)
        parts = [b[4 * rank : 4 * rank + 4].clone() for b in batches()[:4]]
        if rank == 1:
            parts[1].fill_(1)
        affine = Affine(padding_mode="border")  # white stays white
        found[name] = train(wrapped, Spoiled(teacher), parts, {"transform": affine, "schedule": schedule})
    return found


#: Settings under which a call detects batches that do not fit, whatever else it would have exchanged.
REFUSED: dict[str, dict[str, Any]] = {
    "alternating": {},
    "threshold": {"schedule": Threshold()},
    "not due": {"schedule": Alternating(every=6)},
    "fraction": {"schedule": Alternating(fraction=0.1)},
    "warm-up": {"warmup_calls": 5},
    "search": {"policy": Search(transform().spec, candidates=2)},
    "empty": {},
    "bad": {},
}


def unequal_work(rank: int) -> dict[str, Any]:
    found = {}
    for name, settings in REFUSED.items():
        teacher, student = networks()
        augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform(), **settings)
        images = batches()[0][: 0 if name == "empty" else 4 + rank]
        if name == "bad":
            images = batches()[0][:4].clone()
            images[rank:1] = float("nan")
        try:
            if name == "not due":
                augmenter(batches()[0][:4])
            augmenter(images)
        except ValueError as error:
            found[name] = str(error)
    return found


def other_work(rank: int) -> dict[str, Any]:
    """Evaluate the disagreement, or take the loss, on one rank only, and mix images: no process waits for ever."""
    teacher, student = networks()
    wrapped = nn.parallel.DistributedDataParallel(student)
    mix = PatchMix(image_size=12, patch_size=4)
    augmenter = HardAugmenter(teacher=teacher, student=wrapped, transform=mix, schedule=Alternating())
    part = batches()[0][4 * rank : 4 * rank + 4]
    hard = augmenter(part)
    if rank == 0:
        assert float(hard.disagreement.mean()) > 0
    hard.loss().backward()
    hard = augmenter(part)
    if rank == 0:  # rank 1 skips its loss, as a loop does for a bad batch
        student(hard.images).sum().backward()
    augmenter(part)
    return {"policy": [p.detach().clone() for p in augmenter.policy.parameters()]}


def with_batch_norm() -> tuple[nn.Module, nn.Module]:
    """A teacher, and a student whose wrapper broadcasts buffers in its forwards."""
    teacher, _ = networks()
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5))
    return teacher, student


def alone_work(rank: int) -> dict[str, Any]:
    """Train with and without evaluations that only one process makes, of 1 to 3 batches of any size."""
    found: dict[str, Any] = {}
    for name in ("with", "without"):
        torch.manual_seed(0)
        teacher, student = with_batch_norm()
        wrapped = nn.parallel.DistributedDataParallel(student)
        augmenter = HardAugmenter(teacher=teacher, student=wrapped, transform=transform(), schedule=Joint())
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
        for step, images in enumerate(batches()[:4]):
            optimizer.zero_grad()
            augmenter(images[4 * rank : 4 * rank + 4]).loss().backward()
            optimizer.step()
            if name == "with" and rank == step % 2:
                wrapped.eval()
                with torch.no_grad():
                    for size in range(1, 2 + step):
                        loss = augmenter(images[:size]).loss()
                        assert bool(loss.isfinite())
                wrapped.train()
        found[name] = [value.clone() for value in (*student.state_dict().values(), augmenter.policy.mean.detach())]
    return found


class Looked(nn.Module):
    """A student whose forward looks up the wrapper elsewhere, as that of a task that is wrapped later."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inside
        self.elsewhere: list[nn.Module] = [inside]

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.elsewhere[0](images)
        return found


class Step(nn.Module):
    """A training step that is wrapped as a whole, as Lightning does."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.augmenter = [HardAugmenter(teacher=teacher, student=student, transform=transform())]

    def forward(self, images: Tensor) -> Tensor:
        return self.augmenter[0](images).loss()


def wrapper_work(rank: int, early: HardAugmenter) -> dict[str, Any]:
    """Return the errors and warnings for students that nothing averages, and an augmenter that was made too early."""
    ddp, images = nn.parallel.DistributedDataParallel, batches()[0][4 * rank : 4 * rank + 4]
    found: dict[str, Any] = {}
    try:
        early(images)
    except ValueError as error:
        found["early"] = str(error)

    def said(loss: Callable[[], Tensor]) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                loss().backward()
        return [str(one.message) for one in caught if "drift apart" in str(one.message)]

    def losses_of(student: nn.Module) -> Callable[[], Tensor]:
        augmenter = HardAugmenter(teacher=networks()[0], student=student, transform=transform())
        return lambda: augmenter(images).loss()

    teacher, student = networks()
    found["unwrapped"] = said(losses_of(student))
    found["wrapped"] = said(losses_of(ddp(student)))
    found["inside"] = said(losses_of(Normalized(ddp(student), (0.5,), (0.25,))))
    looked = Looked(student)
    looked.elsewhere[0] = ddp(student)
    found["looked up"] = said(losses_of(looked))
    step = ddp(Step(teacher, student))
    found["whole step"] = said(lambda: step(images))
    return found


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "equal": equal_work,
    "dropped step": dropped_work,
    "unequal": unequal_work,
    "other": other_work,
    "alone": alone_work,
    "wrapper": wrapper_work,
}


def made_early() -> HardAugmenter:
    teacher, student = networks()
    return HardAugmenter(teacher=teacher, student=student, transform=transform())


def process(rank: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    given = [made_early()] if kind == "wrapper" else []
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.save(WORK[kind](rank, *given), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def both(folder: Path, kind: str) -> list[dict[str, Any]]:
    torch.multiprocessing.spawn(process, args=(str(folder), kind), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    found = both(tmp_path, "equal")
    for name, settings in SETTINGS.items():
        teacher, student = networks()
        alone = train(student, teacher, batches(), settings())
        moved = alone["policies"][-1] - alone["policies"][0]
        assert name in ("search", "uniform") or float(moved.abs().max()) > 0.01
        for rank in range(2):
            for part in ("gradients", "policies"):
                worst = max(
                    float((ours - theirs).abs().max())
                    for ours, theirs in zip(found[rank][name][part], alone[part], strict=True)
                )
                # Most weights of the network hardly get a gradient, and Adam's division enlarges its rounding.
                assert worst < 1e-6, (name, rank, part, worst)
            assert found[rank][name]["dropped"] == 0


@pytest.mark.slow
def test_a_step_that_one_process_drops_is_dropped_by_all(tmp_path: Path) -> None:
    found = both(tmp_path, "dropped step")
    for name in ("alternating", "threshold"):
        ours, theirs = (found[rank][name] for rank in range(2))
        assert ours["dropped"] == theirs["dropped"] == 1
        for a, b in zip(ours["policies"], theirs["policies"], strict=True):
            assert torch.equal(a, b)
        assert torch.equal(ours["policies"][0], ours["policies"][1])
        assert not torch.equal(ours["policies"][1], ours["policies"][2])


@pytest.mark.slow
def test_batches_of_different_size_are_refused_by_all(tmp_path: Path) -> None:
    found = both(tmp_path, "unequal")
    for rank in range(2):
        for name in REFUSED.keys() - {"empty", "bad"}:
            words = f"({4 + rank} rows in process {rank}, 4.5 on average)"
            assert "batches of different size in the 2 processes" in found[rank][name]
            assert words in found[rank][name]
            assert "DistributedSampler, or drop_last=True" in found[rank][name]
        assert f"an empty batch in process {rank} of 2" in found[rank]["empty"]
    assert "NaN" in found[0]["bad"]
    assert "1 of 2 processes refused their batch" in found[1]["bad"]


@pytest.mark.slow
def test_processes_that_differ_do_not_wait_for_ever(tmp_path: Path) -> None:
    found = both(tmp_path, "other")
    for ours, theirs in zip(found[0]["policy"], found[1]["policy"], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_one_process_may_evaluate_alone(tmp_path: Path) -> None:
    """It waits for no other one, and training is the same as without."""
    found = both(tmp_path, "alone")
    for rank in range(2):
        for ours, theirs in zip(found[rank]["with"], found[rank]["without"], strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(found[0]["with"][-1], found[1]["with"][-1])


@pytest.mark.slow
def test_students_that_nothing_averages_are_noticed(tmp_path: Path) -> None:
    for rank, found in enumerate(both(tmp_path, "wrapper")):
        assert (
            f"created in process 0 of 1 and called in process {rank} of 2: create the augmenter after" in found["early"]
        )
        assert len(found["unwrapped"]) == 1
        assert "2 processes train" in found["unwrapped"][0]
        assert "HardAugmenter(student=DistributedDataParallel(student), ...)" in found["unwrapped"][0]
        assert [found[name] for name in ("wrapped", "inside", "looked up", "whole step")] == [[]] * 4
