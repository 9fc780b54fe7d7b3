"""Hard images of a configuration: each depends on its index alone, and searches are comparable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
from hydra.utils import instantiate

from experiments.data.files import LazyImageSet
from experiments.generation.generator import HardImageGenerator, load_diffusion_model
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug.data import ImageSet, Splits
from hard_aug.generative import DiffusionSampler
from hard_aug.objectives import ConfidenceGap
from hard_aug.synthesis import Score
from tests.helpers.engine_parts import small_config
from tests.helpers.generative_parts import write_models

CLASSES = 4
SEARCHES = sorted(path.stem for path in Path("experiments/conf/search").glob("*.yaml"))
Make = Callable[..., HardImageGenerator]


class Flat(nn.Sequential):
    """A network of a few seeds."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Flatten(), nn.Linear(1024, CLASSES))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"), classes=CLASSES)


@pytest.fixture
def make(models: Path) -> Make:
    def made(*overrides: str, train: ImageSet | None = None) -> HardImageGenerator:
        part = train or ImageSet(torch.rand(5, 1, 32, 32), torch.arange(5) % CLASSES)
        small = (f"generation.models={models}", "generation.steps=2", "seed=3")
        config = small_config(models, *small, *overrides, name="generate")
        setup = Setup(config, Splits(part, part, part, tuple("abcd")), Progress(quiet=True), Stop())
        model = load_diffusion_model(config.generation, setup.splits)
        return HardImageGenerator(model, config.search, config.generation, setup, teacher=Flat(1), judge=Flat(2))

    return made


def test_an_image_depends_on_its_index_alone(make: Make) -> None:
    generator, student = make("generation.towards=true", "generation.batch_size=3"), Flat(4)
    whole, cost = generator(student, torch.arange(14))
    part, _ = generator(student, torch.tensor([13, 2, 7]))
    assert whole.labels.tolist() == [0, 1, 2, 3] * 3 + [0, 1]
    assert whole.seeds.tolist() == [3 * 1_000_000_007 + index for index in range(14)]
    for name in ("images", "labels", "soft_labels", "scores_after", "seeds"):
        both = getattr(whole, name)[[13, 2, 7]].float(), getattr(part, name).float()
        assert torch.allclose(*both, atol=1.0 if name == "images" else 1e-4), name
    assert cost["denoiser_forward"] == 14 * 2
    assert cost["total"] > cost["denoiser_forward"]


def test_each_wrong_class_is_sought_in_turn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[int, int] = {}
    search = HardImageGenerator._search

    def recorded(self: HardImageGenerator, by: Any, score: Score, indices: Tensor) -> Any:
        assert isinstance(score.objective, ConfidenceGap)
        found.update({int(index): score.objective.towards for index in indices})
        return search(self, by, score, indices)

    monkeypatch.setattr(HardImageGenerator, "_search", recorded)
    make("generation.towards=true")(Flat(4), torch.arange(14))
    assert [found[index] for index in range(14)] == [1] * 4 + [2] * 4 + [3] * 4 + [1] * 2
    make()(Flat(4), torch.arange(4))
    assert {found[index] for index in range(4)} == {None}


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_option(make: Make, search: str) -> None:
    few = {"noise": ["search.iterations=1"], "tfg": ["search.iterations=1"], "best_of_equal": ["search.count=2"]}
    generator, student = make(f"search={search}", *few.get(search, [])), Flat(4)
    hard, cost = generator(student, torch.arange(3))
    assert bool(hard.scores_after.isfinite().all())
    assert cost["denoiser_forward"] >= 3 * 2
    metrics = generator.failure_metrics(student, torch.arange(3), hard, judge=Flat(2), other_student=Flat(5))
    assert set(metrics) >= {"teacher_consistency", "judge_consistency", "saturated", "rms_change"}
    assert (metrics["rms_change"] == 0) == (search == "unguided")


@pytest.mark.slow
def test_the_best_of_n_costs_what_guidance_costs(make: Make) -> None:
    """At the 10 sampling steps of the pools, one sample fewer would cost less."""
    costs = {}
    for search, count in (("guided", None), ("best_of_equal", 15), ("best_of_equal", 14)):
        overrides = [f"search={search}", "generation.steps=10"] + ([f"search.count={count}"] if count == 14 else [])
        generator = make(*overrides)
        costs[search, count] = generator(Flat(4), torch.arange(1))[1]["total"]
    assert costs["best_of_equal", 14] < costs["guided", None] <= costs["best_of_equal", 15]


def test_real_images_are_started_from_and_only_those_are_read(make: Make) -> None:
    class Reader:
        shape, rows = (1, 32, 32), 0

        def read(self, rows: list[int], draw: Any = None) -> Tensor:
            self.rows += len(rows)
            return torch.full((len(rows), *self.shape), 100, dtype=torch.uint8)

        def prefetch(self, rows: list[int]) -> None: ...

    for strength, expected in ((1.0, 0), (0.5, 7)):
        reader = Reader()
        part = LazyImageSet(reader, torch.arange(10**6) % CLASSES)
        hard, _ = make(f"generation.strength={strength}", train=part)(Flat(4), torch.arange(7))
        assert hard.source.tolist() == ([-1] * 7 if strength == 1 else list(range(7)))
        assert reader.rows == expected


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((1, 28, 28), CLASSES, r"32 x 32 and the data has 28 x 28; give data\.canvas=32"),
        ((3, 32, 32), CLASSES, "1 channels and the data has 3"),
        ((1, 32, 32), 10, "4 classes and the data has 10"),
    ],
)
def test_models_that_do_not_fit_raise(models: Path, shape: tuple[int, ...], classes: int, message: str) -> None:
    part = ImageSet(torch.rand(2, *shape), torch.arange(2))
    splits = Splits(part, part, part, tuple(map(str, range(classes))))
    config = small_config(models, f"generation.models={models}", name="generate")
    with pytest.raises(ValueError, match=message):
        load_diffusion_model(config.generation, splits)
    missing = small_config(models, f"generation.models={models}/none", name="generate")
    with pytest.raises(FileNotFoundError, match="train them with python -m "):
        load_diffusion_model(missing.generation, splits)


def test_the_pool_has_its_own_search() -> None:
    config = small_config(Path(), "experiment=spurious", "method=pool", "search@method.search=best_of_equal")
    sampler = DiffusionSampler.__new__(DiffusionSampler)
    assert instantiate(config.method.search)(sampler).count == 15
    assert config.method.generation.models == "outputs/generative/spurious_all"
