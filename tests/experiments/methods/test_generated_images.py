"""Training on generated images: from a folder, generated against the student, interrupted, and by two processes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
from experiments import generate
from experiments.generation.generator import HardImageGenerator
from experiments.methods import generated_images
from experiments.runs import student as runs
from experiments.training.checkpoint import digest
from hard_aug.data import HardImages, ShardWriter
from tests.helpers.engine_parts import SMALL as SMALL_RUN
from tests.helpers.engine_parts import distil, small_config
from tests.helpers.generative_parts import accept_all, run_two_processes, write_models
from tests.helpers.hard_parts import generation_of
from tests.helpers.stops import StopAt

SMALL = ("data.canvas=32", "steps=4", "method.generation.steps=2", "method.generation.images=10")
#: Two epochs of the 3,500 training images, after each of which there is a new generation.
REFRESHED = (*SMALL, "method=generated", "method.refresh.every=1", "batch_size=1750", "log_every=1", "steps=5")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def distilled(models: Path) -> Path:
    return distil(models)


def run(models: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    given = (f"method.generation.models={models}", *overrides)
    return runs.run(small_config(models, "method=generated", *given), folder, quiet=True)


def student_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "student.pt", weights_only=True)
    return found


@pytest.mark.slow
def test_training_takes_a_folder_or_generates(
    models: Path, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_all(monkeypatch)
    sizes = ("generation.images=20", "generation.shard_size=10", "generation.steps=2", f"generation.models={models}")
    config = small_config(models, *sizes, f"student_from={distilled}", "data=mnist5k", name="generate")
    generate.run(config, tmp_path / "made", quiet=True)
    folder = f"method.folder={tmp_path}/made/images"
    fixed = [run(models, tmp_path / name, *SMALL, folder) for name in ("fixed", "again")]
    assert fixed[0]["student"]["accuracy"] == fixed[1]["student"]["accuracy"]
    assert "failure_metrics" not in fixed[0]
    run(models, tmp_path / "fresh", *SMALL, f"method.student_from={distilled}")
    states = [student_of(tmp_path / name)["model"] for name in ("fixed", "again", "fresh")]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


@pytest.mark.slow
def test_generations_are_made_against_the_student_and_a_stopped_run_ends_the_same(
    models: Path, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_all(monkeypatch)
    made: list[tuple[str, int]] = []
    call = HardImageGenerator.__call__

    def recorded(self: HardImageGenerator, student: nn.Module, indices: torch.Tensor, **unguided: Any) -> Any:
        if not unguided:
            made.append((digest(student), int(indices[0])))
        return call(self, student, indices, **unguided)

    monkeypatch.setattr(HardImageGenerator, "__call__", recorded)
    given = (*REFRESHED, f"method.student_from={distilled}", "checkpoint_every=100")
    record = run(models, tmp_path / "whole", *given)
    assert [index for _, index in made] == [0, 10, 20]
    assert len({student for student, _ in made}) == 3
    student = nn.Module()
    student.state_dict = lambda: student_of(distilled)["model"]  # type: ignore[method-assign]
    assert made[0][0] == digest(student)
    curves = [line.split(",") for line in (tmp_path / "whole" / "curves.csv").read_text().splitlines()]
    changes = [value for step, name, value in curves if name == "failure_metrics/rms_change"]
    assert len(changes) == 5
    assert len(set(changes)) == 3  # each generation has its own
    assert record["failure_metrics"]["rms_change"] == float(changes[0])
    assert record["failure_metrics"]["accepted"] == 1.0
    for checks in (4, 3):  # at the second step, the end of the first epoch, and later
        with monkeypatch.context() as patched:
            patched.setattr(runs, "defer_signals", lambda checks=checks: nullcontext(StopAt(checks)))
            with pytest.raises(KeyboardInterrupt):
                run(models, tmp_path / "parts", *given)
    run(models, tmp_path / "parts", *given)
    whole, parts = (student_of(tmp_path / name) for name in ("whole", "parts"))
    assert whole["method"]["generations"]["metrics"] == parts["method"]["generations"]["metrics"]
    assert len(whole["method"]["generations"]["metrics"]) == 3
    for key, value in whole["model"].items():
        assert torch.equal(value, parts["model"][key]), key


def test_a_generation_follows_an_epoch_without_a_better_accuracy(
    build: Any, teacher: nn.Module, plain_student: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[nn.Module] = []

    class Fake:
        def __init__(self, *_: Any, first: int) -> None:
            assert first == 1  # the folder's images are generation 0
            self.metrics: list[dict[str, float]] = []

        def __call__(self, student: nn.Module) -> HardImages:
            shown.append(student)
            return generation_of(len(shown), size=12, classes=5)

    monkeypatch.setattr(generated_images, "build_generations", Fake)
    accuracies = iter([0.5, 0.6, 0.6, 0.7])
    monkeypatch.setattr(generated_images, "accuracy", lambda model, part: next(accuracies))
    classes = ("a", "b", "c", "d", "e")
    ShardWriter(tmp_path, identity={}, classes=classes).write(0, generation_of(0, size=12, classes=5))
    given = (f"method.folder={tmp_path}", "method.refresh.patience=1", "batch_size=10")
    method = build("generated", teacher, plain_student, *given)
    counts = []
    for _ in range(8):  # of two in an epoch of 20 images
        method.batches.next()
        method.after_step()
        counts.append(len(shown))
    assert counts == [0, 0, 0, 0, 0, 0, 1, 1]  # after the third epoch
    assert shown == [plain_student]
    assert method.scalars() == {"hard_images": 40.0, "generations": 2.0}


@pytest.mark.slow
def test_two_processes_generate_and_train_on_one_pool(models: Path, distilled: Path, tmp_path: Path) -> None:
    more = ["method.refresh.patience=1", "method.generation.acceptance.resize=null", "method.generation.judge=false"]
    more += [
        "student._target_=tests.helpers.engine_parts.PlainStudent",
        "method.generation.images=40",
        "batch_size=1750",
    ]
    more += [f"method.generation.models={models}", "method=generated", *SMALL[:3]]
    plain = small_config(models, "data.canvas=32", "method=kd", more[3])
    runs.run(plain, tmp_path / "kd", quiet=True)
    more.append(f"method.student_from={tmp_path}/kd")
    one = small_config(models, *more)
    runs.run(one, tmp_path / "one", quiet=True)
    more += [f"hydra.run.dir={tmp_path}/two", f"teacher_cache={models}/teachers"]
    run_two_processes("experiments.train", *SMALL_RUN, *more)
    ours, theirs = (student_of(tmp_path / name) for name in ("one", "two"))
    assert ours["method"]["step"] == theirs["method"]["step"] == 4
    for key, value in ours["model"].items():
        assert torch.allclose(value, theirs["model"][key], atol=1e-5), key


def test_missing_parts_raise(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method\.folder=None and method\.student_from=None: expected one"):
        run(models, tmp_path / "none", *SMALL)
    with pytest.raises(FileNotFoundError, match="expected the folder of a finished run"):
        run(models, tmp_path / "elsewhere", *SMALL, f"method.student_from={tmp_path}/elsewhere")
    with pytest.raises(FileNotFoundError, match="no finished shard"):
        run(models, tmp_path / "empty", *SMALL, f"method.folder={tmp_path}/empty")
