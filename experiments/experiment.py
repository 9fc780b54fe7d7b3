"""The experiment: one teacher, and one student for each way of teaching, from equal starts on equal batches.

By default the equivariance toy of HARD's predecessor (Nix et al., PMLR 151, 2022) on real data: a CNN knows shifts and
an MLP does not; which way of teaching passes the knowledge on? Other tasks swap what the teacher knows.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress
from torch import nn

from experiments import checkpoint, processes, teachers
from experiments.data import Part, Splits
from experiments.evaluation import accuracies, accuracy
from experiments.hard_images import Mixed, Refresh, Replay
from experiments.loggers import Loggers
from experiments.methods import NAMES, Distillation, Hard, Labels, Method, RandomViews
from experiments.mixing import Mixing
from experiments.models import multiply_adds
from experiments.shards import HardImages, read
from experiments.stop import Stop
from experiments.tasks import Shift, Task
from experiments.training import Settings, Training
from hard_aug import HardAugmenter
from hard_aug.viz import PolicyHistory

#: The accuracy that ranges are tuned by: on the main test set's kind of views of the validation images.
VALIDATION = "validation"
#: What is added to the seed for a teacher that judges.
JUDGE_SEED = 1000
#: Settings that change how a run is done and not what comes out of it; a resumed run may have others.
FREE = ("threads", "device", "resume", "log_every", "checkpoint_every", "teacher_cache", "logger")
#: Settings of generated images, which only the student `mixed` depends on.
GENERATION = ("generation", "solver", "student_from", "student_name", "hard_images")


@dataclass(frozen=True)
class Job:
    """One student: what it is called, how it is taught, and the share of the ranges where that is random."""

    name: str
    method: str
    scale: float = 1.0


def jobs(config: DictConfig) -> list[Job]:
    """The students of a run, in order.

    Raises:
        ValueError: a student that is not known.
    """
    unknown = [name for name in config.students if name not in NAMES]
    if unknown or not config.students:
        raise ValueError(f"students={list(config.students)}: wanted some of {', '.join(NAMES)}")
    found = [Job(name, name, config.random_scale if name == "random" else 1.0) for name in config.students]
    taken = {job.scale for job in found if job.method == "random"}
    found += [Job(f"random_x{scale:g}", "random", scale) for scale in config.tune_random if scale not in taken]
    return found


def check_numbers(config: DictConfig) -> None:
    """Refuse what would fail only after hours.

    Raises:
        ValueError: names the setting and what was wanted.
    """
    for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
        if config[name] < 1:
            raise ValueError(f"{name}={config[name]}: wanted a whole number of at least 1")
    for name, scales in (("random_scale", [config.random_scale]), ("tune_random", config.tune_random)):
        if not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"{name}={config[name]}: wanted shares of the ranges in (0, 1]")


def identity(config: DictConfig) -> dict[str, Any]:
    """All settings that the outcome of a run depends on; `trainer` only where it is not the default."""
    free = FREE if "mixed" in config.students else (*FREE, *GENERATION)
    return checkpoint.identity(config, free if trainer_settings(config) != Settings() else (*free, "trainer"))


def trainer_settings(config: DictConfig) -> Settings:
    """The group `trainer`."""
    return Settings(**config.get("trainer", {}))


def augmenter_parts(parts: DictConfig, channels: int) -> dict[str, Any]:
    """The five kinds of parts of the augmenter's configuration, by name, for images of so many channels."""
    transform, policy = instantiate(parts.transform), instantiate(parts.policy)
    if "channels" in inspect.signature(policy).parameters:
        policy = partial(policy, channels=channels)
    rest = {name: instantiate(parts[name]) for name in ("objective", "invariance", "schedule")}
    return {"transform": transform, "policy": policy(transform.spec), **rest}


class Experiment:
    """Everything between the configuration and the results.

    Args:
        config: the composed configuration.
        splits: the data, on the device.
        folder: the run's folder.
        progress: a running bar.
        stop: asked after each step; then the state is kept and KeyboardInterrupt raised.
    """

    def __init__(self, config: DictConfig, splits: Splits, folder: Path, progress: Progress, stop: Stop) -> None:
        check_numbers(config)
        self.config, self.splits, self.folder, self.progress, self.stop = config, splits, folder, progress, stop
        self.settings = trainer_settings(config)
        processes.check_batch(config.batch_size, self.settings)
        if self.settings.precision != "no" and processes.accelerator() is None:
            raise ValueError(f"trainer.precision={self.settings.precision}: wanted no here; experiments.train has it")
        self.device = splits.train.images.device
        self.shape = tuple(splits.train.images.shape[1:])
        if self.shape[1] != self.shape[2]:
            raise ValueError(f"images of {self.shape[1]} x {self.shape[2]}: wanted squares; give data.canvas")
        self.size = int(self.shape[-1])
        try:
            self.task: Task = instantiate(config.task)
        except InstantiationException as error:
            raise ValueError(str(error.__cause__ or error)) from error
        self.sets = self.task.sets(splits.test)
        self.validation: Part = self.task.sets(splits.validation)[self.task.main]
        self.jobs = jobs(config)
        self.identity = identity(config)
        self.path = folder / "checkpoint.pt"
        if not config.resume and processes.rank() == 0:
            self.path.unlink(missing_ok=True)
        processes.wait()
        self.state = checkpoint.load(self.path, self.identity)
        self.teacher, self.teacher_metrics = self._obtain_teacher()

    def _model(self, node: DictConfig) -> nn.Module:
        values = {"size": self.size, "channels": self.shape[0], "classes": len(self.splits.classes)}
        wanted = inspect.signature(get_class(node._target_)).parameters
        model: nn.Module = instantiate(node, **{key: value for key, value in values.items() if key in wanted})
        return model

    def other_teacher(self) -> nn.Module:
        """A teacher of the same recipe and another seed, as a judge of what was made with this one."""
        return self._trained_teacher(self.config.seed + JUDGE_SEED)[0]

    def _obtain_teacher(self) -> tuple[nn.Module, dict[str, Any]]:
        started = time.perf_counter()
        teacher, cached = self._trained_teacher(self.config.seed)
        metrics: dict[str, Any] = accuracies(teacher, self.sets)
        metrics["seconds"] = round(time.perf_counter() - started, 2)
        metrics["cached"] = cached
        metrics["multiply_adds"] = multiply_adds(teacher, self.shape)
        return teacher, metrics

    def _trained_teacher(self, seed: int) -> tuple[nn.Module, bool]:
        node = self.config.teacher
        settings: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
        shown = {} if isinstance(self.task, Shift) else {"task": self.identity["task"]}
        return teachers.obtain(
            lambda: self._model(node.model),
            self.splits.train,
            config={"teacher": settings, "data": self.identity["data"], "seed": seed, **shown},
            cache=Path(self.config.teacher_cache),
            progress=self.progress,
            steps=node.steps,
            batch_size=node.batch_size,
            learning_rate=node.learning_rate,
            views=self.task.teacher_views,
            seed=seed,
            stop=self.stop,
            every=self.config.checkpoint_every,
        )

    def student(self) -> nn.Module:
        """An untrained student; the same for every way of teaching."""
        torch.manual_seed(self.config.seed + 1)
        return self._model(self.config.student).to(self.device)

    def augmenter(self, student: nn.Module) -> HardAugmenter:
        """The HardAugmenter of the configuration around `student`."""
        parts: DictConfig = self.config.augmenter
        return HardAugmenter(
            teacher=self.teacher,
            student=student,
            **augmenter_parts(parts, self.shape[0]),
            spread_weight=parts.spread_weight,
            spread_floor=parts.spread_floor,
            uniform_floor=parts.uniform_floor,
            batch_norm=parts.batch_norm,
            learning_rate=parts.learning_rate,
            seed=self.config.seed,
        )

    def method(self, job: Job, student: nn.Module) -> Method:
        """The way of teaching of a job."""
        if job.method == "labels":
            return Labels(student)
        temperature = float(self.config.temperature)
        if job.method == "hard":
            return Hard(self.augmenter(student), temperature=temperature)
        if job.method == "kd":
            return Distillation(self.teacher, student, temperature=temperature)
        if job.method == "mixed":
            return self.mixing(student)
        transform, scale = instantiate(self.config.augmenter.transform), job.scale
        if job.method == "oracle":
            transform, scale = self.task.oracle(self.size)
        return RandomViews(
            self.teacher, student, transform, temperature=temperature, scale=scale, seed=self.config.seed
        )

    def mixing(self, student: nn.Module) -> Mixing:
        """Distillation with generated images among the real ones.

        Raises:
            ValueError: no images, and nothing to make them with.
        """
        settings, train = self.config.hard_images, self.splits.train
        refresh = Refresh(**settings.refresh)
        pool = Replay(capacity=settings.capacity, replay=settings.replay, seed=self.config.seed)
        generate = None
        if settings.folder is not None:
            store = read(Path(settings.folder))
            if store.classes != tuple(self.splits.classes):
                raise ValueError(f"{settings.folder} is of the classes {store.classes}, the data {self.splits.classes}")
            pool.add(store.images)
        if settings.folder is None or refresh.every is not None or refresh.patience is not None:
            generate = self._generate()
        current = self.state["current"]
        if settings.folder is None and generate is not None and (current is None or current["name"] != "mixed"):
            if "kd" not in self.state["finished"]:
                raise ValueError("hard_images.folder=null: the first images are made against kd; students=[kd,mixed]")
            biased = self.student()
            biased.load_state_dict(self.state["finished"]["kd"]["model"])
            pool.add(generate(biased.eval(), 0))
        mixed = Mixed(
            train,
            pool,
            ratio=settings.ratio,
            batch_size=self.config.batch_size,
            classes=self.splits.classes,
            seed=self.config.seed,
        )
        return Mixing(
            self.teacher,
            student,
            mixed,
            refresh=refresh,
            generate=generate,
            validation=self.splits.validation,  # in distribution: nothing is chosen by the test's shift
            temperature=float(self.config.temperature),
        )

    def _generate(self) -> Callable[[nn.Module, int], HardImages]:
        if "generation" not in self.config:
            raise ValueError(
                "hard images are made with the settings of the configuration `generate`: use --config-name generate, "
                "or give hard_images.folder=<folder>/images and no refresh"
            )
        from experiments.generator import Generator  # wants diffusers

        judge = self.other_teacher() if self.config.generation.judge else None
        generator = Generator(
            self.config, teacher=self.teacher, judge=judge, train=self.splits.train, classes=len(self.splits.classes)
        )
        count, size = int(self.config.generation.images), int(self.config.generation.batch_size)

        def generate(student: nn.Module, generation: int) -> HardImages:
            bar = self.progress.add_task(f"hard images {generation}", total=count, note="")
            parts = []
            for numbers in (generation * count + torch.arange(count)).split(size):
                parts.append(generator(student, numbers)[0])
                self.progress.update(bar, advance=len(numbers))
            return HardImages.cat(parts)

        return generate

    def train(self, job: Job) -> None:
        """Train one student, or what is left of it, and keep the result in the checkpoint."""
        if job.name in self.state["finished"]:
            return
        student = self.student()
        network = processes.prepared(student)  # of several processes, with what exchanges gradients around it
        method = self.method(job, network)
        training = Training(
            network,
            self.splits.train,
            steps=self.config.steps,
            batch_size=self.config.batch_size,
            learning_rate=self.config.learning_rate,
            seed=self.config.seed,
            batches=method.batches,
            settings=self.settings,
            accelerator=processes.accelerator(),
            memory=f"lower batch_size={self.config.batch_size}, raise trainer.accumulate={self.settings.accumulate}, "
            f"or set trainer.precision=bf16 (it is {self.settings.precision})",
        )
        history = PolicyHistory(method.augmenter.transform.spec) if isinstance(method, Hard) else None
        seconds, kept = 0.0, []
        current = self.state["current"]
        if current is not None and current["name"] == job.name:
            training.load_state_dict(current["training"])
            method.load_state_dict(current["method"])
            seconds, kept = current["seconds"], current["kept"]
            if history is not None:
                history.load_state_dict(current["history"])
        elif history is not None and isinstance(method, Hard):
            history.record(0, method.augmenter, self.splits.validation.images)

        def snapshot() -> dict[str, Any]:
            return {
                "name": job.name,
                "training": training.state_dict(),
                "method": method.state_dict(),
                "history": None if history is None else history.state_dict(),
                "seconds": seconds,
                "kept": kept,
            }

        bar = self.progress.add_task(f"student {job.name}", total=training.steps, completed=training.step, note="")
        writes = processes.rank() == 0
        curves = Loggers(self.config.get("logger") if writes else None, self.folder, job.name, training.step)
        started = time.perf_counter()
        try:
            for loss in training.run(method.loss, method.after_step):
                seconds += time.perf_counter() - started  # what follows is not training
                stop = processes.agreed(self.stop.requested)
                if training.step % self.config.log_every == 0 or training.step == training.steps:
                    scalars = processes.mean({"loss": float(loss), **method.scalars()})
                    if "teacher_keeps" in scalars:
                        kept.append(scalars["teacher_keeps"])
                    if history is not None and isinstance(method, Hard):
                        history.record(training.step, method.augmenter, self.splits.validation.images)
                        scalars |= history.scalars()
                    curves.scalars(training.step, scalars)
                    self.progress.update(bar, completed=training.step, note=f"loss {scalars['loss']:.3f}")
                if stop or training.step % self.config.checkpoint_every == 0:
                    self.state["current"] = snapshot()
                    self._save()
                if stop:
                    raise KeyboardInterrupt
                started = time.perf_counter()
        finally:
            curves.close()
        processes.share_buffers(student)
        metrics: dict[str, Any] = accuracies(student, self.sets)
        metrics[VALIDATION] = round(accuracy(student, self.validation), 5)
        metrics["seconds"] = round(seconds, 2)
        if kept:
            metrics["teacher_keeps"] = round(sum(kept[len(kept) // 2 :]) / len(kept[len(kept) // 2 :]), 4)
        if job.method == "random":
            metrics["scale"] = job.scale
        self.state["finished"][job.name] = {
            "metrics": metrics,
            "model": student.state_dict(),
            "method": method.state_dict(),
            "history": None if history is None else history.state_dict(),
        }
        self.state["current"] = None
        self._save()

    def _save(self) -> None:
        """Keep the state; all processes have the same, and the first one writes it before any goes on."""
        if processes.rank() == 0:
            checkpoint.save(self.path, self.state)
        processes.wait()

    def results(self) -> dict[str, dict[str, Any]]:
        """Metrics of the finished students by name; `random_tuned` is the best share of the ranges on validation."""
        found = {job.name: self.state["finished"][job.name]["metrics"] for job in self.jobs}
        if self.config.tune_random:
            candidates = [m for job in self.jobs if job.method == "random" for m in [found[job.name]]]
            found["random_tuned"] = max(candidates, key=lambda metrics: metrics[VALIDATION])
        return found
