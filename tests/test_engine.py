"""The training engine in one process: as it was, in micro-batches, in half precision, with a mean of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments import processes
from experiments.data import Part
from experiments.experiment import Experiment, identity
from experiments.methods import Distillation, Hard, Labels, Method, RandomViews
from experiments.stop import Stop
from experiments.train import run
from experiments.training import Batches, Settings, Training, memory_explained, progress_bar
from hard_aug import HardAugmenter
from hard_aug.schedules import Alternating, Joint
from hard_aug.transforms import Affine

CPU = torch.device("cpu")
STEPS = 12


def data() -> Part:
    generator = torch.Generator().manual_seed(5)
    return Part(torch.rand(64, 1, 12, 12, generator=generator), torch.arange(64) % 5)


def networks() -> tuple[nn.Module, nn.Module]:
    """A teacher, and a student with BatchNorm and dropout."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 5)
    )
    with torch.no_grad():
        teacher[-1].weight.mul_(10)
    return teacher.eval().requires_grad_(False), student


METHODS: dict[str, Callable[[nn.Module, nn.Module], Method]] = {
    "labels": lambda teacher, student: Labels(student),
    "kd": lambda teacher, student: Distillation(teacher, student, temperature=2.0),
    "random": lambda teacher, student: RandomViews(teacher, student, Affine(), temperature=2.0),
    "alternating": lambda teacher, student: Hard(
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Alternating())
    ),
    "joint": lambda teacher, student: Hard(
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Joint(fraction=0.5))
    ),
}


def trained(
    name: str, settings: Settings, *, steps: int = STEPS, stop_at: int | None = None, state: Any = None
) -> tuple[nn.Module, Method, Training, list[float]]:
    """Through the engine; from `state` on, up to `stop_at`."""
    teacher, student = networks()
    losses = []
    with processes.together(settings, CPU) as accelerator:
        network = processes.prepared(student)
        method = METHODS[name](teacher, network)
        training = Training(
            network, data(), steps=steps, batch_size=16, learning_rate=1e-2, seed=3, settings=settings,
            accelerator=accelerator,
        )  # fmt: skip
        if state is not None:
            training.load_state_dict(state[0])
            method.load_state_dict(state[1])
        for loss in training.run(method.loss, method.after_step):
            losses.append(float(loss))
            if training.step == stop_at:
                break
    return student, method, training, losses


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_by_default_it_is_the_plain_loop_to_the_last_bit(name: str) -> None:
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
    found, ours, _, losses = trained(name, Settings())
    assert losses == expected
    assert_same(found.state_dict(), student.state_dict())
    if isinstance(ours, Hard) and isinstance(method, Hard):
        assert_same(ours.augmenter.policy.state_dict(), method.augmenter.policy.state_dict())
        assert not torch.equal(ours.augmenter.policy.mean, torch.zeros(6))


@pytest.mark.parametrize("name", ["labels", "kd"])
def test_micro_batches_add_up_to_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a student without BatchNorm and dropout, and a method that draws nothing."""
    modules = networks

    def plain() -> tuple[nn.Module, nn.Module]:
        teacher, student = modules()
        return teacher, nn.Sequential(student[0], student[1], student[3], student[5])

    monkeypatch.setitem(globals(), "networks", plain)
    whole, _, _, losses = trained(name, Settings())
    parts, _, _, micro = trained(name, Settings(accumulate=4))
    assert micro == pytest.approx(losses, rel=1e-5)
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[key], atol=1e-5), key


@pytest.mark.parametrize("name", ["alternating", "joint"])
def test_the_policy_ascends_once_for_all_micro_batches(name: str) -> None:
    _, method, _, _ = trained(name, Settings(accumulate=2), steps=3)
    assert isinstance(method, Hard)
    optimizer = method.augmenter.state_dict()["optimizer"]["state"]
    ascents = {float(state["step"]) for state in optimizer.values()}
    assert ascents == {3.0 if name == "joint" else 6.0}  # Alternating ascends inside each call


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_trains_and_leaves_the_student_in_float32(name: str) -> None:
    exact, _, _, full = trained(name, Settings())
    student, _, _, losses = trained(name, Settings(precision="bf16"))
    assert losses != full
    assert losses == pytest.approx(full, rel=0.2, abs=0.05)
    assert {value.dtype for value in student.parameters()} == {torch.float32}
    assert student.eval()(data().images[:2]).dtype == torch.float32
    assert_same(student.state_dict(), copy.deepcopy(student).state_dict())
    assert not torch.equal(exact[1].weight, student[1].weight)


def test_a_mean_of_the_weights_is_what_is_kept() -> None:
    expected: dict[str, Tensor] = {}
    teacher, student = networks()
    method = METHODS["kd"](teacher, student)
    training = Training(student, data(), steps=6, batch_size=16, learning_rate=1e-2, seed=3)
    for _ in training.run(method.loss, method.after_step):
        for key, value in student.state_dict().items():
            if value.is_floating_point():
                expected[key] = value.clone() if key not in expected else 0.5 * expected[key] + 0.5 * value
    found, _, _, _ = trained("kd", Settings(ema=0.5), steps=6)
    for key, value in expected.items():
        assert torch.allclose(found.state_dict()[key], value, atol=1e-6), key
    assert not torch.equal(found[1].weight, student[1].weight)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("labels", Settings(ema=0.9)),
        ("random", Settings(accumulate=4)),
        ("joint", Settings()),
        ("joint", Settings(precision="bf16", accumulate=2, ema=0.5)),
    ],
)
@pytest.mark.parametrize("stop_at", [7, STEPS])
def test_a_state_holds_all_that_the_next_step_depends_on(
    name: str, settings: Settings, stop_at: int, tmp_path: Path
) -> None:
    whole, _, _, losses = trained(name, settings)
    _, method, training, first = trained(name, settings, stop_at=stop_at)
    torch.save((training.state_dict(), method.state_dict()), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, _, _, rest = trained(name, settings, state=state)
    assert first + rest == losses
    assert_same(resumed.state_dict(), whole.state_dict())


def config_of(tmp_path: Path, *overrides: str) -> DictConfig:
    small = ["steps=6", "batch_size=16", "teacher.steps=2", "teacher.batch_size=16", "threads=1", "log_every=2"]
    small += ["students=[kd]", f"teacher_cache={tmp_path}/teachers", "device=cpu"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", [*small, *overrides])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.precision=float64", "precision=float64: wanted one of no, bf16, fp16"),
        ("trainer.precision=fp16", "fp16 on a CPU: wanted bf16 or no"),
        ("trainer.accumulate=0", "accumulate=0: wanted a whole number of at least 1"),
        ("trainer.accumulate=1.5", r"accumulate=1\.5: wanted a whole number"),
        ("trainer.accumulate=3", "batch_size=16 .*accumulate=3: wanted a multiple of 3, such as batch_size=15"),
        ("trainer.ema=1.0", r"ema=1\.0: wanted a decay in \[0, 1\)"),
        ("trainer.ema=-0.1", r"ema=-0\.1"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(config_of(tmp_path, override), tmp_path / "run", quiet=True)
    assert not list(tmp_path.rglob("*.pt"))
    assert processes.accelerator() is None


def test_what_changes_the_outcome_is_in_the_identity_and_nothing_else_is(tmp_path: Path) -> None:
    plain = identity(config_of(tmp_path))
    assert not {"trainer", "logger"} & set(plain)  # runs of before the groups are theirs still
    assert identity(config_of(tmp_path, "logger=[csv]")) == plain
    assert identity(config_of(tmp_path, "trainer.precision=false")) == plain
    for option in ("trainer=bf16", "trainer.ema=0.9", "trainer.accumulate=2"):
        assert identity(config_of(tmp_path, option))["trainer"] != plain.get("trainer")


def test_runs_of_other_precision_follow_each_other_in_one_process(tmp_path: Path) -> None:
    found = {}
    for precision in ("bf16", "no", "bf16"):
        config = config_of(tmp_path, f"trainer.precision={precision}", "students=[kd,hard]", "steps=3")
        metrics = run(config, tmp_path / str(len(list(tmp_path.iterdir()))), quiet=True, pictures=False)
        values = {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in metrics["students"].items()}
        assert found.setdefault(precision, values) == values
        state = torch.load(sorted(tmp_path.glob("*/checkpoint.pt"))[-1], weights_only=True)
        assert list(state["finished"]) == ["kd", "hard"]


def test_without_the_engine_a_precision_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, "trainer=bf16")
    with progress_bar(quiet=True) as progress, pytest.raises(ValueError, match=r"precision=bf16: wanted no here"):
        Experiment(config, instantiate(config.data), tmp_path, progress, Stop())


def test_too_little_memory_names_the_knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(self: Method, images: Tensor, labels: Tensor) -> Tensor:
        return torch.empty(2**48)  # a petabyte: the CPU's allocator refuses it

    monkeypatch.setattr(Distillation, "loss", huge)
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size=16, raise trainer.accumulate=1, .*bf16") as error:
        run(config_of(tmp_path), tmp_path / "run", quiet=True)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="do this"), memory_explained("do this"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match=r"^shapes$") as error, memory_explained("do this"):
        raise RuntimeError("shapes")
    assert not isinstance(error.value, torch.OutOfMemoryError)


def test_alone_the_functions_of_processes_do_nothing() -> None:
    rows = torch.arange(3)
    assert processes.local(rows) is rows
    assert processes.agreed(True)
    assert not processes.agreed(False)
    assert processes.mean({"a": 0.1}) == {"a": 0.1}
    assert (processes.rank(), processes.count()) == (0, 1)
    processes.wait()
    with pytest.raises(KeyError, match="left"), processes.together(Settings(), CPU):
        raise KeyError("left")
    assert processes.accelerator() is None


def test_a_curve_is_of_the_network_that_is_kept(tmp_path: Path) -> None:
    config = config_of(tmp_path, "trainer.ema=0.9", "eval_every=2", "learning_rate=0.01")
    found = run(config, tmp_path / "run", quiet=True)["students"]["kd"]
    last = found["curve"][-1]
    assert {name: found[name] for name in ("centred", "shifted")} == {k: last[k] for k in ("centred", "shifted")}


def test_a_loss_that_is_not_finite_at_the_end_is_no_result(tmp_path: Path) -> None:
    config = config_of(tmp_path, "learning_rate=1e30", "students=[labels]")
    with pytest.raises(FloatingPointError, match="at step 6; lower learning_rate"):
        run(config, tmp_path / "run", quiet=True)


def test_memory_that_the_adversary_lacks_is_explained() -> None:
    teacher, student = networks()
    method = METHODS["joint"](teacher, student)
    training = Training(student, data(), steps=2, batch_size=16, learning_rate=1e-2, seed=3, memory="do this")

    def lacking() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="do this"):
        next(training.run(method.loss, lacking))


def test_sets_like_nothing_in_the_teacher_s_training(tmp_path: Path) -> None:
    config = config_of(tmp_path, "task=corruption", "task.images=50")
    assert run(config, tmp_path / "run", quiet=True)["novel_sets"] == ["contrast", "shear", "pixelate"]
    assert "novel_sets" not in run(config_of(tmp_path), tmp_path / "shift", quiet=True)
    with pytest.raises(ValueError, match=r"task\.novel=\['fog'\]: wanted some of noise, blur"):
        run(config_of(tmp_path, "task=corruption", "task.novel=[fog]"), tmp_path / "other", quiet=True)
