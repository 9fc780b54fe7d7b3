"""Every option of every group composes and builds what it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from experiments.models import build_network, build_teacher
from experiments.training.settings import TrainerSettings
from hard_aug.data import ImageSet
from hard_aug.generative import HierarchicalVAE
from hard_aug.transforms import menu
from tests.helpers.method_parts import composed, small_method

CONF = Path(__file__).parents[3] / "experiments" / "conf"
#: Options of transforms that require diffusers, whose import takes seconds.
GENERATIVE = ("diffusion", "hierarchical", "vae", "vae_directions")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def parts() -> Iterator[list[str]]:
    """Yield the overrides of each part of an augmenter, with compatible others."""
    for group in ("transform", "policy", "objective", "schedule", "invariance"):
        for name in options(group):
            chosen = {"schedule": "alternating", "invariance": "penalty"} | {group: name}
            if name == "diffusion":
                chosen["policy"] = "search"
            if chosen.get("policy") == "search":
                chosen["invariance"] = "hinge"
            yield [f"{key}@augmenter.{key}={chosen[key]}" for key in sorted(chosen, key=lambda key: key == group)]
    yield from ([f"augmenter={name}"] for name in options("augmenter"))


def cases() -> list[object]:
    found = []
    for overrides in parts():
        name = overrides[-1].split(".")[-1]
        slow = [pytest.mark.slow] if name.split("=")[1] in GENERATIVE else []
        found.append(pytest.param(overrides, id=name, marks=slow))
    return found


@pytest.mark.parametrize("overrides", cases())
def test_every_part_makes_hard_images(tmp_path: Path, overrides: list[str]) -> None:
    """Hard images differ from the clean ones, stay in [0, 1], and give a loss to descend."""
    name = overrides[-1].split("=")[1]
    size = 32 if name in GENERATIVE else 28
    channels = 3 if name in ("color", "affine_color_rgb", "background_color") else 1
    if name == "hierarchical":  # none is shipped
        vae = HierarchicalVAE(size=size, blocks=((1, 1), (8, 1)), width=8, latent_channels=2)
        vae.save_pretrained(tmp_path / "vae")
        overrides = [*overrides, f"augmenter.transform.vae.folder={tmp_path}/vae"]
    teacher, student = (
        nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 16), nn.Tanh(), nn.Linear(16, 5)) for _ in range(2)
    )
    method = small_method(composed("method=hard", *overrides), teacher, student, channels=channels, size=size)
    images, labels = torch.rand(6, channels, size, size), torch.arange(6) % 5
    hard = method.augmenter(images, labels)
    assert hard.images.shape == images.shape
    assert 0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1
    assert bool((hard.images != images).flatten(1).any(1).all())
    loss = method.loss(images, labels)
    assert 0 < float(loss.detach()) < 10
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_hierarchical_vae_requires_a_folder(tmp_path: Path) -> None:
    transform = "transform@augmenter.transform=hierarchical"
    with pytest.raises(InstantiationException, match=r"no hierarchical VAE is shipped: .*augmenter\.transform\.vae"):
        instantiate(composed(transform).augmenter.transform)
    given = composed(transform, f"augmenter.transform.vae.folder={tmp_path}")
    with pytest.raises(InstantiationException, match=r"has no config\.json and no model\.safetensors"):
        instantiate(given.augmenter.transform)


SHAPE = {"size": 28, "channels": 1, "classes": 7}


@pytest.mark.parametrize("name", [name for name in options("teacher") if name != "timm"])
def test_every_teacher(name: str) -> None:
    config = composed(f"teacher={name}")
    network = build_teacher(config.teacher, **SHAPE)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 7)
    assert config.teacher.steps > 0
    assert config.teacher.data is None


@pytest.mark.parametrize("name", options("student"))
def test_every_student(name: str) -> None:
    config = composed(f"student={name}", *(["student.name=test_resnet.r160_in1k"] if name == "timm" else []))
    assert build_network(config.student, **SHAPE)(torch.rand(2, 1, 28, 28)).shape == (2, 7)


def test_timm_teachers_keep_their_own_head_unless_they_are_trained() -> None:
    chosen = ("teacher=timm", "teacher.name=test_resnet.r160_in1k", "teacher.pretrained=false")
    rgb = SHAPE | {"channels": 3}
    assert build_teacher(composed(*chosen).teacher, **rgb)(torch.rand(2, 3, 32, 32)).shape == (2, 1000)
    assert build_teacher(composed(*chosen, "teacher.steps=9").teacher, **rgb)(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in options("task") if name != "groups"])
def test_every_task(tmp_path: Path, name: str) -> None:
    small = ["task.images=2", f"+task.cache={tmp_path}"] if name == "common_corruption" else []
    config = composed(f"task={name}", *small)
    task = instantiate(config.task)
    channels = 3 if name == "hue" else 1
    test = ImageSet(torch.rand(6, channels, 28, 28), torch.arange(6) % 3)
    sets = task.sets(test)
    assert next(iter(sets)) == "clean"
    assert len(sets["clean"]) == 6
    assert task.main in sets
    assert set(task.held_out_corruptions) <= set(sets)
    views = task.teacher_views(test.images, torch.Generator().manual_seed(0))
    assert views.shape == test.images.shape
    if name == "plain":
        assert torch.equal(views, test.images)
        with pytest.raises(ValueError, match="no known invariance"):
            task.oracle(28)
    else:
        assert not torch.equal(views, test.images)
        transform, scale = task.oracle(28)
        assert transform.size > 0
        assert 0 < scale <= 1


@pytest.mark.parametrize("name", options("task/menu"))
def test_every_task_of_the_menu(name: str) -> None:
    """The teacher's invariance lies inside the ranges that the methods draw from."""
    config = composed(f"task=menu/{name}", name="menu")
    is_fashion = name.startswith("fashion_")
    assert config.data.name == ("fashion_mnist" if is_fashion else "mnist5k")
    assert dict(config.teacher.data or {}) == ({"fraction": 1.0} if is_fashion else {})
    assert config.teacher.model.pooling is False
    assert config.augmenter.transform._target_ == "hard_aug.transforms.menu"
    task, whole = instantiate(config.task), {one.name: one for one in menu().spec}
    assert task.main == name.removeprefix("fashion_")
    transform, scale = task.oracle(28)
    assert scale == 1
    for own in transform.spec:
        wide = whole[own.name]
        assert (own.unit, own.identity, own.group) == (wide.unit, wide.identity, wide.group)
        assert wide.low <= own.low <= own.identity <= own.high <= wide.high
    images = torch.rand(4, 3 if name == "hue" else 1, 28, 28)
    sets = task.sets(ImageSet(images, torch.arange(4)))
    assert len(sets[task.main]) == 4 * task.copies
    knows = not torch.equal(task.teacher_views(images, torch.Generator().manual_seed(0)), images)
    assert knows == (name != "nothing")


def test_a_task_chooses_teacher_data_and_transform() -> None:
    config = composed("task=hue")
    assert config.teacher.model.pooling is False
    assert list(config.data.tint) == [1.0, 0.0, 0.0]
    assert config.augmenter.transform._target_ == "hard_aug.transforms.Color"
    assert composed("task=hue", "teacher=conv").teacher.train_shift == 3  # the command line takes precedence


@pytest.mark.parametrize(
    ("name", "expected"),
    [("default", {}), ("bf16", {"precision": "bf16"}), ("fp16", {"precision": "fp16"})],
)
def test_every_trainer(name: str, expected: dict[str, str]) -> None:
    assert TrainerSettings(**composed(f"trainer={name}").trainer) == TrainerSettings(**expected)
    assert set(options("trainer")) == {"default", "bf16", "fp16"}


@pytest.mark.parametrize("name", options("data"))
def test_every_data_set_composes(name: str) -> None:
    assert composed(f"data={name}").data.name == ("fashion_mnist" if name == "spurious" else name)


@pytest.mark.parametrize("name", options("ood"))
def test_every_further_test_set_composes(name: str) -> None:
    data = "imagenet" if name.startswith("imagenet") else "mnist"
    found = composed(f"data={data}", f"ood=[{name}]", f"ood.{name}.root=/data").ood
    assert list(found) == [name]
    assert (found[name].name, found[name].root) == (name, "/data")
