"""On a CUDA device: placement, no synchronisation, CUDA graphs, and the same policy updates as on the CPU."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.generative import HierarchicalVAE
from hard_aug.inner_loop.cuda_graph import WARM_UP, GraphedUpdate
from hard_aug.objectives import ConfidenceGap, Constraint, KeepRate
from hard_aug.ops import use_backend, warp_color
from hard_aug.policies import Conditional, Gaussian, Search, Uniform
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, HierarchicalLatent, PatchMix, Perspective
from tests.helpers.deterministic import FromImages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SCHEDULES = [Alternating(), Alternating(fraction=0.5)]
GREY = Color(saturation=None, hue=None)


def step(augmenter: HardAugmenter, images: Tensor) -> Any:
    hard = augmenter(images)
    hard.loss().backward()
    return hard


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_device_dtype_and_memory_format(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, dtype: torch.dtype
) -> None:
    networks = {"teacher": teacher.to("cuda", dtype), "student": student.to("cuda", dtype)}
    augmenter = HardAugmenter(**networks, transform=Compose(Affine(), GREY), schedule=schedule)
    hard = step(augmenter, images.to("cuda", dtype))
    for tensor in (hard.images, hard.teacher_logits, hard.disagreement, hard.params["rotation"], hard.u):
        assert tensor.is_cuda
    assert hard.images.dtype == dtype
    assert hard.u.dtype == torch.float32
    assert all(p.is_cuda and p.dtype == torch.float32 for p in augmenter.policy.parameters())
    assert augmenter.dropped_steps == 0
    with pytest.raises(ValueError, match=r"images are on cpu.*cuda"):
        augmenter(images)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_steps_do_not_synchronize(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, backend: Any
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher.cuda(),
        student=plain_student.cuda(),
        transform=Compose(Affine(), GREY),
        schedule=schedule,
        backend=backend,
    )
    images = images.cuda()
    for _ in range(2):  # the first call of a shape reads values
        step(augmenter, images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            step(augmenter, images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert augmenter.dropped_steps == 0


PARTS: dict[str, Any] = {
    "perspective": lambda: {"transform": Compose(Affine(), Perspective(), GREY)},
    "elastic": lambda: {"transform": Compose(Affine(), Elastic(control=4), GREY)},
    "mix": lambda: {"transform": PatchMix(image_size=12, patch_size=4)},
    "conditional": lambda: {"transform": Affine(), "policy": Conditional(Affine().spec, channels=1)},
    "search": lambda: {"transform": Affine(), "policy": Search(Affine().spec)},
    "uniform": lambda: {"transform": Affine(), "policy": Uniform(Affine().spec, scale=0.5)},
    "mixed": lambda: {"transform": Affine(), "exploration": Exploration(min_uniform_fraction=0.3)},
    "labels": lambda: {"transform": Affine(), "objective": ConfidenceGap()},
    "levels": lambda: {"transform": HierarchicalLatent(HierarchicalVAE(size=12, blocks=((1, 1), (3, 1))).cuda())},
    "fraction": lambda: {"transform": Affine(), "hard_fraction": 0.5, "batch_norm": "split"},
}


@pytest.mark.parametrize("name", PARTS)
def test_other_parts_do_not_synchronize(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher.cuda(), student=plain_student.cuda(), schedule=Alternating(), **PARTS[name]()
    )
    images, labels = images.cuda(), (torch.arange(8) % 5).cuda()
    for _ in range(2):
        augmenter(images, labels).loss().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            augmenter(images, labels).loss().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert augmenter.dropped_steps == 0
    augmenter.check()
    augmenter(images, labels + 5)
    if name == "labels":
        with pytest.raises(ValueError, match="labels of no class"):
            augmenter.check()


def test_filters_and_thresholds(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    transform = Filter(solarize=1.0, motion_blur=1.0, motion_length=5)
    augmenter = HardAugmenter(
        teacher=teacher.cuda(), student=plain_student.cuda(), transform=transform, schedule=Threshold()
    )
    for _ in range(3):
        assert step(augmenter, images.cuda()).images.is_cuda
    assert augmenter.dropped_steps == 0


@pytest.mark.parametrize("warm", [0, 2])
def test_a_gradient_that_is_not_finite_is_dropped(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, warm: int
) -> None:
    teacher, images = teacher.cuda(), images.cuda()
    augmenter = HardAugmenter(teacher=teacher, student=plain_student.cuda(), transform=Affine(), schedule=Alternating())
    for _ in range(warm):
        step(augmenter, images)
    before = copy.deepcopy(augmenter.policy.state_dict())
    bias = teacher[-1].bias.detach().clone()
    teacher[-1].bias.data.fill_(float("nan"))
    step(augmenter, images)
    teacher[-1].bias.data.copy_(bias)
    assert augmenter.dropped_steps == 1
    assert all(torch.equal(value, before[key]) for key, value in augmenter.policy.state_dict().items())
    step(augmenter, images)
    assert not torch.equal(augmenter.policy.log_std, before["log_std"])


def test_what_later_calls_find_is_said_without_waiting(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher.cuda(), student=plain_student.cuda(), transform=Affine(), schedule=Alternating()
    )
    step(augmenter, images.cuda())
    bad = images.cuda()
    bad[0] = 3.0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for given in (bad, *[images.cuda()] * 14):
            augmenter(given)
            torch.cuda.synchronize()
            plain_student[1].weight.data.fill_(torch.inf)  # from now on no gradient is finite
    assert [str(one.message).partition(",")[0] for one in said] == [
        "an earlier batch held NaN",
        "the last 10 policy updates or more were dropped",
    ]
    with pytest.raises(ValueError, match="values outside"):
        augmenter.check()


def test_check_reports_bad_values(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = HardAugmenter(teacher=teacher.cuda(), student=plain_student.cuda(), transform=Affine())
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        augmenter(images.cuda() * 2)
    augmenter(images.cuda())
    augmenter.check()
    augmenter(images.cuda() * 2)
    with pytest.raises(ValueError, match="since the last check"):
        augmenter.check()
    augmenter.check()


def test_check_reports_a_vae_that_overflows(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    vae = HierarchicalVAE(size=12, blocks=((1, 1), (3, 1))).cuda()
    transform = HierarchicalLatent(vae, residual=False)
    augmenter = HardAugmenter(teacher=teacher.cuda(), student=plain_student.cuda(), transform=transform)
    augmenter(images.cuda())
    augmenter.check()
    with torch.no_grad():
        vae.head.bias.fill_(torch.inf)
    augmenter(images.cuda())
    with pytest.raises(FloatingPointError, match=r"since the last check the VAE \(HierarchicalVAE\)"):
        augmenter.check()
    augmenter.check()
    with pytest.raises(FloatingPointError, match=r"^the VAE \(HierarchicalVAE\)"):  # another shape
        augmenter(images[:3].cuda())


@pytest.mark.parametrize("schedule", [Alternating(), Threshold()])
def test_resume_is_bit_equal(teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any) -> None:
    images = images.cuda()
    first, second = (
        HardAugmenter(
            teacher=teacher.cuda(), student=plain_student.cuda(), transform=Affine(), schedule=schedule, seed=seed
        )
        for seed in (0, 1)
    )
    for _ in range(3):
        step(first, images)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images).u, second(images).u)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_updates_are_those_of_the_cpu(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    means = []
    for device in ("cpu", "cuda"):
        transform = Affine()
        augmenter = HardAugmenter(
            teacher=copy.deepcopy(teacher).to(device),
            student=copy.deepcopy(plain_student).to(device),
            transform=transform,
            policy=FromImages(transform.spec),
            schedule=schedule,
            exploration=Exploration(min_variance=None),
        )
        for _ in range(5):
            step(augmenter, images.to(device))
        means.append(augmenter.policy.mean.detach().cpu())
    assert bool(means[0].any())
    assert torch.allclose(means[0], means[1], atol=0.01)


def small_networks() -> tuple[nn.Module, nn.Module]:
    """Build networks for colour images of at least 8 pixels."""
    torch.manual_seed(4)
    networks = []
    for width in (16, 8):
        features = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        networks.append(nn.Sequential(features, nn.Linear(16 * width, 10)).cuda())
    return networks[0].eval(), networks[1]


GRAPHED: dict[str, Any] = {
    "steps": lambda: {"transform": Compose(Affine(), Color()), "schedule": Alternating(steps=2)},
    "threshold": lambda: {"transform": Compose(Affine(), Color()), "schedule": Threshold(max_steps=2)},
    "torch": lambda: {"transform": Compose(Affine(), Color()), "backend": "torch"},
    "elastic": lambda: {"transform": Compose(Affine(), Elastic(control=4)), "invariance": Constraint()},
    "keep rate": lambda: {"transform": Affine(), "invariance": KeepRate()},
    "conditional": lambda: {"transform": Affine(), "policy": Conditional(Affine().spec, channels=3)},
    "mixed": lambda: {"transform": Affine(), "exploration": Exploration(min_uniform_fraction=0.3)},
    "search": lambda: {
        "transform": Affine(),
        "policy": Search(Affine().spec, candidates=2, proposal=Gaussian(Affine().spec)),
    },
    "mix": lambda: {"transform": PatchMix(image_size=32, patch_size=8)},
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", GRAPHED)
def test_a_replayed_update_is_the_eager_update(name: str, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    teacher, student = small_networks()
    students = [student, copy.deepcopy(student)]
    plain, captured = (
        HardAugmenter(
            teacher=teacher, student=own, cuda_graph=cuda_graph, **{"schedule": Alternating(), **GRAPHED[name]()}
        )
        for own, cuda_graph in zip(students, (False, True), strict=True)
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for step_number in range(16):
        images = torch.rand(20 if step_number % 8 == 7 else 32, 3, 32, 32, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            hard, other = plain(images), captured(images)
            loss = hard.loss()
        assert torch.allclose(hard.u, other.u, atol=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # one student learns, and the other is updated in place
            for follower, leader in zip(students[1].parameters(), students[0].parameters(), strict=True):
                follower.copy_(leader)
    assert isinstance(captured._adversary.update, GraphedUpdate)
    assert captured._adversary.update.is_recorded
    assert captured.dropped_steps == 0


def test_a_replayed_step_does_not_synchronize() -> None:
    teacher, student = small_networks()
    augmenter = HardAugmenter(
        teacher=teacher,
        student=student,
        transform=Compose(Affine(), Color()),
        schedule=Alternating(),
        cuda_graph=True,
    )
    images = torch.rand(16, 3, 32, 32, device="cuda")
    for _ in range(8):
        step(augmenter, images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(augmenter, images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_network_that_synchronizes_cannot_be_captured() -> None:
    class Synchronizing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_networks()[1]

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images) * (1.0 if float(images.sum()) > 0 else 2.0)

    augmenter = HardAugmenter(
        teacher=small_networks()[0],
        student=Synchronizing(),
        transform=Affine(),
        schedule=Alternating(),
        cuda_graph=True,
    )
    images = torch.rand(8, 3, 16, 16, device="cuda")
    for _ in range(WARM_UP):
        augmenter(images)
    with pytest.raises(RuntimeError, match=r"cuda_graph=True: a policy update cannot be captured.*or leave it out"):
        augmenter(images)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert bool(torch.rand(4, device="cuda").isfinite().all())  # the global generator draws again
    augmenter._adversary.update = augmenter._adversary.update_policy
    assert bool(augmenter(images).u.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parity_at_224(dtype: torch.dtype) -> None:
    axis = torch.linspace(0, 6, 224, device="cuda")
    images = (0.5 + 0.25 * (axis[:, None] * axis).sin() + 0.2 * (2 * axis).cos()).expand(4, 3, -1, -1).to(dtype)
    transform = Compose(Affine(), Perspective(), Color())
    found = []
    for backend in ("torch", "triton"):
        u = torch.randn(4, transform.size, generator=torch.Generator().manual_seed(0)).cuda().requires_grad_()
        with use_backend(backend):
            out = transform.render(images, u)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).cuda()
        found.append((out.detach().float(), torch.autograd.grad((out.float() * weight).sum(), u)[0]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-3 if dtype == torch.float32 else 1e-2)
    assert float((found[0][1] - found[1][1]).abs().max() / found[0][1].abs().max()) < 1e-2


def test_launches() -> None:
    transform = Compose(Affine(), Color())
    images = torch.rand(8, 3, 32, 32, device="cuda")
    u = torch.randn(8, transform.size, device="cuda", requires_grad=True)

    def run() -> None:
        torch.autograd.grad(transform.render(images, u), u, torch.ones_like(images))

    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    launched = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    # Two kernels in the forward, two in the backward, and fills of the upstream gradient and of unused columns.
    assert len(launched) <= 6, launched


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    images = torch.rand(2, 3, 16, 16, device="cuda")
    identity = torch.eye(3, device="cuda").expand(2, 3, 3)
    out = warp_color(images, inverse_map=identity, dtype=torch.bfloat16, backend="triton")
    assert torch.equal(out, images.to(torch.bfloat16))
