"""The experiment: one teacher, and one student for each way of teaching, from equal starts on equal batches.

By default the equivariance toy of HARD's predecessor (Nix et al., PMLR 151, 2022) on real data: a CNN knows shifts and
an MLP does not; which way of teaching passes the knowledge on? Other tasks swap what the teacher knows.
"""

from __future__ import annotations

import inspect
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from rich.progress import Progress
from torch import Tensor, nn

from experiments import builders, builders_mixed, checkpoint, ood, processes, teachers
from experiments import jobs as jobs_of
from experiments.curve import Curve
from experiments.data import Part, Splits
from experiments.evaluation import accuracies, accuracy
from experiments.evaluations import TWO_VIEWS, ascents
from experiments.jobs import VALIDATION, Job
from experiments.loggers import Loggers
from experiments.methods import Hard, Method
from experiments.models import multiply_adds
from experiments.stop import Stop
from experiments.tasks import Shift, Task
from experiments.training import Settings, Training, wait_for
from hard_aug import HardAugmenter
from hard_aug.viz import PolicyHistory
from hard_aug.viz.policy import DRAWS

#: On what validation images trials are chosen; `sum` is the mean of the two.
CHOICES = ("clean", "main", "sum")
#: What all students of a run have as much of.
BUDGETS = ("steps", "evaluations")
#: What is added to the seed for networks that take no part in a search: a teacher that judges, a second student.
OTHER_SEED = 1000
#: The student `hard` as configured.
HARD = Job("hard", "hard", row="hard")
#: Settings that change how a run is done and not what comes out of it; a resumed run may have others.
FREE = (
    "threads",
    "device",
    "resume",
    "log_every",
    "checkpoint_every",
    "teacher_cache",
    "logger",
    "returns",
    "data.in_memory",
)
#: Settings of generated images, which only the student `mixed` depends on.
GENERATION = ("generation", "solver", "student_from", "student_name", "hard_images")


def check_numbers(config: DictConfig) -> None:
    """Refuse what would fail only after hours.

    Raises:
        ValueError: names the setting and what was wanted.
    """
    for name in ("steps", "batch_size", "log_every", "checkpoint_every", "threads"):
        if not _whole(config[name], 1):
            raise ValueError(f"{name}={config[name]}: wanted a whole number of at least 1")
    if not _whole(config.seed, 0):
        raise ValueError(f"seed={config.seed}: wanted a whole number of at least 0")
    if config.get("eval_every") is not None and not _whole(config.eval_every, 1):
        raise ValueError(f"eval_every={config.eval_every}: wanted a whole number of at least 1, or null for never")
    if config.get("choose_on", "main") not in CHOICES:
        raise ValueError(f"choose_on={config.choose_on}: wanted one of {', '.join(CHOICES)}")
    if config.get("budget", "steps") not in BUDGETS:
        raise ValueError(f"budget={config.budget}: wanted one of {', '.join(BUDGETS)}")
    if counts_evaluations(config) and "mixed" in config.students:
        raise ValueError("budget=evaluations: what making hard images costs is not counted; mixed wants budget=steps")
    teachers.check_share(config)
    for name, scales in (("random_scale", [config.random_scale]), ("tune_random", config.tune_random)):
        if not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"{name}={config[name]}: wanted shares of the ranges in (0, 1]")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def identity(config: DictConfig) -> dict[str, Any]:
    """All settings that the outcome of a run depends on; `trainer` only where it is not the default."""
    free = FREE if "mixed" in config.students else (*FREE, *GENERATION)
    if trainer_settings(config) == Settings():
        free = (*free, "trainer")
    return jobs_of.identity(config, checkpoint.identity(config, free))


def counts_evaluations(config: DictConfig) -> bool:
    """Whether all students have equal evaluations, in place of equal steps."""
    return bool(config.get("budget", "steps") == "evaluations")


def trainer_settings(config: DictConfig) -> Settings:
    """The group `trainer`."""
    return Settings(**config.get("trainer", {}))


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
        self.device = splits.train.device
        self.shape = splits.train.shape
        if self.shape[1] != self.shape[2]:
            raise ValueError(f"images of {self.shape[1]} x {self.shape[2]}: wanted squares; give data.canvas")
        self.size = int(self.shape[-1])
        try:
            self.task: Task = instantiate(config.task)
        except InstantiationException as error:
            raise ValueError(str(error.__cause__ or error)) from error
        self.sets = self.task.sets(splits.test) | ood.sets(config.get("ood"), splits)
        self.validation: Part = self.task.sets(splits.validation)[self.task.main]
        self.jobs = jobs_of.jobs(config)
        if any(job.method == "oracle" for job in self.jobs):
            self.task.oracle(self.size)  # a task that has none says so before hours of training
        self.identity = identity(config)
        self.path = folder / "checkpoint.pt"
        if not config.resume and processes.rank() == 0:
            self.path.unlink(missing_ok=True)
        processes.wait()
        self.state = checkpoint.load(self.path, self.identity)
        self.teacher, self.teacher_metrics = self._obtain_teacher()
        for job in self.jobs:  # what its settings break is to be known before the first hour
            if job.method == "mixed":
                builders_mixed.check(self, job)
            else:
                self._steps(builders.build(self, job, self.student()))

    def _model(self, node: DictConfig, *, own_classes: bool = False) -> nn.Module:
        values = {"size": self.size, "channels": self.shape[0], "classes": len(self.splits.classes)}
        if own_classes:
            del values["classes"]
        wanted = inspect.signature(get_object(node._target_)).parameters
        model: nn.Module = instantiate(node, **{key: value for key, value in values.items() if key in wanted})
        return model

    def other_teacher(self) -> nn.Module:
        """A teacher of the same recipe and another seed, as a judge of what was made with this one.

        Raises:
            ValueError: the teacher comes with its weights, so that there is no other.
        """
        if self.config.teacher.steps == 0:
            raise ValueError(
                "a judge is a second teacher, trained as the first with another seed, and teacher.steps=0 trains none; "
                "do without: generation.judge=false, detectors.judge=false"
            )
        return self._trained_teacher(self.config.seed + OTHER_SEED)[0]

    def other_student(self, job: Job) -> nn.Module:
        """A student taught like a job's, trained from another start on batches in another order."""
        other = replace(job, name=f"{job.name}_other_seed", seed=OTHER_SEED)
        self.train(other)
        student = self.student()
        student.load_state_dict(self.state["finished"][other.name]["model"])
        return student.eval()

    def _obtain_teacher(self) -> tuple[nn.Module, dict[str, Any]]:
        started = time.perf_counter()
        teacher, cached = self._trained_teacher(self.config.seed)
        self._check_classes(teacher)
        metrics: dict[str, Any] = accuracies(teacher, self.sets)
        metrics["seconds"] = round(time.perf_counter() - started, 2)
        metrics["cached"] = cached
        metrics["multiply_adds"] = multiply_adds(teacher, self.shape)
        return teacher, metrics

    def _check_classes(self, teacher: nn.Module) -> None:
        with torch.no_grad():
            found = teacher(torch.zeros(1, *self.shape, device=self.device)).shape[1]
        if found != len(self.splits.classes):
            raise ValueError(
                f"the teacher answers with {found} classes and {self.config.data.name} has {len(self.splits.classes)}; "
                "take a teacher of this data, or train its head with teacher.steps=2000"
            )

    def _trained_teacher(self, seed: int) -> tuple[nn.Module, bool]:
        node = self.config.teacher
        shown = {} if isinstance(self.task, Shift) else {"task": self.identity["task"]}
        train, data = teachers.shown(self.config, self.splits, self.identity["data"])
        recipe = {key: value for key, value in self.identity["teacher"].items() if key != "fraction"}
        return teachers.obtain(
            lambda: self._model(node.model, own_classes=node.steps == 0),
            train,
            config={"teacher": recipe, "data": data, "seed": seed, **shown},
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

    def student(self, seed: int = 0) -> nn.Module:
        """An untrained student; the same for every way of teaching, but for another `seed`, which is added."""
        torch.manual_seed(self.config.seed + seed + 1)
        return self._model(self.config.student).to(self.device)

    def augmenter(self, student: nn.Module, job: Job = HARD) -> HardAugmenter:
        """The HardAugmenter of the configuration, or of a trial, around `student`."""
        parts = jobs_of.settled(self.config, job)
        return HardAugmenter(
            teacher=self.teacher,
            student=student,
            **builders.augmenter_parts(parts, self.shape[0]),
            spread_weight=parts.spread_weight,
            spread_floor=parts.spread_floor,
            uniform_floor=parts.uniform_floor,
            batch_norm=parts.batch_norm,
            learning_rate=parts.learning_rate,
            seed=self.config.seed,
        )

    def _steps(self, method: Method) -> int:
        """Steps of a student: `steps`, or as many as cost what so many on two views do."""
        if counts_evaluations(self.config):
            return max(1, round(self.config.steps * TWO_VIEWS / method.planned))
        return int(self.config.steps)

    def _looked_at(self, augmenter: HardAugmenter) -> Tensor | None:
        """The images that a record of the policy draws for, if it looks at any."""
        if not augmenter.policy.looks_at_images:
            return None
        return self.splits.validation[slice(0, DRAWS)].in_memory().images

    def train(self, job: Job) -> None:
        """Train one student, or what is left of it, and keep the result in the checkpoint."""
        if job.name in self.state["finished"]:
            return
        student = self.student(job.seed)
        network = processes.prepared(student)  # of several processes, with what exchanges gradients around it
        method = builders.build(self, job, network)
        training = Training(
            network,
            self.splits.train,
            steps=self._steps(method),
            batch_size=self.config.batch_size,
            learning_rate=job.value("student_learning_rate", self.config.learning_rate),
            seed=self.config.seed + job.seed,
            batches=method.batches,
            settings=self.settings,
            accelerator=processes.accelerator(),
            memory=f"lower batch_size={self.config.batch_size}, raise trainer.accumulate={self.settings.accumulate}, "
            f"or set trainer.precision=bf16 (it is {self.settings.precision})",
        )
        history = PolicyHistory(method.augmenter.transform.spec) if isinstance(method, Hard) else None
        curve = Curve(
            self.config.get("eval_every"), steps=training.steps, batch_size=self.config.batch_size, sets=self.sets
        )
        seconds, kept = 0.0, []
        current = self.state["current"]
        if current is not None and current["name"] == job.name:
            training.load_state_dict(current["training"])
            method.load_state_dict(current["method"])
            seconds, kept = current["seconds"], current["kept"]
            curve.points = current.get("curve", [])
            if history is not None:
                history.load_state_dict(current["history"])
        elif history is not None and isinstance(method, Hard):
            history.record(0, method.augmenter, self._looked_at(method.augmenter))

        def snapshot() -> dict[str, Any]:
            return {
                "name": job.name,
                "training": training.state_dict(),
                "method": method.state_dict(),
                "history": None if history is None else history.state_dict(),
                "seconds": seconds,
                "kept": kept,
                "curve": curve.points,
            }

        bar = self.progress.add_task(f"student {job.name}", total=training.steps, completed=training.step, note="")
        writes = processes.rank() == 0
        curves = Loggers(self.config.get("logger") if writes else None, self.folder, job.name, training.step)
        started = time.perf_counter()
        try:
            for loss in training.run(method.loss, method.after_step):
                logs = training.step % self.config.log_every == 0 or training.step == training.steps
                if logs or curve.due(training.step):
                    wait_for(self.device)
                seconds += time.perf_counter() - started  # what follows is not training
                stop = processes.agreed(self.stop.requested)
                curve.see(training.step, seconds, method, training.outcome)
                if logs:
                    scalars = processes.mean({"loss": float(loss), **method.scalars()})
                    if "teacher_keeps" in scalars:
                        kept.append(scalars["teacher_keeps"])
                    if history is not None and isinstance(method, Hard):
                        history.record(training.step, method.augmenter, self._looked_at(method.augmenter))
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
        metrics |= self._validated(student)
        metrics["seconds"], metrics["steps"] = round(seconds, 2), training.steps
        metrics["evaluations"] = round(method.evaluations(training.steps * self.config.batch_size))
        if isinstance(method, Hard):
            metrics["ascents"] = ascents(method.augmenter)
        if curve.points:
            metrics["curve"] = curve.points
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

    def _validated(self, student: nn.Module) -> dict[str, Any]:
        """Accuracies on validation images as they are and as the main test set's, and what the choice is made by."""
        clean, main = accuracy(student, self.splits.validation), accuracy(student, self.validation)
        chosen = {"clean": clean, "main": main, "sum": (clean + main) / 2}[self.config.get("choose_on", "main")]
        return {
            VALIDATION: round(chosen, 5),
            "validation_sets": {"clean": round(clean, 5), self.task.main: round(main, 5)},
        }

    def _metrics(self) -> dict[str, dict[str, Any]]:
        return {job.name: self.state["finished"][job.name]["metrics"] for job in self.jobs}

    def chosen(self, row: str) -> Job | None:
        """The best job of a row on validation data; None: none of it is finished."""
        finished = {name: kept["metrics"] for name, kept in self.state["finished"].items()}
        members = [job for job in self.jobs if job.row == row and job.name in finished]
        return jobs_of.best(members, finished) if members else None

    def finished(self, row: str) -> dict[str, Any]:
        """What is kept of the best job of a row."""
        job = self.chosen(row)
        if job is None:
            raise ValueError(f"no student {row} is finished")
        kept: dict[str, Any] = self.state["finished"][job.name]
        return kept

    def trials(self) -> dict[str, list[dict[str, Any]]]:
        """All trials by row, with settings and metrics."""
        return jobs_of.listed(self.jobs, self._metrics())

    def results(self) -> dict[str, dict[str, Any]]:
        """Metrics of the finished students by row; `random_tuned` is the best share of the ranges on validation."""
        metrics = self._metrics()
        found = jobs_of.rows(self.jobs, metrics)
        if self.config.tune_random:
            candidates = [job for job in self.jobs if job.method == "random"]
            best = jobs_of.best(candidates, metrics)
            found["random_tuned"] = {**metrics[best.name], "trials": len(candidates)}
        return found
