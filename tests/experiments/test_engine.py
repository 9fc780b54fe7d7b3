"""The training loop in one process: plain, with micro-batches, in half precision, and with averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.configuration.run import run_identity
from experiments.methods.base import Distillation, Hard, Method, RandomViews, Supervised
from experiments.runs.experiment import Experiment
from experiments.train import run
from experiments.training import distributed as processes
from experiments.training.interrupts import Stop
from experiments.training.loop import Batches, TrainerSettings, Training, explain_out_of_memory, progress_bar
from hard_aug import HardAugmenter
from hard_aug.data import ImageSet
from hard_aug.evaluation.network_evaluations import count_policy_updates
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine
from tests.helpers.engine_parts import use_few_digits

CPU = torch.device("cpu")
STEPS = 12


def data() -> ImageSet:
    generator = torch.Generator().manual_seed(5)
    return ImageSet(torch.rand(64, 1, 12, 12, generator=generator), torch.arange(64) % 5)


def networks() -> tuple[nn.Module, nn.Module]:
    """Return a teacher, and a student with BatchNorm and dropout."""
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 5)
    )
    with torch.no_grad():
        teacher[-1].weight.mul_(10)
    return teacher.eval().requires_grad_(False), student


METHODS: dict[str, Callable[[nn.Module, nn.Module], Method]] = {
    "supervised": lambda teacher, student: Supervised(student),
    "kd": lambda teacher, student: Distillation(teacher, student, temperature=2.0),
    "random": lambda teacher, student: RandomViews(teacher, student, Affine(), temperature=2.0),
    "alternating": lambda teacher, student: Hard(
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Alternating())
    ),
    "threshold": lambda teacher, student: Hard(
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Threshold(fraction=0.5))
    ),
}


def trained(
    name: str, settings: TrainerSettings, *, steps: int = STEPS, stop_at: int | None = None, state: Any = None
) -> tuple[nn.Module, Method, Training, list[float]]:
    """Train through the engine, from `state` to `stop_at`."""
    teacher, student = networks()
    losses = []
    with processes.distributed_training(settings, CPU) as accelerator:
        network = processes.prepare_model(student)
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
def test_the_default_is_bit_identical_to_a_plain_loop(name: str) -> None:
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
    found, ours, _, losses = trained(name, TrainerSettings())
    assert losses == expected
    assert_same(found.state_dict(), student.state_dict())
    if isinstance(ours, Hard) and isinstance(method, Hard):
        assert_same(ours.augmenter.policy.state_dict(), method.augmenter.policy.state_dict())
        assert not torch.equal(ours.augmenter.policy.mean, torch.zeros(6))


@pytest.mark.parametrize("name", ["supervised", "kd"])
def test_micro_batches_add_up_to_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a student without BatchNorm and dropout, and a method without random draws."""
    modules = networks

    def plain() -> tuple[nn.Module, nn.Module]:
        teacher, student = modules()
        return teacher, nn.Sequential(student[0], student[1], student[3], student[5])

    monkeypatch.setitem(globals(), "networks", plain)
    whole, _, _, losses = trained(name, TrainerSettings())
    parts, _, _, micro = trained(name, TrainerSettings(accumulate=4))
    assert micro == pytest.approx(losses, rel=1e-5)
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[key], atol=1e-5), key


def test_the_policy_is_updated_for_each_micro_batch() -> None:
    _, method, _, _ = trained("alternating", TrainerSettings(accumulate=2), steps=3)
    assert isinstance(method, Hard)
    assert count_policy_updates(method.augmenter) == 6


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_trains_and_leaves_the_student_in_float32(name: str) -> None:
    exact, _, _, full = trained(name, TrainerSettings())
    student, _, _, losses = trained(name, TrainerSettings(precision="bf16"))
    assert losses != full
    assert losses == pytest.approx(full, rel=0.2, abs=0.05)
    assert {value.dtype for value in student.parameters()} == {torch.float32}
    assert student.eval()(data().images[:2]).dtype == torch.float32
    assert_same(student.state_dict(), copy.deepcopy(student).state_dict())
    assert not torch.equal(exact[1].weight, student[1].weight)


def test_the_averaged_weights_are_the_result() -> None:
    expected: dict[str, Tensor] = {}
    teacher, student = networks()
    method = METHODS["kd"](teacher, student)
    training = Training(student, data(), steps=6, batch_size=16, learning_rate=1e-2, seed=3)
    for _ in training.run(method.loss, method.after_step):
        for key, value in student.state_dict().items():
            if value.is_floating_point():
                expected[key] = value.clone() if key not in expected else 0.5 * expected[key] + 0.5 * value
    found, _, _, _ = trained("kd", TrainerSettings(ema=0.5), steps=6)
    for key, value in expected.items():
        assert torch.allclose(found.state_dict()[key], value, atol=1e-6), key
    assert not torch.equal(found[1].weight, student[1].weight)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("supervised", TrainerSettings(ema=0.9)),
        ("random", TrainerSettings(accumulate=4)),
        ("threshold", TrainerSettings()),
        ("alternating", TrainerSettings(precision="bf16", accumulate=2, ema=0.5)),
    ],
)
@pytest.mark.parametrize("stop_at", [7, STEPS])
def test_the_state_contains_everything_that_the_next_step_depends_on(
    name: str, settings: TrainerSettings, stop_at: int, tmp_path: Path
) -> None:
    whole, _, _, losses = trained(name, settings)
    _, method, training, first = trained(name, settings, stop_at=stop_at)
    torch.save((training.state_dict(), method.state_dict()), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, _, _, rest = trained(name, settings, state=state)
    assert first + rest == losses
    assert_same(resumed.state_dict(), whole.state_dict())


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def config_of(tmp_path: Path, *overrides: str) -> DictConfig:
    small = ["steps=6", "batch_size=16", "teacher.steps=2", "teacher.batch_size=16", "threads=1", "log_every=2"]
    small += ["students=[kd]", f"teacher_cache={tmp_path}/teachers", "device=cpu"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", [*small, *overrides])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.precision=float64", "precision=float64: expected one of no, bf16, fp16"),
        ("trainer.precision=fp16", "fp16 on a CPU: expected bf16 or no"),
        ("trainer.accumulate=0", "accumulate=0: expected an integer >= 1"),
        ("trainer.accumulate=1.5", r"accumulate=1\.5: expected an integer"),
        ("trainer.accumulate=3", "batch_size=16 .*accumulate=3: expected a multiple of 3, such as batch_size=15"),
        ("trainer.ema=1.0", r"ema=1\.0: expected a decay in \[0, 1\)"),
        ("trainer.ema=-0.1", r"ema=-0\.1"),
    ],
)
def test_invalid_settings_raise_before_any_training(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(config_of(tmp_path, override), tmp_path / "run", quiet=True)
    assert not list(tmp_path.rglob("*.pt"))
    assert processes.accelerator() is None


def test_the_identity_contains_exactly_what_changes_the_outcome(tmp_path: Path) -> None:
    plain = run_identity(config_of(tmp_path))
    assert not {"trainer", "logger"} & set(plain)  # absent at their defaults
    assert run_identity(config_of(tmp_path, "logger=[csv]")) == plain
    assert run_identity(config_of(tmp_path, "trainer.precision=false")) == plain
    for option in ("trainer=bf16", "trainer.ema=0.9", "trainer.accumulate=2"):
        assert run_identity(config_of(tmp_path, option))["trainer"] != plain.get("trainer")


@pytest.mark.slow
def test_runs_with_different_precisions_in_one_process(tmp_path: Path) -> None:
    found = {}
    for precision in ("bf16", "no", "bf16"):
        config = config_of(tmp_path, f"trainer.precision={precision}", "students=[kd,hard]", "steps=3")
        metrics = run(config, tmp_path / str(len(list(tmp_path.iterdir()))), quiet=True, figures=False)
        values = {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in metrics["students"].items()}
        assert found.setdefault(precision, values) == values
        state = torch.load(sorted(tmp_path.glob("*/checkpoint.pt"))[-1], weights_only=True)
        assert list(state["finished"]) == ["kd", "hard"]


def test_a_precision_requires_distributed_training(tmp_path: Path) -> None:
    config = config_of(tmp_path, "trainer=bf16")
    with progress_bar(quiet=True) as progress, pytest.raises(ValueError, match=r"precision=bf16: expected no outside"):
        Experiment(config, instantiate(config.data), tmp_path, progress, Stop())


def test_out_of_memory_errors_name_the_settings_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(self: Method, images: Tensor, labels: Tensor) -> Tensor:
        return torch.empty(2**48)  # a petabyte: the CPU's allocator fails

    monkeypatch.setattr(Distillation, "loss", huge)
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size=16, raise trainer.accumulate=1, .*bf16") as error:
        run(config_of(tmp_path), tmp_path / "run", quiet=True)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_other_errors_are_unchanged() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="do this"), explain_out_of_memory("do this"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match=r"^shapes$") as error, explain_out_of_memory("do this"):
        raise RuntimeError("shapes")
    assert not isinstance(error.value, torch.OutOfMemoryError)


def test_in_one_process_collectives_are_no_ops() -> None:
    rows = torch.arange(3)
    assert processes.local_rows(rows) is rows
    assert processes.any_process(True)
    assert not processes.any_process(False)
    assert processes.all_reduce_mean({"a": 0.1}) == {"a": 0.1}
    assert (processes.rank(), processes.world_size()) == (0, 1)
    processes.barrier()
    with pytest.raises(KeyError, match="left"), processes.distributed_training(TrainerSettings(), CPU):
        raise KeyError("left")
    assert processes.accelerator() is None


def test_the_curve_uses_the_averaged_weights(tmp_path: Path) -> None:
    config = config_of(tmp_path, "trainer.ema=0.9", "eval_every=2", "learning_rate=0.01")
    found = run(config, tmp_path / "run", quiet=True)["students"]["kd"]
    last = found["curve"][-1]
    assert {name: found[name] for name in ("clean", "shifted")} == {k: last[k] for k in ("clean", "shifted")}


def test_a_non_finite_loss_at_the_end_raises(tmp_path: Path) -> None:
    config = config_of(tmp_path, "learning_rate=1e30", "students=[supervised]")
    with pytest.raises(FloatingPointError, match="at step 6; lower learning_rate"):
        run(config, tmp_path / "run", quiet=True)


def test_out_of_memory_after_the_step_is_explained() -> None:
    teacher, student = networks()
    method = METHODS["alternating"](teacher, student)
    training = Training(student, data(), steps=2, batch_size=16, learning_rate=1e-2, seed=3, memory_advice="do this")

    def lacking() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="do this"):
        next(training.run(method.loss, lacking))


def test_held_out_corruptions_are_in_the_results(tmp_path: Path) -> None:
    config = config_of(tmp_path, "task=corruption", "task.images=50")
    assert run(config, tmp_path / "run", quiet=True)["held_out_corruptions"] == ["contrast", "shear", "pixelate"]
    assert "held_out_corruptions" not in run(config_of(tmp_path), tmp_path / "shift", quiet=True)
    with pytest.raises(ValueError, match=r"task\.held_out_corruptions=\['fog'\]: expected some of noise, blur"):
        run(config_of(tmp_path, "task=corruption", "task.held_out_corruptions=[fog]"), tmp_path / "other", quiet=True)
