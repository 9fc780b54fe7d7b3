"""Copies and pickles: each class either works and draws as the original, or says in one line what to do."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter, LearnedAugmentation
from hard_aug.data import Replay
from hard_aug.objectives import KL, Constraint, Hinge, Penalty
from hard_aug.policies import Conditional, Gaussian, Generator, Policy, Search, Uniform
from hard_aug.schedules import Alternating, Joint, Schedule, Threshold
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, PatchMix, Perspective, Transform, make_context
from hard_aug.utils.rng import ShardedGenerator, rand
from tests.helpers.hard_parts import generation_of


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": saved,
    "to a process": lambda value: pickle.loads(bytes(ForkingPickler.dumps(value))),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 5))
    with torch.no_grad():
        teacher[1].weight.mul_(10)
    return teacher.eval(), student


def train(augmenter: HardAugmenter, student: nn.Module, images: Tensor, steps: int = 3) -> list[Tensor]:
    """Train for some steps; return all hard images, and what has been learned."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        hard = augmenter(images)
        hard.loss().backward()
        optimizer.step()
        found.append(hard.images)
    return [
        *found,
        *(value.clone() for module in (student, augmenter.policy) for value in module.state_dict().values()),
    ]


@pytest.mark.parametrize("batch_norm", ["shared", "frozen", "split"])
@pytest.mark.parametrize("schedule", [Alternating(), Joint(), Threshold()])
def test_a_deep_copy_trains_as_the_original(images: Tensor, schedule: Schedule, batch_norm: Any) -> None:
    teacher, student = networks()
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=Affine(), schedule=schedule, batch_norm=batch_norm
    )
    start = train(augmenter, student, images)  # the copy is one of a run that goes on
    before = copy.deepcopy(student.state_dict())
    other_student, other = copy.deepcopy((student, augmenter))
    found = train(other, other_student, images)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name  # the copy has trained its own student
    expected = train(augmenter, student, images)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(expected[0], start[0])


def test_a_recorded_graph_stays_with_the_original(images: Tensor) -> None:
    from hard_aug.inner_loop.cuda_graph import WARM_UP, GraphedUpdate

    teacher, student = networks()
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Alternating())
    augmenter._adversary.update = GraphedUpdate(augmenter._adversary, record=lambda function, generator: function)
    train(augmenter, student, images, WARM_UP + 2)
    other_student, other = copy.deepcopy((student, augmenter))
    assert augmenter._adversary.update.is_recorded
    assert not other._adversary.update.is_recorded  # type: ignore[attr-defined]  # a GraphedUpdate
    assert other._adversary.update._adversary is other._adversary  # type: ignore[attr-defined]
    found, expected = train(other, other_student, images, 7), train(augmenter, student, images, 7)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("way", [way for name, way in WAYS.items() if name not in ("deepcopy", "copy")])
def test_augmenters_and_batches_are_not_pickled(images: Tensor, way: Callable[[Any], Any]) -> None:
    teacher, student = networks()
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    with pytest.raises(TypeError, match=r"^a HardAugmenter can't be pickled: .* load augmenter\.state_dict\(\)"):
        way(augmenter)
    with pytest.raises(TypeError, match=r"^a HardBatch can't be pickled: .* such as hard\.images"):
        way({"batch": augmenter(images)})
    twin = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    twin.load_state_dict(way(augmenter.state_dict()))  # what the error says works
    assert torch.equal(augmenter(images).images, twin(images).images)


def test_a_shallow_copy_of_an_augmenter_is_refused(images: Tensor) -> None:
    teacher, student = networks()
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    with pytest.raises(TypeError, match=r"use copy\.deepcopy\(augmenter\)"):
        copy.copy(augmenter)
    hard = augmenter(images)
    shallow = copy.copy(hard)
    assert shallow.images is hard.images
    shallow.loss().backward()
    assert student[0].weight.grad is not None


def test_a_batch_is_copied_with_its_tensors_and_its_student(images: Tensor) -> None:
    teacher, student = networks()
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine(), batch_norm="split")(images)
    hard.loss().backward()
    before = copy.deepcopy(student.state_dict())
    other_student, other = copy.deepcopy((student, hard))
    loss = other.loss()
    loss.backward()
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(loss, hard.loss())
    assert torch.equal(other.disagreement, hard.disagreement)
    assert other_student[0].weight.grad is not None
    other.images.zero_()
    assert float(hard.images.max()) > 0.5


def test_networks_that_cannot_be_copied_are_named(images: Tensor) -> None:
    teacher, student = networks()
    student.handle = (number for number in range(3))
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    for value, advice in ((augmenter, r"augmenter\.state_dict\(\)"), (augmenter(images), r"hard\.images")):
        with pytest.raises(TypeError, match=f"can't be copied .*'generator' object.*{advice}"):
            copy.deepcopy(value)


TRANSFORMS = [
    Compose(Affine(), Elastic(), Color(saturation=None, hue=None)),
    Perspective(),
    Filter(motion_blur=0.5, solarize=0.5),
    PatchMix(image_size=12, patch_size=4),
]


def same_images(transform: Transform, other: Transform, images: Tensor) -> bool:
    u = torch.randn(len(images), transform.size)
    context = make_context(
        transform, images, generator=torch.Generator().manual_seed(0), labels=torch.arange(len(images)) % 3
    )
    return torch.equal(transform.render(images, u, context), other.render(images, u, context))


@each_way
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_transforms(images: Tensor, transform: Transform, way: Callable[[Any], Any]) -> None:
    other = way(transform)
    assert other.spec == transform.spec
    assert repr(other) == repr(transform)
    assert same_images(transform, other, images)


def generative(kind: str) -> Transform:
    parts = pytest.importorskip("tests.helpers.generative_parts", exc_type=ImportError)
    from hard_aug.generative import HierarchicalVAE
    from hard_aug.transforms import Diffusion, HierarchicalLatent, VAELatent

    if kind == "VAELatent":
        return VAELatent(parts.autoencoder_tiny(), shift=1.0, direction=0.5)
    if kind == "Diffusion":
        return Diffusion(parts.make_sampler(steps=2, strength=0.5))
    torch.manual_seed(0)
    vae = HierarchicalVAE(channels=2, size=16, blocks=((1, 1), (4, 2)), width=8, latent_channels=2)
    return HierarchicalLatent(vae, log_scale=0.1, noise_seed=0)


@each_way
@pytest.mark.parametrize("kind", ["VAELatent", "HierarchicalLatent", "Diffusion"])
def test_generative_transforms(kind: str, way: Callable[[Any], Any]) -> None:
    transform, pictures = generative(kind), torch.rand(3, 2, 16, 16)
    assert same_images(transform, transform, pictures)  # its caches are filled
    assert same_images(transform, way(transform), pictures)


SPEC = Affine().spec
POLICIES = [
    Gaussian(SPEC),
    Generator(SPEC, width=8),
    Conditional(SPEC, channels=1),
    Uniform(SPEC, scale=0.5),
    Search(SPEC, proposal=Gaussian(SPEC)),
]


@each_way
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_policies(images: Tensor, policy: Policy, way: Callable[[Any], Any]) -> None:
    other, generator = way(policy), torch.Generator()
    expected = policy.sample(images, generator.manual_seed(3))
    assert torch.equal(other.sample(images, generator.manual_seed(3)), expected)
    assert torch.equal(other.relative_entropy(images), policy.relative_entropy(images))
    assert other.spec == policy.spec


@each_way
def test_exported_augmentations(images: Tensor, way: Callable[[Any], Any]) -> None:
    augmentation = LearnedAugmentation(Affine(), Gaussian(SPEC), uniform_fraction=0.3, p=0.7)
    other = way(augmentation)
    torch.manual_seed(3)
    expected = augmentation(images)
    torch.manual_seed(3)
    assert torch.equal(other(images), expected)


@each_way
def test_generators(way: Callable[[Any], Any]) -> None:
    for rank in range(2):
        generator = ShardedGenerator(rank=rank, processes=2)
        rand(4, generator.manual_seed(7))  # type: ignore[arg-type]  # it is returned
        other = way(generator)
        assert torch.equal(rand(4, other), rand(4, generator))
        assert (other.rank, other.processes) == (rank, 2)


@pytest.mark.parametrize("way", [way for name, way in WAYS.items() if name != "copy"])
def test_images_that_are_replayed(way: Callable[[Any], Any]) -> None:
    replay = Replay(capacity=30)
    replay.add(generation_of(1))
    other = way(replay)
    for one in (replay, other):
        one.add(generation_of(2))
    assert all(torch.equal(other[row][0], replay[row][0]) for row in range(len(replay)))


@each_way
@pytest.mark.parametrize(
    "part",
    [KL(), Hinge(), Penalty(2.0), Constraint(0.1), Exploration(min_variance=None), Alternating(), Joint(), Threshold()],
    ids=lambda part: type(part).__name__,
)
def test_settings(part: object, way: Callable[[Any], Any]) -> None:
    assert repr(way(part)) == repr(part)


def copy_in_a_process_group(rank: int, folder: str, augmentation: LearnedAugmentation) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(1)
    images = torch.rand(8, 1, 12, 12)[4 * rank : 4 * rank + 4]
    teacher, student = networks()
    wrapped = nn.parallel.DistributedDataParallel(student)
    augmenter = HardAugmenter(teacher=teacher, student=wrapped, transform=Affine(), schedule=Alternating())
    train(augmenter, wrapped, images, 2)
    other_student, other = copy.deepcopy((wrapped, augmenter))
    found, expected = train(other, other_student, images), train(augmenter, wrapped, images)
    torch.manual_seed(rank)
    torch.save({"found": found, "expected": expected, "exported": augmentation(images)}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_copies_in_a_process_group(tmp_path: Path) -> None:
    augmentation = LearnedAugmentation(Affine(), Gaussian(SPEC), p=0.7)
    torch.multiprocessing.spawn(copy_in_a_process_group, args=(str(tmp_path), augmentation), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.manual_seed(1)
    images = torch.rand(8, 1, 12, 12)
    for rank, result in enumerate(ranks):
        assert all(torch.equal(a, b) for a, b in zip(result["found"], result["expected"], strict=True))
        torch.manual_seed(rank)
        assert torch.equal(result["exported"], augmentation(images[4 * rank : 4 * rank + 4]))
    assert torch.equal(ranks[0]["found"][-1], ranks[1]["found"][-1])  # one policy
    assert not torch.equal(ranks[0]["found"][0], ranks[1]["found"][0])  # and rows of its own in each process
