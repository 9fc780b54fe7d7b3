"""What all methods have in common: a training step, bit-identical resuming, seeds, and network evaluations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.methods import Hard, Method, TwoViewMethod
from hard_aug.models import Network

#: Those that need generated images are tested in their own files.
NAMES = (
    *("supervised", "kd", "random", "oracle", "hard", "label_adversary", "mixup", "cutmix", "cutmixpick"),
    *("randaugment", "trivialaugment", "augmix", "consistent_mixup", "random_groups"),
)
LABELS = torch.arange(8) % 5
SINGLE_IMAGE = (
    "random",
    "random_groups",
    "oracle",
    "randaugment",
    "trivialaugment",
    "augmix",
    "label_adversary",
    "hard",
)
DRAWN = [name for name in NAMES if name not in ("supervised", "kd", "hard", "label_adversary")]


def network(channels: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6 * 25, 5)
    ).train(bool(seed))


def step(method: Method, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    loss = method.loss(images, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.detach()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_of_each(build: Any, name: str, channels: int) -> None:
    teacher, student = network(channels, 0), network(channels, 1)
    method = build(name, teacher, student, channels=channels)
    images = torch.rand(8, channels, 12, 12)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    before = [value.clone() for value in student.parameters()]
    assert bool(step(method, images, LABELS, optimizer).isfinite())
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert bool(step(method, images[:1], LABELS[:1], optimizer).isfinite())  # a mix with itself
    kept = method.scalars().get("teacher_consistency")
    assert (kept is not None) == (name in SINGLE_IMAGE)
    assert method.evaluations(16) >= 16 * {"supervised": 3, "kd": 4}.get(name, 8)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_runs_are_bit_identical(build: Any, name: str, images: Tensor) -> None:
    """Independently of the state of the global generator, which no draw comes from."""
    whole, states = [], []
    for resumed in (False, True):
        torch.manual_seed(7)
        teacher, student = network(1, 0), network(1, 1)
        student[3] = nn.Identity()  # dropout draws from the global generator, whose state the training saves
        method, optimizer = build(name, teacher, student, "seed=3"), torch.optim.Adam(student.parameters())
        losses = [step(method, images, LABELS, optimizer) for _ in range(7)]
        if resumed:
            torch.rand(11)
            state = method.state_dict()
            method = build(name, teacher, student, "seed=99")
            method.load_state_dict(state)
        before = torch.get_rng_state()
        losses += [step(method, images, LABELS, optimizer) for _ in range(7)]
        assert torch.equal(before, torch.get_rng_state())
        whole.append(torch.stack(losses))
        states.append(student.state_dict())
    assert torch.equal(*whole)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", DRAWN)
def test_views_depend_on_the_seed_only(build: Any, name: str, teacher: nn.Module, images: Tensor) -> None:
    def views(seed: int) -> Tensor:
        method = build(name, teacher, teacher, f"seed={seed}")
        assert isinstance(method, TwoViewMethod)
        with torch.no_grad():
            return method.second_view(images, LABELS)

    first = views(0)
    torch.rand(5)
    assert torch.equal(first, views(0))
    assert not torch.equal(first, views(1))
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


class Counted:
    """Counts the passes of images through a network as defined in `hard_aug.evaluation.network_evaluations`."""

    def __init__(self) -> None:
        self.total = 0

    def watch(self, model: nn.Module) -> nn.Module:
        model.register_forward_hook(self._seen)
        return model

    def _seen(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        rows, backward = len(output), 2 if module.training else 1
        self.total += rows
        if output.requires_grad:
            output.register_hook(lambda gradient: self._add(rows * backward))

    def _add(self, passes: int) -> None:
        self.total += passes


SEARCH = ("augmenter=search", "augmenter.schedule.fraction=0.5")
BANDIT = ("policy@augmenter.policy=group_bandit",)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *((name, ()) for name in NAMES),
        ("hard", ("augmenter.schedule.every=2", "augmenter.schedule.fraction=0.5", "augmenter.schedule.steps=3")),
        ("hard", ("augmenter.schedule.every=5", "objective@augmenter.objective=response_change")),
        (
            "hard",
            ("schedule@augmenter.schedule=threshold", "augmenter.schedule.low=1.1", "augmenter.schedule.high=1.2"),
        ),
        ("hard", (*SEARCH, "augmenter.schedule.every=2", "augmenter.policy.candidates=4", "augmenter.policy.steps=2")),
        ("hard", (*SEARCH, "augmenter.policy.candidates=3", "augmenter.policy.steps=0")),
        ("hard", (*SEARCH, "augmenter.policy.candidates=1", "augmenter.policy.steps=1")),
        ("hard", (*BANDIT, "augmenter.schedule.every=2", "augmenter.schedule.fraction=0.5")),
        ("hard", (*BANDIT, "augmenter.calibration=true", "augmenter.schedule.fraction=0.5")),
        ("calibrated", ()),
        ("calibrated", ("method.groups=[1,3]",)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_network_evaluations_match_the_counted_passes(
    build: Any, images: Tensor, name: str, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "check_gradient", lambda network, images, **settings: None)  # once, at the start
    counter = Counted()
    teacher, student = counter.watch(network(1, 0).requires_grad_(False)), counter.watch(network(1, 1))
    method = build(name, teacher, student, *overrides)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(12):
        step(method, images, LABELS, optimizer)
    probe = 2 if isinstance(method, Hard) else 0  # the first call evaluates two images, to compare class counts
    assert method.evaluations(12 * 8) == counter.total - probe


def test_losses_of_labels_and_of_clean_distillation(build: Any, teacher: nn.Module, images: Tensor) -> None:
    student = network(1, 1).eval()
    with torch.no_grad():
        logits, target = student(images), (teacher(images) / 2).softmax(1)
        divergence = nn.functional.kl_div((logits / 2).log_softmax(1), target, reduction="batchmean")
    assert torch.allclose(
        build("supervised", teacher, student).loss(images, LABELS), nn.functional.cross_entropy(logits, LABELS)
    )
    assert torch.allclose(build("kd", teacher, student).loss(images, LABELS), 4 * divergence)
    assert build("kd", teacher, student, "temperature=3").temperature == 3
