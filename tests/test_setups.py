"""The setups people train in: averaged students, dropout, sure players in half precision, timm's models and loaders."""

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

from hard_aug import HardAugmenter
from hard_aug.distillation import distillation_loss
from hard_aug.models import ViewStatistics, timm_model
from hard_aug.objectives import KL, Penalty, Reference
from hard_aug.players import Players
from hard_aug.schedules import Alternating, Joint
from hard_aug.transforms import Affine

SCHEDULES = [Alternating(), Joint()]


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
        augmenter.step()
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
def test_an_average_of_the_student_as_its_teacher(student: nn.Module, images: Tensor, schedule: Any) -> None:
    mean_teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9)).eval()
    augmenter = HardAugmenter(teacher=mean_teacher, student=student, transform=Affine(), schedule=schedule)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    before = [p.clone() for p in mean_teacher.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        augmenter(images).loss().backward()
        optimizer.step()
        augmenter.step()
        mean_teacher.update_parameters(student)
    assert augmenter.dropped_steps == 0
    assert not mean_teacher.training
    assert all(p.grad is None for p in mean_teacher.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, mean_teacher.parameters(), strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dropout_is_on_for_the_loss_and_off_inside(teacher: nn.Module, images: Tensor, schedule: Any) -> None:
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
        augmenter.step()
        assert not any(modes)
        modes.clear()
    assert augmenter.dropped_steps == 0


def sure_players(sureness: float) -> tuple[nn.Module, nn.Module, Tensor]:
    """Teacher and student that give one class nearly all probability, the teacher more than the student."""
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
    ).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight.add_(0.1 * torch.randn_like(student[0].weight))
        teacher[-1].bias[0] += sureness
        student[-1].bias[0] += 0.75 * sureness
    return teacher, student, nn.functional.interpolate(torch.rand(16, 1, 6, 6), (48, 48), mode="bilinear")


@pytest.mark.parametrize("sureness", [0.0, 12.0, 15.0])
def test_gradients_of_sure_players_do_not_vanish_in_half_precision(sureness: float) -> None:
    teacher, student, images = sure_players(sureness)
    players, objective = Players(teacher=teacher, student=student), KL(temperature=1.0)
    with torch.no_grad():
        clean = teacher(images)
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
            judged = players.judge(images, reference=Reference(clean), objective=objective, invariance=Penalty(0.0))
        assert judged.image_gradient is not None
        found[enabled] = judged.image_gradient.flatten(1).double()
    full, half = found[False], found[True]
    ratio = half.norm(dim=1) / full.norm(dim=1)
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=0.01)
    assert float(torch.cosine_similarity(half, full, dim=1).min()) > 0.999
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16):
        score = objective(teacher_logits=teacher(leaf), student_logits=student(leaf)).sum()
    plain = torch.autograd.grad(score, leaf)[0].flatten(1).double()
    if sureness == 15.0:  # so much is lost without a scale
        assert float((plain - full).norm() / full.norm()) > 0.5


@pytest.mark.parametrize("sureness", [0.0, 12.0, 15.0])
@pytest.mark.parametrize("images_in", [torch.float32, torch.float16])
@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_the_policys_gradient_of_sure_players_in_half_precision(
    schedule: Any, images_in: torch.dtype, sureness: float
) -> None:
    """Of whole steps, the networks and perhaps the images in float16, to one per cent of that in float32."""
    found = []
    for low in (False, True):
        teacher, student, images = sure_players(sureness)
        augmenter = HardAugmenter(
            teacher=teacher, student=student, transform=Affine(), schedule=schedule, objective=KL(temperature=1.0),
            invariance=Penalty(0.0), spread_weight=0.0, spread_floor=None,
        )  # fmt: skip
        with torch.autocast("cpu", dtype=torch.float16, enabled=low):
            loss = augmenter(images.clamp(0, 1).to(images_in if low else torch.float32)).loss()
        (loss * 2.0**16).backward()
        augmenter.step()
        moments = augmenter.state_dict()["optimizer"]["state"].values()
        found.append(torch.cat([moment["exp_avg"].flatten() for moment in moments]))
    assert float(found[0].norm()) > 0
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_images_of_half_precision_under_autocast(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, own: bool, dtype: torch.dtype
) -> None:
    """The caller has left the autocast when the augmenter steps."""
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    before = augmenter.policy.mean.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with torch.autocast("cpu", dtype=dtype):
        hard = augmenter(images.to(dtype))
        loss = hard.loss()
        if own:
            loss = distillation_loss(student_logits=student(hard.images), teacher_logits=hard.teacher_logits)
    scaler.scale(loss).backward()
    augmenter.step(scaler if own else None)
    assert hard.images.dtype == dtype
    assert augmenter.dropped_steps == 0
    assert not torch.equal(augmenter.policy.mean, before)


@pytest.mark.parametrize("batch_norm", ["frozen", "split"])
def test_norms_with_an_activation_are_whole_on_both_views(batch_norm: Any) -> None:
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
        augmenter.step()
        assert bool(loss.isfinite())
    assert augmenter.dropped_steps == 0


def test_timm_models_of_one_size_channels_and_names_that_are_none() -> None:
    transformer = timm_model("test_vit", classes=3)
    assert transformer(torch.rand(2, 3, 40, 50)).shape == (2, 3)
    assert timm_model("resnet10t", classes=3, channels=1)(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"timm knows no model 'resnet19'; similar: .*resnet18"):
        timm_model("resnet19")


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]  # pairs, whatever the transform makes of them
    """Sixteen pictures as PIL has them."""

    transform: Any = None

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchvision.transforms.functional import to_pil_image

        generator = torch.Generator().manual_seed(index)
        return self.transform(to_pil_image(torch.rand(3, 40, 40, generator=generator))), index % 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_loader_of_timms_that_normalises(schedule: Any) -> None:
    teacher, student = (timm_model("test_efficientnet", classes=3) for _ in range(2))
    teacher.eval()
    wanted = timm.data.resolve_model_data_config(student.model)
    loader = timm.data.create_loader(
        Pictures(),
        input_size=(3, 32, 32),
        batch_size=8,
        is_training=True,
        mean=wanted["mean"],
        std=wanted["std"],
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
        input_normalization=(wanted["mean"], wanted["std"]),
    )
    seen = 0
    for images, labels in loader:
        assert float(images.min()) < 0  # normalised
        hard = augmenter(images, labels)
        hard.loss().backward()
        augmenter.step()
        assert 0 <= float(hard.clean_images.min()) <= float(hard.clean_images.max()) <= 1
        seen += len(hard)
    assert seen == 16
    assert augmenter.dropped_steps == 0
