"""What every run of a configuration has in common: data, task, test sets, teacher, and the untrained student."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.configuration.identity import resolved, run_identity
from experiments.configuration.parts import completed
from experiments.data import Batches, ood
from experiments.models import build_network, build_teacher, multiply_adds
from experiments.tasks import Task
from experiments.training import checkpoint
from experiments.training.accuracy import accuracies
from experiments.training.files import STUDENT
from experiments.training.fit import fit
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.teachers import cached, fits
from hard_aug.data import ImageSet, Splits
from hard_aug.losses import distillation_loss

logger = logging.getLogger(__name__)
#: Added to the seed of networks outside of a run: a teacher that serves as a judge, a second student.
OTHER_SEED = 1000


@dataclass(frozen=True)
class Setup:
    """The data, task and networks of a configuration.

    Args:
        config: the composed configuration.
        splits: the data, on the device.
        progress: a running progress display.
        stop: checked after each step.
        untrained: teachers and students are not trained, to check a configuration with networks of its kind.

    Raises:
        ValueError: images that are not square, or an invalid task.
    """

    config: DictConfig
    splits: Splits
    progress: Progress
    stop: Stop
    untrained: bool = False

    def __post_init__(self) -> None:
        if self.shape[1] != self.shape[2]:
            raise ValueError(f"images of {self.shape[1]} x {self.shape[2]}: expected square images; set data.canvas")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.splits.train.shape

    @property
    def device(self) -> torch.device:
        """The device of the data."""
        return self.splits.train.device

    @cached_property
    def task(self) -> Task:
        """The task."""
        try:
            return completed(instantiate(self.config.task), Task, name="task", train=self.splits.train)
        except InstantiationException as error:
            raise ValueError(str(error.__cause__ or error)) from error

    @cached_property
    def sets(self) -> dict[str, ImageSet]:
        """The test sets by name."""
        return self.task.sets(self.splits.test) | ood.load_sets(self.config.get("ood"), self.splits)

    @cached_property
    def validation(self) -> ImageSet:
        """Validation images of the main test set's kind, or clean ones if the task can't make any."""
        sets = self.task.sets(self.splits.validation)
        return sets.get(self.task.main, self.splits.validation)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return a network's accuracy on each test set, and what the task derives from them."""
        found = accuracies(model, self.sets)
        return found | self.task.derived(found)

    def batches(self, name: str, part: ImageSet, batch_size: int, seed: int) -> Batches:
        """Return endless batches; they are as large as the data if it is smaller.

        Args:
            name: of the network that is trained, for the log.
            part: images and labels.
            batch_size: the requested number of images.
            seed: of the order.
        """
        if batch_size > len(part):
            logger.info("%s: batch_size=%d lowered to %d, the number of training images", name, batch_size, len(part))
        return Batches(part, min(batch_size, len(part)), seed)

    def network(self, node: DictConfig, seed: int, build: Callable[..., nn.Module] = build_network) -> nn.Module:
        """Return a network on the device, initialised with a seed."""
        torch.manual_seed(seed)
        size, classes = int(self.shape[-1]), len(self.splits.classes)
        return build(node, size=size, channels=self.shape[0], classes=classes).to(self.device)

    def teacher(self, *, other: bool = False) -> tuple[nn.Module, bool]:
        """Return the teacher, and whether it was trained earlier: loaded from the cache or from weights.

        Args:
            other: the teacher of another seed, which judges images made with this one.

        Raises:
            ValueError: the teacher's classes are not those of the data, or there is no other teacher.
        """
        node, seed = self.config.teacher, self.config.seed + (OTHER_SEED if other else 0)
        network = self.network(node, seed, build_teacher)
        ready = node.steps == 0 or node.weights is not None
        if ready and other:
            raise ValueError(
                "a judge is a second teacher, trained like the first with another seed, and this one is not trained; "
                "turn it off: generation.judge=false, failure_metrics.judge=false"
            )
        if ready or self.untrained:
            self._check_classes(network.eval().requires_grad_(False))
            return network, True
        data = resolved(self.config.data) | (resolved(node.data) if node.data else {})
        data.pop("in_memory", None)

        def train(model: nn.Module, path: Path) -> None:
            part, generator = self.splits.train, torch.Generator().manual_seed(seed)
            if node.data:
                part = instantiate(self.config.data, **node.data).train.to(self.device)
            fit(
                "teacher",
                model,
                lambda images, labels: nn.functional.cross_entropy(
                    model(self.task.teacher_views(images, generator)), labels
                ),
                self.batches("teacher", part, node.batch_size, seed),
                steps=node.steps,
                learning_rate=node.learning_rate,
                warmup=node.steps // 10,
                parts={"views": _GeneratorState(generator)},
                **self.common(seed, path, config),
            )

        recipe = {key: value for key, value in resolved(node).items() if key not in ("data", "weights")}
        config = {"teacher": recipe, "data": data, "seed": seed, "task": resolved(self.config.task)}
        found = cached(network, train, name="teacher", config=config, cache=self._cache, stop=self.stop)
        self._check_classes(network)
        return network, found

    def teacher_record(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the teacher and its part of a run's record."""
        started = time.perf_counter()
        teacher, found = self.teacher()
        seconds = round(time.perf_counter() - started, 2)
        record = {"accuracy": self.evaluate(teacher), "seconds": seconds, "cached": found}
        self._warn_of_a_guessing_teacher(*next(iter(record["accuracy"].items())))
        return teacher, record | {"multiply_adds": multiply_adds(teacher, self.shape)}

    def _warn_of_a_guessing_teacher(self, name: str, accuracy: float) -> None:
        classes, images = len(self.splits.classes), len(self.splits.test)
        guess = 1 / classes
        if accuracy <= guess + 2 * (guess * (1 - guess) / images) ** 0.5:  # two standard errors
            logger.warning(
                "the teacher's accuracy on %s is %.1f %%, that of a guess among %d classes: nothing can be learned "
                "from it; raise teacher.steps, or give teacher.weights=<file>",
                name,
                100 * accuracy,
                classes,
            )

    def student(self, teacher: nn.Module, *, other: bool = False) -> nn.Module:
        """Return the student that a method starts from, equal for all methods of a seed.

        Args:
            teacher: distilled from first, if `initial` is configured.
            other: a student with another initialisation.
        """
        seed = self.config.seed + (OTHER_SEED if other else 0)
        network, node = self.network(self.config.student, seed + 1), self.config.initial
        if node is None or self.untrained:
            return network

        def train(model: nn.Module, path: Path) -> None:
            def loss(images: Tensor, labels: Tensor) -> Tensor:
                with torch.no_grad():
                    logits = teacher(images)
                temperature = self.config.temperature
                return distillation_loss(student_logits=model(images), teacher_logits=logits, temperature=temperature)

            batches = self.batches("initial student", self.splits.train, node.batch_size, seed)
            settings = {"steps": node.steps, "learning_rate": node.learning_rate, "warmup": node.steps // 20}
            fit("initial student", model, loss, batches, **settings, **self.common(seed, path, config))

        keys = ("initial", "student", "teacher", "data", "task", "temperature", "contents")
        config = {key: value for key, value in run_identity(self.config).items() if key in keys} | {"seed": seed}
        cached(network, train, name="initial student", config=config, cache=self._cache, stop=self.stop)
        return network.requires_grad_(True)

    def trained_student(self, folder: Path) -> nn.Module:
        """Return the student of a finished run with the same data and the same student network, in evaluation mode.

        Raises:
            FileNotFoundError: the folder has no finished run.
            ValueError: the file is damaged, or the run has other data, or another network.
        """
        path = folder / STUDENT
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: expected the folder of a finished run of experiments.train")
        kept = checkpoint.read(path)
        ours = run_identity(self.config)
        for part in ("data", "student"):
            if (theirs := kept["config"].get(part)) != ours[part]:
                raise ValueError(f"{path} has {part}={theirs}, here it is {ours[part]}; expected the same")
        network = self.network(self.config.student, self.config.seed + 1)
        if not fits(kept.get("model"), network):
            raise ValueError(
                f"{path} has no weights of this {type(network).__name__}, whose code may have changed since; run the "
                "command that made it again, with resume=false"
            )
        network.load_state_dict(kept["model"])
        return network.eval().requires_grad_(False)

    @property
    def _cache(self) -> Path:
        return Path(self.config.teacher_cache)

    def common(self, seed: int, path: Path, identity: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `fit` that all its calls have in common."""
        every = {"every": self.config.checkpoint_every, "log_every": self.config.log_every}
        return {"seed": seed, "path": path, "identity": identity, "progress": self.progress, "stop": self.stop, **every}

    def _check_classes(self, teacher: nn.Module) -> None:
        with torch.no_grad():
            found = teacher(torch.zeros(1, *self.shape, device=self.device)).shape[1]
        if found != len(self.splits.classes):
            raise ValueError(
                f"the teacher has {found} classes and {self.config.data.name} has {len(self.splits.classes)}; "
                "use a teacher of this data, or train its head with teacher.steps=2000"
            )


class _GeneratorState:
    """The state of a generator, as a part of a checkpoint."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["state"])
