"""Common setups: averaged students, dropout, half precision, timm's models and loaders."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import timm.data
import timm.optim
import timm.utils
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hard_aug import Exploration, HardAugmenter
from hard_aug.losses import distillation_loss
from hard_aug.models import ViewStatistics, timm_model
from hard_aug.objectives import KL, Penalty
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine
from tests.helpers.confident_networks import confident_networks

SCHEDULES = [Alternating(), Threshold(max_steps=1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_averaged_student_is_the_average_of_the_students(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any
) -> None:
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    theirs = timm.utils.ModelEmaV3(student, decay=0.5, use_warmup=False)
    expected, from_the_start = copy.deepcopy(student), copy.deepcopy(student)  # torch's average starts at its first
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        augmenter(images).loss().backward()
        optimizer.step()
        average.update_parameters(student)
        theirs.update(student)
        with torch.no_grad():
            for mine, now in zip(expected.parameters(), student.parameters(), strict=True):
                mine.copy_(now if step == 0 else (mine + now) / 2)
            for mine, now in zip(from_the_start.parameters(), student.parameters(), strict=True):
                mine.lerp_(now, 0.5)
    for mine, found in zip(expected.parameters(), average.module.parameters(), strict=True):
        assert torch.allclose(mine, found, atol=1e-6)
    for mine, found in zip(from_the_start.parameters(), theirs.module.parameters(), strict=True):
        assert torch.allclose(mine, found, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_averaged_student_as_teacher(student: nn.Module, images: Tensor, schedule: Any) -> None:
    mean_teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9)).eval()
    augmenter = HardAugmenter(teacher=mean_teacher, student=student, transform=Affine(), schedule=schedule)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    before = [p.clone() for p in mean_teacher.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        augmenter(images).loss().backward()
        optimizer.step()
        mean_teacher.update_parameters(student)
    assert augmenter.dropped_steps == 0
    assert not mean_teacher.training
    assert all(p.grad is None for p in mean_teacher.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, mean_teacher.parameters(), strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dropout_is_active_in_the_loss_only(teacher: nn.Module, images: Tensor, schedule: Any) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5))
    modes: list[bool] = []
    student[3].register_forward_hook(lambda module, given, out: modes.append(module.training))
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    for _ in range(2):
        hard = augmenter(images)
        inside = len(modes)
        assert not any(modes[:inside])
        hard.loss().backward()
        assert modes[inside:] == [True]
        modes.clear()
    assert augmenter.dropped_steps == 0


@pytest.mark.parametrize("bias", [0.0, 12.0, 15.0])
@pytest.mark.parametrize("images_in", [torch.float32, torch.float16])
def test_the_policys_gradient_of_confident_networks_in_half_precision(images_in: torch.dtype, bias: float) -> None:
    """With the networks, and perhaps the images, in float16 it is within one per cent of that in float32."""
    found = []
    for low in (False, True):
        teacher, student, images = confident_networks(bias)
        augmenter = HardAugmenter(
            teacher=teacher,
            student=student,
            transform=Affine(),
            schedule=Alternating(),
            objective=KL(temperature=1.0),
            invariance=Penalty(0.0),
            exploration=Exploration(entropy_weight=0.0, min_variance=None),
        )
        with torch.autocast("cpu", dtype=torch.float16, enabled=low):
            augmenter(images.clamp(0, 1).to(images_in if low else torch.float32))
        moments = augmenter.state_dict()["optimizer"]["state"].values()
        found.append(torch.cat([moment["exp_avg"].flatten() for moment in moments]))
    assert float(found[0].norm()) > 0
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_images_of_half_precision_under_autocast(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, own: bool, dtype: torch.dtype
) -> None:
    """With the loss of the batch, and with one written by hand."""
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    before = augmenter.policy.mean.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with torch.autocast("cpu", dtype=dtype):
        hard = augmenter(images.to(dtype))
        loss = hard.loss()
        if own:
            loss = distillation_loss(student_logits=student(hard.images), teacher_logits=hard.teacher_logits)
    scaler.scale(loss).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in student.parameters())
    assert hard.images.dtype == dtype
    assert augmenter.dropped_steps == 0
    assert not torch.equal(augmenter.policy.mean, before)


@pytest.mark.parametrize("batch_norm", ["frozen", "split"])
def test_batch_norms_with_an_activation(batch_norm: Any) -> None:
    """timm's BatchNormAct2d is a BatchNorm2d that applies the activation too."""
    torch.manual_seed(0)
    student = timm.create_model("mobilenetv3_small_050", num_classes=5, drop_rate=0.0, drop_path_rate=0.0)
    student(torch.rand(8, 3, 64, 64))  # running statistics of its own
    clean, hard = torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64).square()
    expected_clean = copy.deepcopy(student)(clean)
    expected_hard = copy.deepcopy(student).train(batch_norm == "split")(hard)
    after = copy.deepcopy(student)
    after(clean)
    with ViewStatistics(student, batch_norm).of(clean=4, hard=4):
        logits = student(torch.cat((clean, hard)))
    logits.sum().backward()
    assert torch.allclose(logits[:4], expected_clean, atol=1e-4)
    assert torch.allclose(logits[4:], expected_hard, atol=1e-4)
    for name, value in after.state_dict().items():
        assert torch.allclose(student.state_dict()[name], value, atol=1e-5), name


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch_norm", ["shared", "split"])
def test_timm_models_by_name(schedule: Any, batch_norm: Any) -> None:
    torch.manual_seed(0)
    teacher = timm_model("resnet10t", classes=5).eval().requires_grad_(False)
    student = timm_model("test_efficientnet", classes=5)
    assert teacher.mean.flatten().tolist() == pytest.approx(timm.get_pretrained_cfg("resnet10t").mean)
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=Affine(), schedule=schedule, batch_norm=batch_norm
    )
    optimizer = timm.optim.create_optimizer_v2(student, "adamw", lr=1e-3)
    images = torch.rand(4, 3, 32, 32)
    for _ in range(2):
        loss = augmenter(images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert bool(loss.isfinite())
    assert augmenter.dropped_steps == 0


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]  # pairs, whatever the transform makes of them
    """Sixteen PIL images."""

    transform: Any = None

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchvision.transforms.functional import to_pil_image

        generator = torch.Generator().manual_seed(index)
        return self.transform(to_pil_image(torch.rand(3, 40, 40, generator=generator))), index % 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_timm_loader_that_normalises(schedule: Any) -> None:
    teacher, student = (timm_model("test_efficientnet", classes=3) for _ in range(2))
    teacher.eval()
    expected = timm.data.resolve_model_data_config(student.model)
    loader = timm.data.create_loader(
        Pictures(),
        input_size=(3, 32, 32),
        batch_size=8,
        is_training=True,
        mean=expected["mean"],
        std=expected["std"],
        auto_augment="rand-m9-mstd0.5",
        num_workers=0,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    augmenter = HardAugmenter(
        teacher=teacher,
        student=student,
        transform=Affine(),
        schedule=schedule,
        normalization=(expected["mean"], expected["std"]),
    )
    seen = 0
    for images, labels in loader:
        assert float(images.min()) < 0  # normalised
        hard = augmenter(images, labels)
        hard.loss().backward()
        assert 0 <= float(hard.clean_images.min()) <= float(hard.clean_images.max()) <= 1
        seen += len(hard)
    assert seen == 16
    assert augmenter.dropped_steps == 0
