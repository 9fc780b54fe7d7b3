"""Second views of other images: real ones, and a pool that grows; tiny models, the embedded digits on backgrounds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
from experiments.generation.generator import HardImageGenerator
from experiments.methods import Pool, image_pool
from experiments.runs import student as runs
from experiments.training.checkpoint import digest
from experiments.training.interrupts import Stop
from hard_aug.data import HardImages
from tests.helpers.engine_parts import small_config
from tests.helpers.generative_parts import accept_all, write_models
from tests.helpers.hard_parts import generation_of

SPURIOUS = (
    "experiment=spurious",
    "data.name=mnist5k",
    "data.classes=[0,1,2]",
    "data.families=3",
    "data.test_images=20",
    "student.width=4",
    "initial.steps=2",
    "initial.batch_size=8",
    "batch_size=8",
)
POOL = (
    *SPURIOUS,
    "method=pool",
    "method.refresh_every=2",
    "method.generation.images=12",
    "method.generation.batch_size=4",
    "method.generation.steps=2",
    "checkpoint_every=2",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"), channels=3, classes=3)


def run(models: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    return runs.run(small_config(models, f"generation.models={models}", *overrides), folder, quiet=True)


def student_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "student.pt", weights_only=True)
    return found


@pytest.mark.slow
def test_a_pool_grows_against_the_current_student_and_resumes(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_all(monkeypatch)
    made: list[tuple[int, str]] = []
    generate = HardImageGenerator.__call__

    def recorded(self: HardImageGenerator, student: Any, indices: torch.Tensor, **unguided: Any) -> Any:
        if not unguided:
            made.append((int(indices[0]), digest(student)))
        return generate(self, student, indices, **unguided)

    monkeypatch.setattr(HardImageGenerator, "__call__", recorded)
    record = run(models, tmp_path / "whole", *POOL)
    assert [index for index, _ in made] == list(range(0, 36, 4))  # three generations of 12, at steps 0, 2 and 4
    assert [len({student for _, student in made[n : n + 3]}) for n in (0, 3, 6)] == [1, 1, 1]
    assert len({student for _, student in made}) == 3
    assert record["student"]["accuracy"].keys() >= {"in_distribution", "absent_groups", "worst_group", "mean_group"}
    assert record["main"] == "worst_group"
    metrics = record["failure_metrics"]
    assert metrics.keys() >= {"judge_consistency", "saturated", "rms_change", "seconds_per_image", "generation_seconds"}
    assert metrics["accepted"] == 1.0
    assert metrics["evaluations_per_image"] > 2 * 3 + 1  # of the denoiser, more often in the guided half
    whole = student_of(tmp_path / "whole")
    assert len(whole["method"]["pool"]["images"]["images"]) == 36

    made.clear()
    steps: list[int] = []
    after_step = Pool.after_step
    monkeypatch.setattr(Pool, "after_step", lambda self: (after_step(self), steps.append(self._step)))
    for stop in (StopWhen(lambda: len(made) == 5), StopWhen(lambda: steps[-1] == 3)):  # in a generation, in a round
        with monkeypatch.context() as patched:
            patched.setattr(runs, "defer_signals", lambda stop=stop: nullcontext(stop))
            with pytest.raises(KeyboardInterrupt):
                run(models, tmp_path / "parts", *POOL)
    again = run(models, tmp_path / "parts", *POOL)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [index for index, _ in made] == [0, 4, 8, 12, 16, 12, 16, 20, 24, 28, 32]  # that generation starts anew
    parts = student_of(tmp_path / "parts")
    for key, value in whole["model"].items():
        assert torch.equal(value, parts["model"][key]), key
    assert torch.equal(whole["method"]["pool"]["images"]["images"], parts["method"]["pool"]["images"]["images"])
    assert whole["method"]["generations"]["metrics"] == parts["method"]["generations"]["metrics"]
    assert again["student"]["accuracy"] == record["student"]["accuracy"]


class StopWhen(Stop):
    """A stop that is requested when a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition = condition

    @property
    def requested(self) -> bool:  # type: ignore[override]  # computed here, a plain attribute there
        return self.condition()


class FakeGenerations:
    """Generations whose images have a known value each."""

    accepted = True

    def __init__(self, *_: Any) -> None:
        self.count = 0

    def __call__(self, student: Any) -> HardImages:
        self.count += 1
        images = generation_of(self.count, size=12, classes=5)
        images.accepted[:] = self.accepted
        return images


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeGenerations]:
    monkeypatch.setattr(image_pool, "build_generations", FakeGenerations)
    monkeypatch.setattr(FakeGenerations, "accepted", True)
    return FakeGenerations


@pytest.mark.usefixtures("fake")
def test_views_are_drawn_from_all_generations(build: Any, teacher: nn.Module, student: nn.Module) -> None:
    pool = build("pool", teacher, student, "method.refresh_every=2")
    images, labels = torch.rand(40, 1, 12, 12), torch.arange(40) % 5
    shown = []
    for _ in range(5):
        shown.append(sorted({round(255 * float(value)) for value in pool.second_view(images, labels).unique()}))
        pool.after_step()
    assert shown == [[201], [201], [201, 202], [201, 202], [201, 202, 203]]
    assert pool.scalars() == {"hard_images": 60.0}
    assert pool.loss(images, labels).item() > 0


def test_a_pool_without_an_accepted_image_raises(
    build: Any, teacher: nn.Module, student: nn.Module, fake: type[FakeGenerations]
) -> None:
    fake.accepted = False
    pool = build("pool", teacher, student)
    with pytest.raises(ValueError, match="no image was accepted"):
        pool.second_view(torch.rand(4, 1, 12, 12), torch.arange(4))
    with pytest.raises(ValueError, match=r"method\.refresh_every"):
        build("pool", teacher, student, "method.refresh_every=0")


def test_a_second_batch_shows_training_images(build: Any, teacher: nn.Module, student: nn.Module) -> None:
    method = build("second_batch", teacher, student)
    views = method.second_view(torch.rand(8, 1, 12, 12), torch.arange(8) % 5)
    assert views.shape == (8, 1, 12, 12)
    part = method.setup.splits.train
    rows = [(part.images - view).flatten(1).abs().amax(1).argmin() for view in views]
    assert torch.equal(views, part.images[torch.stack(rows)])
    state = method.state_dict()
    again = method.second_view(views, torch.arange(8))
    method.load_state_dict(state)
    assert torch.equal(method.second_view(views, torch.arange(8)), again)
    assert method.scalars() == {}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["second_batch", "cutmix", "random", "hard"])
def test_the_other_methods_of_the_experiment(models: Path, tmp_path: Path, method: str) -> None:
    edits = ["transform@augmenter.transform=vae_directions", "augmenter.transform.direction_images=20"]
    record = run(models, tmp_path, *SPURIOUS, f"method={method}", *(edits if method in ("random", "hard") else []))
    assert record["student"]["accuracy"].keys() >= {"in_distribution", "absent_groups", "worst_group"}
    assert ("judge_consistency" in record.get("failure_metrics", {})) == (method in ("random", "hard"))
