"""The training loop in one process: plain, with micro-batches, in half precision, averaged, and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.data.batches import Batches
from experiments.methods import Distillation, Hard, Method, RandomViews, Supervised
from experiments.training import checkpoint, distributed
from experiments.training.fit import explain_out_of_memory, fit
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.settings import TrainerSettings
from hard_aug import HardAugmenter
from hard_aug.data import ImageSet
from hard_aug.evaluation.network_evaluations import count_policy_updates
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine
from tests.helpers.stops import StopAt

STEPS = 12
IDENTITY = {"steps": STEPS, "data": {"name": "noise"}}


def data() -> ImageSet:
    generator = torch.Generator().manual_seed(5)
    return ImageSet(torch.rand(64, 1, 12, 12, generator=generator), torch.arange(64) % 5)


def networks(*, plain: bool = False) -> tuple[nn.Module, nn.Module]:
    """Return a teacher, and a student with BatchNorm and dropout unless it is `plain`."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    with torch.no_grad():
        teacher[-1].weight.mul_(10)
    layers = [nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 5)]
    if plain:
        layers = [layer for layer in layers if not isinstance(layer, nn.BatchNorm1d | nn.Dropout)]
    return teacher.eval().requires_grad_(False), nn.Sequential(*layers)


METHODS: dict[str, Callable[[nn.Module, nn.Module], Method]] = {
    "supervised": lambda teacher, student: Supervised(student),
    "kd": lambda teacher, student: Distillation(teacher, student, temperature=2.0),
    "random": lambda teacher, student: RandomViews(teacher, student, transform=Affine(), temperature=2.0),
    "alternating": lambda teacher, student: Hard(
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Alternating())
    ),
    "threshold": lambda teacher, student: Hard(
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Threshold(fraction=0.5))
    ),
}


class Curve:
    """A record of the training, as a part of its state."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the losses by step."""
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load them."""
        self.losses = dict(state["losses"])


@dataclass
class Attempt:
    """A training of new networks by one method, with its `folder`; `run` continues from the checkpoint there."""

    folder: Path
    name: str
    settings: TrainerSettings | None = field(default_factory=TrainerSettings)
    steps: int = STEPS
    plain: bool = False

    def run(self, stop: Stop | None = None, **changed: Any) -> Attempt:
        """Train, without an accelerator if there are no `settings`."""
        teacher, self.student = networks(plain=self.plain)
        used, self.curve = self.settings, Curve()
        context = nullcontext() if used is None else distributed.distributed_training(used, torch.device("cpu"))
        with context as accelerator, Progress(quiet=True) as progress:
            self.method = METHODS[self.name](teacher, self.student)
            arguments: dict[str, Any] = {
                "steps": self.steps,
                "learning_rate": 1e-2,
                "seed": 3,
                "path": self.folder / "checkpoint.pt",
                "identity": IDENTITY,
                "progress": progress,
                "stop": stop or Stop(),
                "every": 5,
                "log_every": 1,
                "settings": used,
                "accelerator": accelerator,
                "parts": {"method": self.method, "curve": self.curve},
                "after_step": self.method.after_step,
                "on_log": lambda step, loss, seconds: self.curve.losses.update({step: loss}),
            }
            loss, batches = self.method.loss, Batches(data(), 16, 3)
            self.result = fit("student", self.student, loss, batches, **arguments | changed)
        return self

    @property
    def losses(self) -> list[float]:
        return list(self.curve.losses.values())


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_default_is_bit_identical_to_a_plain_loop(name: str, alone: bool, tmp_path: Path) -> None:
    teacher, student = networks()
    method = METHODS[name](teacher, student)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    batches = Batches(data(), 16, 3)
    torch.manual_seed(3)
    expected = []
    for _ in range(STEPS):
        batch = batches.next()
        loss = method.loss(batch.images, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        method.after_step()
        expected.append(float(loss.detach()))
    found = Attempt(tmp_path, name, None if alone else TrainerSettings()).run()
    assert found.losses == expected
    assert found.result.loss == expected[-1]
    assert_same(found.student.state_dict(), student.state_dict())
    if isinstance(found.method, Hard) and isinstance(method, Hard):
        assert_same(found.method.augmenter.policy.state_dict(), method.augmenter.policy.state_dict())
        assert not torch.equal(found.method.augmenter.policy.mean, torch.zeros(6))


@pytest.mark.parametrize("name", ["supervised", "kd"])
def test_micro_batches_add_up_to_the_batch(name: str, tmp_path: Path) -> None:
    """For a student without BatchNorm and dropout, and a method without random draws."""
    whole = Attempt(tmp_path / "whole", name, plain=True).run()
    parts = Attempt(tmp_path / "parts", name, TrainerSettings(accumulate=4), plain=True).run()
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    for key, value in whole.student.state_dict().items():
        assert torch.allclose(value, parts.student.state_dict()[key], atol=1e-5), key


def test_the_policy_is_updated_for_each_micro_batch(tmp_path: Path) -> None:
    method = Attempt(tmp_path, "alternating", TrainerSettings(accumulate=2), steps=3).run().method
    assert isinstance(method, Hard)
    assert count_policy_updates(method.augmenter) == 6


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_trains_and_leaves_the_student_in_float32(name: str, tmp_path: Path) -> None:
    exact = Attempt(tmp_path / "exact", name).run()
    half = Attempt(tmp_path / "half", name, TrainerSettings(precision="bf16")).run()
    assert half.losses != exact.losses
    assert half.losses == pytest.approx(exact.losses, rel=0.2, abs=0.05)
    assert {value.dtype for value in half.student.parameters()} == {torch.float32}
    assert half.student.eval()(data().images[:2]).dtype == torch.float32
    assert not torch.equal(exact.student[1].weight, half.student[1].weight)


def test_the_averaged_weights_are_the_result(tmp_path: Path) -> None:
    expected: dict[str, Tensor] = {}
    plain = Attempt(tmp_path / "plain", "kd", steps=6)

    def average() -> None:
        for key, value in plain.student.state_dict().items():
            if value.is_floating_point():
                expected[key] = value.clone() if key not in expected else 0.5 * expected[key] + 0.5 * value

    plain.run(after_step=average)
    found = Attempt(tmp_path / "averaged", "kd", TrainerSettings(ema=0.5), steps=6).run().student
    for key, value in expected.items():
        assert torch.allclose(found.state_dict()[key], value, atol=1e-6), key
    assert not torch.equal(found[1].weight, plain.student[1].weight)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("supervised", TrainerSettings(ema=0.9)),
        ("random", TrainerSettings(accumulate=4)),
        ("threshold", TrainerSettings()),
        ("alternating", TrainerSettings(precision="bf16", accumulate=2, ema=0.5)),
        ("alternating", None),
    ],
)
def test_a_stopped_training_ends_bit_identical(name: str, settings: TrainerSettings | None, tmp_path: Path) -> None:
    """Stopped after one step, after seven, at the last step, and after the last."""
    whole = Attempt(tmp_path / "whole", name, settings).run()
    parts = Attempt(tmp_path / "parts", name, settings)
    for times in (0, 5, 4):
        with pytest.raises(KeyboardInterrupt):
            parts.run(StopAt(times))
    parts.run(StopAt(0))  # nothing is left to do, so it is not checked
    assert parts.losses == whole.losses
    assert_same(parts.student.state_dict(), whole.student.state_dict())
    if isinstance(parts.method, Hard) and isinstance(whole.method, Hard):
        assert_same(parts.method.augmenter.policy.state_dict(), whole.method.augmenter.policy.state_dict())


def test_a_killed_training_continues_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = Attempt(tmp_path / "whole", "alternating").run()
    parts, seen = Attempt(tmp_path / "parts", "alternating"), []

    def kill() -> None:
        parts.method.after_step()
        seen.append(1)
        if len(seen) == 8:
            raise InterruptedError("killed")

    with pytest.raises(InterruptedError):
        parts.run(after_step=kill)
    assert torch.load(parts.folder / "checkpoint.pt", weights_only=True)["loop"]["step"] == 5
    parts.run()
    assert parts.losses == whole.losses
    assert_same(parts.student.state_dict(), whole.student.state_dict())


def test_a_checkpoint_of_another_configuration_raises(tmp_path: Path) -> None:
    Attempt(tmp_path, "kd", steps=2).run()
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*\(data\.name: noise there, digits here\).*resume=false"):
        Attempt(tmp_path, "kd", steps=2).run(identity=IDENTITY | {"data": {"name": "digits"}})


class Slope(nn.Module):
    """One number whose gradient is 1, so that each step of Adam is the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros((), dtype=torch.float64))


def test_the_learning_rate_rises_linearly_and_decays_to_zero(tmp_path: Path) -> None:
    model, values = Slope(), [0.0]
    with Progress(quiet=True) as progress:
        fit(
            "slope",
            model,
            lambda images, labels: model.value.sum(),
            Batches(data(), 16, 0),
            steps=12,
            warmup=4,
            learning_rate=0.1,
            seed=0,
            path=tmp_path / "checkpoint.pt",
            identity={},
            progress=progress,
            stop=Stop(),
            after_step=lambda: values.append(float(model.value.detach())),
        )
    rates = [before - after for before, after in pairwise(values)]
    rising = [0.1 * (0.01 + 0.99 * step / 4) for step in range(4)]
    decaying = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / 8)).item()) for step in range(8)]
    assert rates == pytest.approx([*rising, *decaying], abs=1e-6)


def test_the_loss_is_reported_and_that_is_not_counted_as_training(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    def slow(step: int, loss: float, seconds: float) -> None:
        seen.append((step, seconds))
        time.sleep(0.3)

    found = Attempt(tmp_path, "supervised").run(on_log=slow, log_every=5).result
    assert [step for step, _ in seen] == [5, 10, 12]
    assert 0 < seen[0][1] <= seen[1][1] <= seen[2][1] == found.seconds < 0.6


def test_a_non_finite_loss_raises(tmp_path: Path) -> None:
    """When it is next reported; the checkpoint is of the last step before."""
    attempt, steps = Attempt(tmp_path, "supervised"), []

    def diverge() -> None:
        steps.append(1)
        if len(steps) == 7:
            attempt.student[5].bias.data.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="student: the loss is nan at step 8; lower the learning rate"):
        attempt.run(after_step=diverge, log_every=4)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["loop"]["step"] == 5


@pytest.mark.parametrize("place", ["loss", "after_step"])
def test_out_of_memory_errors_name_the_settings_to_change(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Attempt(tmp_path, "kd")

    def huge(*_: Tensor) -> Tensor:
        return torch.empty(2**48)  # a petabyte: the CPU's allocator fails

    if place == "loss":
        monkeypatch.setattr(Distillation, "loss", huge)
    changed = {"after_step": huge} if place == "after_step" else {}
    with pytest.raises(torch.OutOfMemoryError, match="do this") as error:
        attempt.run(memory_advice="do this", **changed)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_other_errors_are_unchanged() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="do this"), explain_out_of_memory("do this"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match=r"^shapes$") as error, explain_out_of_memory("do this"):
        raise RuntimeError("shapes")
    assert not isinstance(error.value, torch.OutOfMemoryError)


def test_the_state_can_be_loaded_without_pickle(tmp_path: Path) -> None:
    Attempt(tmp_path, "alternating", TrainerSettings(ema=0.5)).run()
    state = checkpoint.load(tmp_path / "checkpoint.pt", IDENTITY)
    assert state is not None
    assert set(state) == {"config", "seconds", "loop", "parts"}
    assert set(state["parts"]) == {"method", "curve"}
    assert state["loop"]["step"] == STEPS
