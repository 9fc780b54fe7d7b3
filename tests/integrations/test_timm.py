"""timm's distillation task with hard views: timm's own networks, optimisers, scaler, checkpoints and wrappers."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import LogitDistillationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler
from torch import Tensor, nn

from hard_aug import HardAugmenter, Normalized
from hard_aug.integrations.timm import HardDistillationTask
from hard_aug.objectives import KL, ConfidenceGap, LogitMSE
from hard_aug.policies import Gaussian, GroupBandit
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Color, Compose, menu

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = 4
Affines = partial(HardAugmenter, transform=Compose(Affine(), Color()))


def network(name: str = "test_resnet", **settings: Any) -> nn.Module:
    torch.manual_seed(1)
    overlay = {"mean": settings.pop("mean", MEAN), "std": settings.pop("std", STD)}
    return timm.create_model(name, num_classes=CLASSES, pretrained_cfg_overlay=overlay, **settings)


@pytest.fixture
def teacher() -> nn.Module:
    model = network(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with torch.no_grad():
        model.fc.weight.mul_(20)
    return model


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """As timm's loader gives them: normalised by the student's mean and std."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    pixels = torch.rand(3, 8, 3, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2)
    return [((images - mean) / std, torch.arange(8) % CLASSES) for images in pixels]


@pytest.mark.parametrize("schedule", [Alternating(), None])
def test_it_trains(teacher: nn.Module, batches: list[Any], schedule: Any) -> None:
    student = network()
    task = HardDistillationTask(student, teacher, augmenter=partial(Affines, schedule=schedule), task_loss_weight=0.1)
    optimizer = create_optimizer_v2(student, "adamw", lr=3e-3)
    task.train()
    assert not any(module.training for module in teacher.modules())
    weights = copy.deepcopy(teacher.state_dict())
    start = task.augmenter.policy.mean.detach().clone()
    losses = []
    for _ in range(6):
        for images, labels in batches:
            result = task(images, labels)
            assert result["output"].shape == (8, CLASSES)
            expected = 0.1 * result["task_loss"] + 0.9 * result["kd_loss"]
            assert float(result["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            losses.append(float(result["loss"].detach()))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert not torch.equal(task.augmenter.policy.mean, start)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(name.startswith(("_orig", "augmenter")) for name in task.state_dict())
    assert "clean_weight=0.5, distill_loss_weight=0.9, task_loss_weight=0.1, temperature=None" in repr(task)


def test_without_hard_views_it_is_timms_own_task(teacher: nn.Module, batches: list[Any]) -> None:
    """The same networks get the same input: teachers with another normalisation included."""
    images, labels = batches[0]
    student = network().eval()
    settings = {"temperature": 3.0, "task_loss_weight": 0.3, "criterion_kwargs": {"smoothing": 0.1}}
    theirs = LogitDistillationTask(student, teacher, **settings)(images, labels)
    never = partial(Affines, objective=KL(temperature=3.0), warmup_calls=1)
    found = HardDistillationTask(student, teacher, augmenter=never, **settings)(images, labels)
    for name, value in theirs.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


def test_networks_and_loss_get_images_normalised_as_in_their_training(teacher: nn.Module, batches: list[Any]) -> None:
    images, _ = batches[0]
    student = network().eval()
    task = HardDistillationTask(student, teacher, augmenter=Affines, clean_weight=0.25)
    hard = task.augmenter(images)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    assert torch.allclose(hard.clean_images, (images * std + mean).clamp(0, 1), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(hard.teacher_logits, teacher((hard.images - 0.5) / 0.5), atol=1e-4)
        expected = 0.25 * hard.loss(clean_weight=1.0) + 0.75 * hard.loss(clean_weight=0.0)
        own = student((hard.images - mean) / std)
    assert torch.allclose(hard._student_logits, own, atol=1e-4)
    assert torch.allclose(hard.loss(clean_weight=0.25), expected, atol=1e-5)
    # A teacher that is `Normalized` already gets images in [0, 1].
    whole = Normalized(teacher, (0.5,) * 3, (0.5,) * 3)
    other = HardDistillationTask(student, whole, augmenter=Affines)
    assert torch.allclose(other.augmenter(images).teacher_logits, hard.teacher_logits, atol=1e-4)


def test_a_criterion_of_soft_labels_and_an_objective_that_requires_labels(
    teacher: nn.Module, batches: list[Any]
) -> None:
    images, labels = batches[0]
    soft = F.one_hot(labels, CLASSES).float() * 0.8 + 0.05
    task = HardDistillationTask(network(), teacher, augmenter=Affines, criterion=SoftTargetCrossEntropy())
    assert bool(task(images, soft)["loss"].isfinite())
    task = HardDistillationTask(network(), teacher, augmenter=partial(Affines, objective=ConfidenceGap()))
    assert bool(task(images, labels)["loss"].isfinite())


def test_grey_images_and_a_loader_of_its_own(batches: list[Any]) -> None:
    def grey() -> nn.Module:
        return timm.create_model("test_resnet", num_classes=CLASSES, in_chans=1)

    make = partial(HardAugmenter, transform=Affine())
    images = torch.rand(4, 1, 32, 32)
    task = HardDistillationTask(grey(), grey(), augmenter=make, normalization=((0.1,), (0.3,)))
    assert torch.allclose(task.augmenter((images - 0.1) / 0.3).clean_images, images, atol=1e-5)
    mean = sum(timm.create_model("test_resnet").pretrained_cfg["mean"]) / 3
    std = sum(timm.create_model("test_resnet").pretrained_cfg["std"]) / 3
    task = HardDistillationTask(grey(), grey(), augmenter=make)
    assert torch.allclose(task.augmenter((images - mean) / std).clean_images, images, atol=1e-5)


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_temperature_is_the_objectives_unless_given(
    teacher: nn.Module, batches: list[Any], temperature: float | None
) -> None:
    student, make = network().eval(), partial(Affines, objective=KL(temperature=5.0))
    task = HardDistillationTask(student, teacher, augmenter=make, temperature=temperature)
    twin = HardDistillationTask(student, teacher, augmenter=make)
    expected = twin.augmenter(batches[0][0]).loss(temperature=temperature or 5.0)
    assert torch.allclose(task(*batches[0])["kd_loss"], expected, atol=1e-6)


def test_the_objective_of_an_augmenter_has_the_temperature_of_the_loss(teacher: nn.Module) -> None:
    """As timm's script has it: --distill-temperature 4, and nothing else is said."""
    make = partial(HardDistillationTask, network(), teacher)
    assert make(augmenter=Affines, temperature=4.0).augmenter.objective.temperature == 4.0
    assert make(augmenter=Affines).augmenter.objective.temperature == KL().temperature
    unset = partial(Affines, objective=None)
    assert make(augmenter=unset, temperature=4.0).augmenter.objective.temperature == 4.0
    with pytest.warns(UserWarning, match=r"temperature 4\.0, and the augmenter's objective 2\.0"):
        make(augmenter=lambda **networks: Affines(**networks), temperature=4.0)
    given = make(augmenter=partial(Affines, objective=KL(temperature=5.0)), temperature=4.0).augmenter
    assert given.objective.temperature == 5.0
    assert isinstance(
        make(augmenter=partial(Affines, objective=LogitMSE()), temperature=4.0).augmenter.objective, LogitMSE
    )


def test_a_loader_whose_erasing_leaves_the_range(teacher: nn.Module, batches: list[Any]) -> None:
    """timm's `--remode pixel` fills patches with normal noise after the normalisation."""
    images, labels = batches[0]
    erased = images.clone()
    erased[:, :, :8, :8] = 3 * torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="out_of_range='clamp'"):
        HardDistillationTask(network(), teacher, augmenter=Affines)(erased, labels)
    clamped = HardDistillationTask(network(), teacher, augmenter=partial(Affines, out_of_range="clamp"))
    assert bool(clamped(erased, labels)["loss"].isfinite())


def test_the_class_itself_creates_the_default_augmenter(teacher: nn.Module, batches: list[Any]) -> None:
    task = HardDistillationTask(network(), teacher, augmenter=HardAugmenter)
    assert bool(task(*batches[0])["loss"].isfinite())
    assert task.augmenter.transform.size == menu().size
    assert isinstance(task.augmenter.policy, GroupBandit)


@pytest.mark.parametrize(
    ("augmenter", "words"),
    [
        ("instance", "expected a function .* got a HardAugmenter "),
        (Affine, r"got the class Affine \(got an unexpected keyword argument 'teacher'\)"),
        (None, "got a NoneType"),
        (Affine(), "got a Affine .*partial"),
        (lambda teacher, student: None, "got a function .*unexpected keyword argument 'normalization'"),
    ],
)
def test_anything_but_a_function_that_creates_an_augmenter_is_named(
    teacher: nn.Module, augmenter: Any, words: str
) -> None:
    if augmenter == "instance":
        augmenter = HardAugmenter(teacher=teacher, student=network(), transform=Affine())
    with pytest.raises(TypeError, match=words) as caught:
        HardDistillationTask(network(), teacher, augmenter=augmenter, temperature=2.0)
    assert "use augmenter=functools.partial(HardAugmenter, transform=...)" in str(caught.value)


def test_batches_of_patches_are_refused(teacher: nn.Module, batches: list[Any]) -> None:
    task = HardDistillationTask(network(), teacher, augmenter=Affines)
    batch: Any = {"patches": torch.zeros(2, 4, 768), "patch_coord": torch.zeros(2, 4, 2)}
    with pytest.raises(TypeError, match=r"got dict; pass its images .*'patches', 'patch_coord'"):
        task(batch, batches[0][1])


def test_accumulation_under_timms_scaler(teacher: nn.Module, batches: list[Any]) -> None:
    """The policy is the same whatever the loss is divided or multiplied by, and the student's gradients add up."""
    policies, gradients = [], []
    for scale, scaler in ((1.0, None), (0.5, NativeScaler(device="cpu"))):
        student = network().eval()
        task = HardDistillationTask(student, teacher, augmenter=partial(Affines, schedule=Alternating()))
        optimizer = create_optimizer_v2(student, "sgd", lr=0.0, weight_decay=0.0)
        for index, (images, labels) in enumerate(batches[:2]):
            loss = scale * task(images, labels)["loss"]
            if scaler is None:
                loss.backward()
            else:
                scaler(loss, optimizer, need_update=index == 1)
        policies.append(task.augmenter.policy.mean.detach().clone())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
    assert bool(policies[0].any())
    assert torch.equal(policies[0], policies[1])
    assert torch.allclose(0.5 * gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_timms_checkpoints_hold_the_policy(teacher: nn.Module, batches: list[Any], tmp_path: Path) -> None:
    def build() -> tuple[HardDistillationTask, torch.optim.Optimizer]:
        student = network()
        task = HardDistillationTask(student, teacher, augmenter=Affines)
        return task, create_optimizer_v2(student, "adamw", lr=1e-3)

    task, optimizer = build()
    task.setup_ema(decay=0.5)
    saver = CheckpointSaver(task.trainable_module, optimizer, checkpoint_dir=str(tmp_path), task=task)
    for images, labels in batches:
        task(images, labels)["loss"].backward()
        optimizer.step()
        task.update_ema()
    saver.save_checkpoint(0)
    other, other_optimizer = build()
    other.setup_ema(decay=0.5)
    resume_task_checkpoint(other, str(tmp_path / "last.pth.tar"), other_optimizer)
    load_task_ema_checkpoint(other, str(tmp_path / "last.pth.tar"))
    expected, found = task(*batches[0]), other(*batches[0])
    assert torch.equal(found["loss"], expected["loss"])
    assert torch.equal(other.augmenter.policy.mean, task.augmenter.policy.mean)
    with pytest.raises(RuntimeError, match=r"got the task state \['projection'\], which has no augmenter"):
        other.load_task_state({"projection": {}})
    other.load_task_state({"projection": {}}, strict=False)
    other.load_task_state(None)
    assert torch.equal(other.augmenter.policy.mean, task.augmenter.policy.mean)


@pytest.mark.slow
def test_compiled_and_distributed(teacher: nn.Module, batches: list[Any], tmp_path: Path) -> None:
    """The loss uses the wrappers that timm puts around the student later; policy updates use the unwrapped network."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        student = network()
        task = HardDistillationTask(student, teacher, augmenter=partial(Affines, schedule=Alternating()))
        plain = HardDistillationTask(
            copy.deepcopy(student), teacher, augmenter=partial(Affines, schedule=Alternating())
        )
        task.compile(backend="eager")
        task.prepare_distributed()
        assert isinstance(task.trainable_module, nn.parallel.DistributedDataParallel)
        for one in (task, plain):
            one.train()
            for images, labels in batches[:2]:
                one.trainable_module.zero_grad()
                one(images, labels)["loss"].backward()
        assert torch.allclose(task.augmenter.policy.mean, plain.augmenter.policy.mean, atol=1e-6)
        assert bool(plain.augmenter.policy.mean.any())
        grads = [parameter.grad for parameter in student.parameters()]
        for mine, other in zip(grads, plain.trainable_module.parameters(), strict=True):
            assert torch.allclose(mine, other.grad, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


def test_bad_settings(teacher: nn.Module, batches: list[Any]) -> None:
    with pytest.raises(TypeError, match=r"functools\.partial\(HardAugmenter"):
        HardDistillationTask(network(), teacher, augmenter=lambda **_: nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="clean_weight=2"):
        HardDistillationTask(network(), teacher, augmenter=Affines, clean_weight=2.0)
    task = HardDistillationTask(network(), teacher, augmenter=Affines)
    with pytest.raises(ValueError, match="once normalization is undone"):
        task(torch.rand(8, 3, 32, 32) * 255, batches[0][1])
    overlay = {"mean": MEAN, "std": STD}
    other = timm.create_model("test_resnet", num_classes=7, pretrained_cfg_overlay=overlay)
    with pytest.raises(ValueError, match="4 classes and the student 7"):
        HardDistillationTask(other, teacher, augmenter=Affines)(*batches[0])
    wrong = partial(Affines, policy=Gaussian(Affine().spec))
    with pytest.raises(ValueError, match="parameters"):
        HardDistillationTask(network(), teacher, augmenter=wrong)
