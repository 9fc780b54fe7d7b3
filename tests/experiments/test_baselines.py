"""Baselines: their views, bit-identical resuming, validation, and network evaluations."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.methods.base import Distillation, Hard, Method, RandomViews, Supervised
from experiments.methods.consistent_mixup import ConsistentMixup
from experiments.methods.label_adversary import LabelAdversary, LabelConflict
from experiments.methods.mixup_cutmix import CutMixed, CutMixPick, Mixup
from experiments.methods.torchvision_policies import AugMixed, RandAugmented, TrivialAugmented
from hard_aug import HardAugmenter
from hard_aug.evaluation.network_evaluations import count_policy_updates
from hard_aug.objectives import KL, Disagreement, Reference, ResponseChange
from hard_aug.policies import Search
from hard_aug.schedules import Alternating, Schedule, Threshold
from hard_aug.transforms import Affine, PatchMix

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "experiments/conf/baseline").glob("*.yaml"))
LABELS = torch.arange(8) % 5
#: Those whose views are of one image each.
SINGLE = ("randaugment", "trivialaugment", "augmix")


@lru_cache
def configured() -> Any:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train").baselines


def made(name: str, teacher: nn.Module, student: nn.Module, **given: Any) -> Any:
    return instantiate(configured()[name], _partial_=True)(teacher, student, temperature=2.0, **given)


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
def test_a_training_step_of_each(name: str, channels: int) -> None:
    teacher, student = network(channels, 0), network(channels, 1)
    method = made(name, teacher, student, seed=3)
    images = torch.rand(8, channels, 12, 12)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    before = [value.clone() for value in student.parameters()]
    assert bool(step(method, images, LABELS, optimizer).isfinite())
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert bool(step(method, images[:1], LABELS[:1], optimizer).isfinite())  # a mix with itself
    kept = method.scalars().get("teacher_consistency")
    assert (kept is not None) == (name in (*SINGLE, "label_adversary"))
    assert method.evaluations(16) >= 16 * 8


@pytest.mark.parametrize("name", NAMES)
def test_resumed_runs_are_bit_identical(name: str, images: Tensor) -> None:
    """Independently of the state of the global generator, which no draw comes from."""
    whole, states = [], []
    for resumed in (False, True):
        torch.manual_seed(7)
        teacher, student = network(1, 0), network(1, 1)
        student[3] = nn.Identity()  # dropout draws from the global generator, whose state the training saves
        method, optimizer = made(name, teacher, student, seed=3), torch.optim.Adam(student.parameters())
        losses = [step(method, images, LABELS, optimizer) for _ in range(7)]
        if resumed:
            torch.rand(11)
            state = method.state_dict()
            method = made(name, teacher, student, seed=99)
            method.load_state_dict(state)
        before = torch.get_rng_state()
        losses += [step(method, images, LABELS, optimizer) for _ in range(7)]
        assert torch.equal(before, torch.get_rng_state())
        whole.append(torch.stack(losses))
        states.append(student.state_dict())
    assert torch.equal(*whole)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "label_adversary"])
def test_views_depend_on_the_seed_only(name: str, teacher: nn.Module, images: Tensor) -> None:
    def views(seed: int) -> Tensor:
        with torch.no_grad():
            return made(name, teacher, teacher, seed=seed).second_view(images, LABELS)

    first = views(0)
    torch.rand(5)
    assert torch.equal(first, views(0))
    assert not torch.equal(first, views(1))
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


@pytest.mark.parametrize("name", SINGLE)
def test_each_image_is_augmented_separately(name: str, teacher: nn.Module, images: Tensor) -> None:
    same = images[:1].repeat(16, 1, 1, 1)
    views = made(name, teacher, teacher).second_view(same, LABELS.repeat(2))
    assert len({tuple(view.flatten().tolist()) for view in views}) > 4


def test_8_bit_images_are_reproduced_exactly_by_the_identity(teacher: nn.Module) -> None:
    exact = torch.arange(144).reshape(1, 1, 12, 12) / 255
    method = RandAugmented(teacher, teacher, temperature=2.0, operations=1, magnitude=0)
    found = torch.cat([method.second_view(exact, LABELS[:1]) for _ in range(40)])
    assert any(torch.equal(view, exact[0]) for view in found)  # the identity is among the operations


def test_mixup_and_cutmix_combine_an_image_with_its_neighbour(teacher: nn.Module) -> None:
    images = torch.rand(8, 1, 12, 12)
    neighbours = images.roll(1, 0)
    mixed = Mixup(teacher, teacher, temperature=2.0).second_view(images, LABELS)
    share = ((mixed - neighbours) / (images - neighbours)).median()
    assert 0 < float(share) < 1
    assert torch.allclose(mixed, share * images + (1 - share) * neighbours, atol=1e-5)
    cut = CutMixed(teacher, teacher, temperature=2.0, seed=2).second_view(images, LABELS)
    own = cut == images
    assert bool((own | (cut == neighbours)).all())
    assert torch.equal(own[0], own[5])
    assert 0 < float(own.float().mean()) < 1


def test_cutmixpick_keeps_the_views_with_the_highest_entropy(teacher: nn.Module) -> None:
    images = torch.rand(8, 1, 12, 12)
    plain = CutMixed(teacher, teacher, temperature=2.0)
    picking = CutMixPick(teacher, teacher, temperature=2.0, candidates=3)
    with torch.no_grad():
        picked = picking.second_view(images, LABELS)
        torch.manual_seed(int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0))))
        candidates = torch.cat([plain.draw(images) for _ in range(3)])
        entropy = torch.distributions.Categorical(logits=teacher(candidates)).entropy()
        found = torch.distributions.Categorical(logits=teacher(picked)).entropy()
    assert torch.allclose(found.sort().values, entropy.sort().values[-8:], atol=1e-6)
    assert float(found.mean()) > float(entropy.mean())


@pytest.mark.parametrize("crop", [None, 0.3])
def test_consistent_mixup_shows_both_networks_the_same_mixed_views(images: Tensor, crop: float | None) -> None:
    seen: dict[str, Tensor] = {}
    teacher, student = network(1, 0), network(1, 1)
    shown: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    student.register_forward_pre_hook(lambda module, inputs: seen.update(student=inputs[0]))
    images = torch.rand(8, 1, 12, 12)
    ConsistentMixup(teacher, student, temperature=2.0, crop=crop).loss(images, LABELS)
    assert torch.equal(torch.cat(shown), seen["student"])
    assert len(seen["student"]) == 16
    assert not torch.equal(*seen["student"].split(8))
    if crop is None:  # a mix of each image with one other image
        for view, image in zip(seen["student"][:8], images, strict=True):
            left = []
            for other in images:
                own, mixed = (image - other).reshape(-1, 1), (view - other).reshape(-1, 1)
                left.append((mixed - own * torch.linalg.lstsq(own, mixed).solution).abs().max())
            assert min(left) < 1e-4


def test_the_label_objective_has_the_expected_values() -> None:
    teacher, student = torch.randn(4, 5), torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 3, 4, 1])
    reference = Reference(teacher, labels=labels)
    keep = nn.functional.cross_entropy(teacher, labels, reduction="none")
    lose = nn.functional.cross_entropy(student, labels, reduction="none")
    plain = LabelConflict(weight=2.0, non_saturating=False)
    assert torch.allclose(plain(teacher_logits=teacher, student_logits=student, reference=reference), lose - 2 * keep)
    sure = (1 - student.softmax(1).gather(1, labels[:, None]).squeeze(1)).log()
    found = LabelConflict(weight=0.5)(teacher_logits=teacher, student_logits=student, reference=reference)
    assert torch.allclose(found, sure - 0.5 * keep, atol=1e-6)
    extreme = torch.zeros(1, 5, requires_grad=True)
    value = LabelConflict()(
        teacher_logits=torch.zeros(1, 5),
        student_logits=extreme + 200 * torch.eye(5)[:1],
        reference=Reference(torch.zeros(1, 5), labels=torch.tensor([0])),
    )
    value.sum().backward()
    assert bool(extreme.grad is not None and extreme.grad.isfinite().all())
    assert float(extreme.grad[0, 0]) == pytest.approx(
        -1.0, rel=1e-4
    )  # the gradient is largest where the student is most confident
    with pytest.raises(ValueError, match="requires labels"):
        LabelConflict()(teacher_logits=teacher, student_logits=student)


def test_the_label_adversary_increases_the_cross_entropy(teacher: nn.Module, plain_student: nn.Module) -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 1, 12, 12)
    labels = teacher(images).argmax(1)
    fitted = torch.optim.Adam(plain_student.parameters(), 1e-2)
    for _ in range(100):
        fitted.zero_grad()
        nn.functional.cross_entropy(plain_student(images), labels).backward()
        fitted.step()

    def loss_on_views(calls: int) -> float:
        settings: dict[str, Any] = {"every": 1, "fraction": 1.0, "weight": 0.1, "entropy_weight": 0.0}
        method = LabelAdversary(
            teacher,
            plain_student,
            transform=Affine(),
            temperature=2.0,
            learning_rate=0.01,
            non_saturating=False,
            min_variance=None,
            **settings,
        )
        for _ in range(calls):
            method.augmenter(images, labels)
        views = method.augmenter(images, labels).images
        with torch.no_grad():
            return float(nn.functional.cross_entropy(plain_student(views), labels))

    assert loss_on_views(40) > loss_on_views(0) + 0.1


def test_the_label_adversary_rejects_transforms_that_mix_images(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(ValueError, match="mixes two"):
        LabelAdversary(teacher, student, transform=PatchMix(image_size=12, patch_size=4), temperature=2.0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Mixup, {"alpha": 0.0}),
        (CutMixed, {"alpha": float("nan")}),
        (CutMixPick, {"candidates": 1}),
        (CutMixPick, {"candidates": 2.5}),
        (RandAugmented, {"magnitude": 31}),
        (RandAugmented, {"operations": 0}),
        (AugMixed, {"severity": 11}),
        (AugMixed, {"chains": 0}),
        (ConsistentMixup, {"crop": 0.0}),
        (LabelAdversary, {"transform": Affine(), "weight": -1.0}),
    ],
)
def test_invalid_settings_raise(
    teacher: nn.Module, student: nn.Module, kind: type[Method], settings: dict[str, Any]
) -> None:
    name = list(settings)[-1]
    with pytest.raises(ValueError, match=f"{name}=.*expected"):
        kind(teacher, student, temperature=2.0, **settings)  # type: ignore[call-arg]  # each has its own


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


def counted(build: Any, images: Tensor, *, steps: int = 12) -> tuple[Method, int]:
    counter = Counted()
    teacher, student = network(1, 0), network(1, 1)
    method = build(counter.watch(teacher.requires_grad_(False)), counter.watch(student))
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(steps):
        step(method, images, LABELS, optimizer)
    return method, counter.total


@pytest.mark.parametrize("name", [*NAMES, "supervised", "kd", "random"])
def test_network_evaluations_match_the_counted_passes(images: Tensor, name: str) -> None:
    builds = {
        "supervised": lambda teacher, student: Supervised(student),
        "kd": lambda teacher, student: Distillation(teacher, student, temperature=2.0),
        "random": lambda teacher, student: RandomViews(teacher, student, Affine(), temperature=2.0),
    }
    method, total = counted(builds.get(name, lambda teacher, student: made(name, teacher, student)), images)
    probe = 1 if isinstance(method, Hard) else 0  # the first call evaluates one image, to compare class counts
    assert method.evaluations(12 * 8) == total - probe


@pytest.mark.parametrize(
    ("schedule", "objective", "search"),
    [
        (Alternating(every=2, fraction=0.5, steps=3), KL(), None),
        (Alternating(every=5), ResponseChange(), None),
        (Threshold(every=2, fraction=0.5, low=1.1, high=1.2), KL(), None),
        (Alternating(every=2, fraction=0.5), KL(), {"candidates": 4, "steps": 2}),
        (Alternating(), KL(), {"candidates": 3, "steps": 0}),
        (Alternating(), KL(), {"candidates": 1, "steps": 1}),
    ],
)
def test_network_evaluations_of_the_augmenter_match_the_counted_passes(
    images: Tensor, schedule: Schedule, objective: Disagreement, search: dict[str, int] | None
) -> None:
    def build(teacher: nn.Module, student: nn.Module) -> Hard:
        transform = Affine()
        policy = None if search is None else Search(transform.spec, **search)
        return Hard(
            HardAugmenter(
                teacher=teacher,
                student=student,
                transform=transform,
                policy=policy,
                objective=objective,
                schedule=schedule,
            ),
            temperature=2.0,
        )

    method, total = counted(build, images)
    assert method.evaluations(12 * 8) == total - 1
    assert isinstance(method, Hard)
    if isinstance(schedule, Alternating) and search is None:
        assert count_policy_updates(method.augmenter) == schedule.steps * -(-12 // schedule.every)
    if search is not None:
        assert count_policy_updates(method.augmenter) == 0


def test_an_unused_augmenter_has_no_cost(teacher: nn.Module, student: nn.Module) -> None:
    method = Hard(HardAugmenter(teacher=teacher, student=student, transform=Affine()))
    assert method.evaluations(0) == 0


def test_trivialaugment_has_no_settings(teacher: nn.Module) -> None:
    with pytest.raises(TypeError, match="magnitude"):
        TrivialAugmented(teacher, teacher, temperature=2.0, magnitude=3)  # type: ignore[call-arg]  # that is the point
