"""A `HardAugmenter` around networks of every kind: it works and leaves them as they were, or says what hinders it."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.utils._python_dispatch import TorchDispatchMode

from hard_aug import HardAugmenter, Normalized
from hard_aug.objectives import Penalty
from hard_aug.policies import Gaussian, Policy, Search, Uniform
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Color, Compose, Context, Transform

CLASSES = 5
TORCH = ("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch")


def images(count: int = 8, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def network(classes: int = CLASSES, seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, classes))


def augmenter(teacher: nn.Module, student: nn.Module, **settings: Any) -> HardAugmenter:
    return HardAugmenter(teacher=teacher, student=student, **{"transform": Affine(), **settings})


class Probe(nn.Module):
    """A linear probe: a body that has no gradients, and a head that has."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(), nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)  # type: ignore[no-any-return]  # a tensor


class Start(nn.Module):
    """A network that does something to its images first."""

    def __init__(self, start: Callable[[Tensor], Any], seed: int = 1) -> None:
        super().__init__()
        self.start, self.network = start, network(seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.start(x))  # type: ignore[no-any-return]  # a tensor


# Gradients that do not reach the images ------------------------------------------------------------------------------

SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "default": lambda: {},
    "penalty": lambda: {"invariance": Penalty(10_000.0)},
    "joint": lambda: {"schedule": Joint()},
    "threshold": lambda: {"schedule": Threshold()},
    "ascent": lambda: {"policy": Search(Affine().spec, candidates=1, steps=1)},
    "search of a learner": lambda: {"policy": Search(Affine().spec, proposal=Gaussian(Affine().spec))},
}


@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_linear_probe_is_refused_at_the_first_call(name: str, settings: str) -> None:
    networks = {"teacher": network().eval(), "student": network(seed=2)}
    made = augmenter(**networks | {name: Probe()}, **SETTINGS[settings]())
    before = made.state_dict()
    with pytest.raises(ValueError, match=f"the {name}'s logits carry no gradient.*policy=Search"):
        made(images())
    assert made.state_dict()["calls"] == before["calls"] == 0
    assert torch.equal(made.state_dict()["generator"], before["generator"])


@pytest.mark.parametrize("policy", [Search(Affine().spec, candidates=2), Uniform(Affine().spec)])
def test_what_needs_no_gradient_takes_a_linear_probe(policy: Policy) -> None:
    made = augmenter(Probe().eval(), network(), policy=policy)
    hard = made(images())
    hard.loss().backward()
    assert not torch.equal(hard.images, hard.clean_images)


@pytest.mark.filterwarnings(*TORCH)
def test_an_int8_student() -> None:
    student = quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)), {nn.Linear})
    with pytest.raises(ValueError, match=r"student.*\(int8\).*policy=Search\(transform.spec\)"):
        augmenter(network().eval(), student)(images())
    policy = Search(Affine().spec, candidates=4)
    made = augmenter(network().eval(), student, policy=policy, invariance=Penalty(0.0))
    hard = made(images())
    assert float(hard.disagreement.mean()) > float(
        augmenter(network().eval(), student, policy=Uniform(Affine().spec))(images()).disagreement.mean()
    )


def test_a_student_that_starts_at_zero_learns_first() -> None:
    student = network()
    nn.init.zeros_(student[-1].weight)
    with pytest.raises(ValueError, match=r"student.*exactly zero for every image.*warmup_calls=1"):
        augmenter(network().eval(), student)(images())
    made = augmenter(network().eval(), student, warmup_calls=1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        made(images()).loss().backward()
        optimizer.step()


class Rounding(Transform):
    """A shift of brightness in whole steps."""

    def __init__(self, render: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = Color(contrast=None, saturation=None, hue=None)
        self.change = render

    @property
    def spec(self) -> Any:
        return self.inner.spec

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return self.change(images, u)


def shifted(images: Tensor, u: Tensor) -> Tensor:
    return (images + 0.1 * u[:, :1, None, None].tanh()).clamp(0, 1)


def test_a_transform_without_a_gradient_is_named() -> None:
    made = augmenter(network().eval(), network(seed=2), transform=Rounding(lambda x, u: shifted(x, u.detach())))
    with pytest.raises(ValueError, match=r"images made by Rounding.*Search\(transform\.spec\)"):
        made(images())
    made = augmenter(
        network().eval(),
        network(seed=2),
        transform=Rounding(lambda x, u: shifted(x, (3 * u).round() / 3)),
        schedule=Alternating(),
    )
    made(images())
    made(images())
    with pytest.warns(UserWarning, match="first 3 gradients of the policy are exactly zero.*Rounding.*does it round"):
        made(images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(images())  # once


def test_a_policy_without_a_gradient_is_named() -> None:
    class Cut(Gaussian):
        def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
            return super().sample(images, generator).detach()

    with pytest.raises(ValueError, match="the draws of Cut carry no gradient to its parameters"):
        augmenter(network().eval(), network(seed=2), policy=Cut(Affine().spec))(images())


# Logits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_one_logit_is_refused(name: str) -> None:
    networks = {"teacher": network().eval(), "student": network(seed=2)} | {name: network(1)}
    with pytest.raises(
        ValueError, match=rf"the {name} returned.*two classes.*torch\.cat\(\(torch\.zeros_like\(z\), z\)"
    ):
        augmenter(**networks)(images())


def test_masked_classes_are_named_and_work_with_finite_logits() -> None:
    class Masked(nn.Module):
        def __init__(self, mask: float) -> None:
            super().__init__()
            self.network, self.mask = network(), mask

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x).masked_fill(torch.arange(CLASSES) == 1, self.mask)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"the teacher returned 8 logits of -inf.*use -1e4"):
        augmenter(Masked(-torch.inf).eval(), network(seed=2))(images())
    made = augmenter(Masked(-1e4).eval(), network(seed=2))
    loss = made(images()).loss()
    loss.backward()
    assert bool(loss.isfinite())
    assert made.dropped_steps == 0


def test_a_fresh_student_with_statistics_that_do_not_fit() -> None:
    """Its running statistics are those of no images: without a warm-up it may overflow."""
    student = network()
    with torch.no_grad():
        student[0].weight.mul_(1e20)
        student[-1].weight.mul_(1e20)
    with pytest.raises(ValueError, match=r"running statistics.*warmup_calls=100"):
        augmenter(network().eval(), student, batch_norm="frozen")(images())
    augmenter(network().eval(), student, batch_norm="frozen", warmup_calls=1)


# What comes in stays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [lambda x: x.sub_(0.5), lambda x: (x.data.sub_(0.5), x)[1], nn.ReLU(inplace=True), nn.Hardtanh(0, 1, True)]
)
@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_networks_that_write_into_their_input(start: Any, name: str, schedule: Any) -> None:
    changes = not isinstance(start, nn.Module)
    networks = {"teacher": network().eval(), "student": network(seed=2)}
    seed = {"teacher": 1, "student": 2}[name]
    writing = Start(start, seed).train(name == "student")
    plain = Start(lambda x: x - 0.5 if changes else x * 1, seed).train(name == "student")
    found, expected = (augmenter(**networks | {name: one}, schedule=schedule) for one in (writing, plain))
    for call in range(3):
        given = images(8 if call else 4)
        kept = given.clone()
        hard, other = found(given), expected(given)
        assert torch.equal(given, kept)
        assert torch.equal(hard.clean_images, kept)
        assert torch.allclose(hard.images, other.images, atol=1e-5)
        assert torch.allclose(hard.teacher_logits, other.teacher_logits, atol=1e-5)
        shown = hard.images.clone()
        for batch in (hard, other):
            batch.loss().backward()
        assert torch.equal(given, kept)
        assert torch.equal(hard.images, shown)


def test_a_student_that_writes_in_a_warm_up() -> None:
    """The loss is of the caller's own tensor then."""
    student = Start(lambda x: x.sub_(0.5)).train()
    made, given = augmenter(network().eval(), student, warmup_calls=5), images()
    for _ in range(3):
        made(given).loss().backward()
        assert torch.equal(given, images())


def test_statistics_of_a_networks_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.register_buffer("mean", torch.zeros(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            self.mean.lerp_(x.detach().mean((0, 2, 3))[:, None, None], 0.1)
            return self.network(x - self.mean)  # type: ignore[no-any-return]  # a tensor

    teacher, student = Own().eval(), Own().train()
    made = augmenter(teacher, student, schedule=Alternating())
    for _ in range(2):
        made(images())
        assert not bool(teacher.mean.any())
        assert not bool(student.mean.any())


@pytest.mark.filterwarnings(*TORCH)
@pytest.mark.parametrize("kind", ["qat", "qat eager", "observers"])
def test_students_prepared_for_quantisation(kind: str) -> None:
    student: nn.Module = network().train(kind != "observers")
    if kind == "qat":
        student = quantize_fx.prepare_qat_fx(student, quantization.get_default_qat_qconfig_mapping("x86"), (images(),))
    elif kind == "observers":
        student = quantize_fx.prepare_fx(student, quantization.get_default_qconfig_mapping("x86"), (images(),))
    else:
        student = nn.Sequential(quantization.QuantStub(), student, quantization.DeQuantStub()).train()
        student.qconfig = quantization.get_default_qat_qconfig("x86")  # type: ignore[assignment]  # torch's way
        student = quantization.prepare_qat(student)
    student(images())
    before = {name: value.clone() for name, value in student.state_dict().items()}
    made = augmenter(network(seed=2).eval(), student)
    start = {name: value.clone() for name, value in made.policy.state_dict().items()}
    made(images() / 2)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert any(not torch.equal(value, start[name]) for name, value in made.policy.state_dict().items())


# Kinds of networks and images ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(*TORCH)
@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_torchscript_teachers(kind: str) -> None:
    plain = network().eval()
    teacher = torch.jit.trace(plain, images()) if kind == "trace" else torch.jit.script(plain)
    if kind == "freeze":
        teacher = torch.jit.freeze(teacher)
    found, expected = augmenter(teacher, network(seed=2)), augmenter(plain, network(seed=2))
    for _ in range(2):
        assert torch.allclose(found(images()).images, expected(images()).images, atol=1e-3)


def test_threads_with_a_teacher_in_common() -> None:
    teacher = Start(lambda x: (time.sleep(0.002), x)[1]).train()  # threads take turns in its forward
    teacher(images())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    found: dict[int, list[Tensor]] = {}

    def train(seed: int) -> None:
        made = augmenter(teacher, students[seed], seed=seed)
        found[seed] = [made(images()).images for _ in range(6)]

    students = {seed: network(seed=seed) for seed in range(4)}
    twins = {seed: network(seed=seed) for seed in range(4)}
    threads = [threading.Thread(target=train, args=(seed,)) for seed in students]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    for seed, student in twins.items():
        made = augmenter(teacher, student, seed=seed)
        assert all(torch.equal(made(images()).images, one) for one in found[seed])


class NoFloat64(TorchDispatchMode):
    """A device without float64, as MPS."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert not (isinstance(out, Tensor) and out.dtype == torch.float64), func
        return out


@pytest.mark.parametrize("schedule", [Alternating(), Threshold(), Joint()])
@pytest.mark.parametrize("policy", [None, Search(Affine().spec, candidates=2, steps=1)])
def test_nothing_takes_float64(schedule: Any, policy: Policy | None) -> None:
    if policy is not None and not isinstance(schedule, Alternating):
        pytest.skip("a search has nothing to schedule")
    made = augmenter(network().eval(), network(seed=2), policy=policy, schedule=schedule)
    with NoFloat64():
        for _ in range(2):
            hard = made(images())
            hard.loss().backward()
            assert float(hard.disagreement.mean()) >= 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images().permute(0, 2, 3, 1), r"images \(8, 16, 16, 3\).*channels last.*permute\(0, 3, 1, 2\)"),
        (images(channels=1), r"takes 3 channels, and they have 1; use images\.expand"),
        (images().double(), r"float64: its weights are torch\.float32; use images\.to\(torch\.float32\)"),
        (images().half(), r"float16: its weights are torch\.float32; use images\.to\(torch\.float32\)"),
    ],
)
def test_images_that_networks_do_not_take(given: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmenter(network().eval(), network(seed=2), transform=Compose(Affine(), Color(saturation=None, hue=None)))(
            given
        )


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_a_wrapper_inside_the_student_runs_in_the_loss_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forward waits for other processes, and prepares it for a backward."""
    calls: list[int] = []
    forward = nn.parallel.DistributedDataParallel.forward
    counted: Any = lambda self, x: (calls.append(len(x)), forward(self, x))[1]  # noqa: E731
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "forward", counted)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        student = Normalized(nn.parallel.DistributedDataParallel(network(seed=2)), (0.5,) * 3, (0.5,) * 3)
        made = augmenter(network().eval(), student)
        for call in range(3):
            hard = made(images())
            assert bool(hard.disagreement.isfinite().all())
            assert len(calls) == call
            hard.loss().backward()
            assert calls[call:] == [16]
    finally:
        torch.distributed.destroy_process_group()
