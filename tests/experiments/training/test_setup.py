"""Data, teacher and untrained student of a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from experiments.data.batches import Batches
from experiments.tasks import Shift
from experiments.training import setup as module
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug.data import Splits
from tests.helpers.engine_parts import small_config, use_few_digits


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def setup(folder: Path, *overrides: str) -> Setup:
    config = small_config(folder, *overrides)
    return Setup(config, instantiate(config.data), Progress(quiet=True), Stop())


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


def differ(ours: nn.Module, theirs: nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_data_and_the_test_sets(tmp_path: Path) -> None:
    made = setup(tmp_path)
    assert made.shape == (1, 28, 28)
    assert isinstance(made.task, Shift)
    assert list(made.sets) == ["clean", "shifted", "uniform"]
    assert len(made.sets["clean"]) == 120
    assert made.sets["clean"].images.equal(made.splits.test.images)
    shifted = made.task.sets(made.splits.validation)["shifted"]
    assert made.validation.images.equal(shifted.images)
    batches = made.batches("teacher", made.splits.train[slice(0, 10)], 16, 3)
    assert isinstance(batches, Batches)
    assert batches.batch_size == 10


def test_images_that_are_not_square_raise(tmp_path: Path) -> None:
    made = setup(tmp_path)
    parts = (getattr(made.splits, name) for name in ("train", "validation", "test"))
    wide = Splits(*(type(part)(part.images[..., :20], part.labels) for part in parts), made.splits.classes)
    with pytest.raises(ValueError, match=r"images of 28 x 20: expected square images; set data\.canvas"):
        Setup(made.config, wide, made.progress, made.stop)


def test_a_teacher_is_trained_once_for_its_settings(tmp_path: Path) -> None:
    teacher, found = setup(tmp_path).teacher()
    assert not found
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    same = ["steps=9", "method=kd", "student=conv", "threads=1", "learning_rate=1", "batch_size=8", "temperature=9"]
    again, found = setup(tmp_path, *same).teacher()
    assert found
    assert_same(teacher, again)
    for other in ("seed=1", "teacher.steps=3", "teacher.train_shift=0", "data.fraction=0.5"):
        another, found = setup(tmp_path, other).teacher()
        assert not found, other
        assert differ(teacher, another), other
    judge, found = setup(tmp_path).teacher(other=True)
    assert not found
    assert differ(teacher, judge)


def test_a_teacher_of_other_data_than_the_student_s(tmp_path: Path) -> None:
    few, whole = "data.fraction=0.1", "teacher.data={fraction:1.0}"
    teacher, _ = setup(tmp_path).teacher()
    mixed = setup(tmp_path, few, whole)
    assert len(mixed.splits.train) == pytest.approx(350, abs=10)
    loaded, found = mixed.teacher()
    assert found
    assert_same(teacher, loaded)
    retrained, found = setup(tmp_path / "new", few, whole).teacher()
    assert not found
    assert_same(teacher, retrained)
    assert differ(teacher, setup(tmp_path, few).teacher()[0])


def test_a_teacher_from_weights_is_not_trained(tmp_path: Path) -> None:
    teacher, _ = setup(tmp_path).teacher()
    torch.save(teacher.state_dict(), tmp_path / "weights.pt")
    ready = setup(tmp_path / "new", f"teacher.weights={tmp_path}/weights.pt")
    loaded, found = ready.teacher()
    assert found
    assert_same(teacher, loaded)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"second teacher, .*this one is not trained; .*failure_metrics\.judge=false"):
        ready.teacher(other=True)
    with pytest.raises(ValueError, match=r"second teacher"):
        setup(tmp_path, "teacher.steps=0").teacher(other=True)


def test_a_teacher_of_other_classes_raises(tmp_path: Path) -> None:
    wrong = "+teacher.model.classes=7"
    message = "the teacher has 7 classes and mnist5k has 10; .*teacher.steps=2000"
    with pytest.raises(ValueError, match=message):
        setup(tmp_path, wrong, "teacher.steps=0").teacher()


def test_the_record_of_a_teacher(tmp_path: Path) -> None:
    made = setup(tmp_path)
    teacher, record = made.teacher_record()
    assert list(record) == ["accuracy", "seconds", "cached", "multiply_adds"]
    assert record["accuracy"] == made.evaluate(teacher)
    assert (record["cached"], record["multiply_adds"]) == (False, 1741312)
    assert record["seconds"] > 0


def test_a_teacher_that_guesses_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = setup(tmp_path)
    made._warn_of_a_guessing_teacher("clean", 0.5)
    assert not caplog.messages
    _, record = setup(tmp_path / "untrained", "teacher.steps=0").teacher_record()
    accuracy = 100 * next(iter(record["accuracy"].values()))
    assert caplog.messages[-1].startswith(f"the teacher's accuracy on clean is {accuracy:.1f} %, that of a guess")


def test_students_start_equal_for_all_methods_of_a_seed(tmp_path: Path) -> None:
    made = setup(tmp_path)
    teacher, _ = made.teacher()
    first = made.student(teacher)
    assert_same(first, setup(tmp_path, "method=kd", "steps=9").student(teacher))
    assert all(parameter.requires_grad for parameter in first.parameters())
    for other in (setup(tmp_path, "seed=1").student(teacher), made.student(teacher, other=True)):
        assert differ(first, other)


def test_a_student_can_start_from_a_plain_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initial = "initial={steps:3,batch_size:16,learning_rate:0.01}"
    made = setup(tmp_path, initial)
    teacher, _ = made.teacher()
    started = made.student(teacher)
    assert differ(started, setup(tmp_path).student(teacher))
    assert all(parameter.requires_grad for parameter in started.parameters())
    monkeypatch.setattr(module, "fit", None)  # it is loaded from here on
    assert_same(started, setup(tmp_path, initial, "method=kd", "steps=9", "learning_rate=1").student(teacher))


def test_a_trained_student_of_other_data_or_another_network_raises(tmp_path: Path) -> None:
    made = setup(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no .*student\.pt: expected the folder of a finished run"):
        made.trained_student(tmp_path)
    network = made.network(made.config.student, 3)
    kept = {"config": module.run_identity(made.config), "model": network.state_dict()}
    torch.save(kept, tmp_path / "student.pt")
    loaded = made.trained_student(tmp_path)
    assert_same(network, loaded)
    assert not loaded.training
    for override, part in (("data.fraction=0.5", "data"), ("student=conv", "student")):
        with pytest.raises(ValueError, match=rf"student\.pt has {part}=.*, here it is .*; expected the same"):
            setup(tmp_path, override).trained_student(tmp_path)
