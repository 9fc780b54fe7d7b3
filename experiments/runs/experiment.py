"""One run: a teacher, and one student for each training method, with the same initialisation and batch order.

By default the toy problem of Orbit (Nix et al., PMLR 151, 2022) on real data: a CNN is shift-invariant and an MLP is
not; which training method transfers the invariance? Other tasks replace the invariance.
"""

from __future__ import annotations

import inspect
import logging
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

from experiments.configuration import students as jobs
from experiments.configuration.run import check_numbers, has_nfe_budget, run_identity, trainer_settings
from experiments.configuration.students import VALIDATION, StudentSpec
from experiments.data import ood
from experiments.methods import factory as builders
from experiments.methods import generated_factory as builders_mixed
from experiments.methods.base import Hard, Method
from experiments.models.networks import multiply_adds
from experiments.runs.accuracy_curve import Curve
from experiments.tasks.tasks import Shift, Task
from experiments.training import checkpoint, teachers
from experiments.training import distributed as processes
from experiments.training.accuracy import accuracies, accuracy
from experiments.training.interrupts import Stop
from experiments.training.loggers import Loggers
from experiments.training.loop import Training, synchronize
from hard_aug import HardAugmenter
from hard_aug.data import ImageSet, Splits
from hard_aug.evaluation.network_evaluations import TWO_VIEWS, count_policy_updates
from hard_aug.viz import PolicyHistory
from hard_aug.viz.policy import DRAWS

logger = logging.getLogger(__name__)
#: Added to the seed of networks outside the search: a teacher that serves as a judge, a second student.
OTHER_SEED = 1000
#: The student `hard` as configured.
HARD = StudentSpec("hard", "hard", row="hard")


class Experiment:
    """The teacher, the students and their results for one configuration.

    Args:
        config: the composed configuration.
        splits: the data, on the device.
        folder: the run's folder.
        progress: a running progress bar.
        stop: checked after each step; on a stop the state is saved and KeyboardInterrupt raised.

    Raises:
        ValueError: a setting is invalid, or does not match the data.
    """

    def __init__(self, config: DictConfig, splits: Splits, folder: Path, progress: Progress, stop: Stop) -> None:
        check_numbers(config)
        self.config, self.splits, self.folder, self.progress, self.stop = config, splits, folder, progress, stop
        self.settings = trainer_settings(config)
        processes.check_batch_size(config.batch_size, self.settings)
        if self.settings.precision != "no" and processes.accelerator() is None:
            raise ValueError(
                f"trainer.precision={self.settings.precision}: expected no outside processes.distributed_training, "
                "which experiments.train uses"
            )
        self.device = splits.train.device
        self.shape = splits.train.shape
        if self.shape[1] != self.shape[2]:
            raise ValueError(f"images of {self.shape[1]} x {self.shape[2]}: expected square images; set data.canvas")
        self.size = int(self.shape[-1])
        try:
            self.task: Task = instantiate(config.task)
        except InstantiationException as error:
            raise ValueError(str(error.__cause__ or error)) from error
        self.sets = self.task.sets(splits.test) | ood.load_sets(config.get("ood"), splits)
        self.validation: ImageSet = self.task.sets(splits.validation)[self.task.main]
        self.specs = jobs.student_specs(config)
        if any(spec.method == "oracle" for spec in self.specs):
            self.task.oracle(self.size)  # a task without an oracle raises before hours of training
        self.identity = run_identity(config)
        self.path = folder / "checkpoint.pt"
        if not config.resume and processes.rank() == 0:
            self.path.unlink(missing_ok=True)
        processes.barrier()
        self.state = checkpoint.load(self.path, self.identity)
        self.teacher, self.teacher_metrics = self._make_teacher()
        for spec in self.specs:  # invalid settings of any student raise before the first one is trained
            if spec.method == "generated":
                builders_mixed.check_generated(self, spec)
            else:
                self._steps(builders.build(self, spec, self.student()))

    def _model(self, node: DictConfig, *, own_classes: bool = False) -> nn.Module:
        values = {"size": self.size, "channels": self.shape[0], "classes": len(self.splits.classes)}
        if own_classes:
            del values["classes"]
        accepted = inspect.signature(get_object(node._target_)).parameters
        return instantiate(node, **{key: value for key, value in values.items() if key in accepted})

    def other_teacher(self) -> nn.Module:
        """Return a teacher trained with the same settings and another seed, which judges images made with this one.

        Raises:
            ValueError: the teacher is pretrained, so there is no second one.
        """
        if self.config.teacher.steps == 0:
            raise ValueError(
                "a judge is a second teacher, trained like the first with another seed, and teacher.steps=0 trains "
                "none; turn it off: generation.judge=false, failure_metrics.judge=false"
            )
        return self._trained_teacher(self.config.seed + OTHER_SEED)[0]

    def other_student(self, spec: StudentSpec) -> nn.Module:
        """Return a student trained with the same settings, another initialisation and another batch order.

        Args:
            spec: the student whose settings are used.
        """
        other = replace(spec, name=f"{spec.name}_other_seed", seed=OTHER_SEED)
        self.train(other)
        student = self.student()
        student.load_state_dict(self.state["finished"][other.name]["model"])
        return student.eval()

    def _make_teacher(self) -> tuple[nn.Module, dict[str, Any]]:
        started = time.perf_counter()
        teacher, cached = self._trained_teacher(self.config.seed)
        self._check_classes(teacher)
        metrics: dict[str, Any] = accuracies(teacher, self.sets)
        metrics |= {"seconds": round(time.perf_counter() - started, 2), "cached": cached}
        return teacher, metrics | {"multiply_adds": multiply_adds(teacher, self.shape)}

    def _check_classes(self, teacher: nn.Module) -> None:
        with torch.no_grad():
            found = teacher(torch.zeros(1, *self.shape, device=self.device)).shape[1]
        if found != len(self.splits.classes):
            raise ValueError(
                f"the teacher has {found} classes and {self.config.data.name} has {len(self.splits.classes)}; "
                "use a teacher of this data, or train its head with teacher.steps=2000"
            )

    def _trained_teacher(self, seed: int) -> tuple[nn.Module, bool]:
        node = self.config.teacher
        task = {} if isinstance(self.task, Shift) else {"task": self.identity["task"]}
        train, data = teachers.training_set(self.config, self.splits, self.identity["data"])
        recipe = {key: value for key, value in self.identity["teacher"].items() if key != "fraction"}
        return teachers.train_or_load(
            lambda: self._model(node.model, own_classes=node.steps == 0),
            train,
            config={"teacher": recipe, "data": data, "seed": seed, **task},
            cache=Path(self.config.teacher_cache),
            progress=self.progress,
            steps=node.steps,
            batch_size=node.batch_size,
            learning_rate=node.learning_rate,
            augment=self.task.teacher_views,
            seed=seed,
            stop=self.stop,
            every=self.config.checkpoint_every,
        )

    def student(self, seed: int = 0) -> nn.Module:
        """Return an untrained student with the same initialisation for every training method.

        Args:
            seed: added to the run's seed.
        """
        torch.manual_seed(self.config.seed + seed + 1)
        return self._model(self.config.student).to(self.device)

    def augmenter(self, student: nn.Module, spec: StudentSpec = HARD) -> HardAugmenter:
        """Return the HardAugmenter of the configuration, or of a trial.

        Args:
            student: the network.
            spec: the trial; default: as configured.
        """
        arguments = builders.augmenter_arguments(jobs.resolve_config(self.config, spec), self.shape[0])
        return HardAugmenter(teacher=self.teacher, student=student, seed=self.config.seed, **arguments)

    def _steps(self, method: Method) -> int:
        """Return a student's number of steps: `steps`, or the number that costs as much as `steps` on two views."""
        if has_nfe_budget(self.config):
            return max(1, round(self.config.steps * TWO_VIEWS / method.planned_evaluations))
        return int(self.config.steps)

    def _history_images(self, augmenter: HardAugmenter) -> Tensor | None:
        """Return the images for which the policy's distribution is recorded; None for an unconditional policy."""
        shown = self.splits.validation[slice(0, DRAWS)]
        return shown.materialize().images if augmenter.policy.is_conditional else None

    def train(self, spec: StudentSpec) -> None:
        """Train one student, resuming if it was interrupted, and store the result in the checkpoint.

        Args:
            spec: the student; nothing happens if it is finished.

        Raises:
            KeyboardInterrupt: a stop was requested; the state is saved.
        """
        if spec.name in self.state["finished"]:
            return
        student = self.student(spec.seed)
        network = processes.prepare_model(student)
        method = builders.build(self, spec, network)
        training = Training(
            network,
            self.splits.train,
            steps=self._steps(method),
            batch_size=self.config.batch_size,
            learning_rate=spec.setting("student_learning_rate", self.config.learning_rate),
            seed=self.config.seed + spec.seed,
            batches=method.batches,
            settings=self.settings,
            accelerator=processes.accelerator(),
            memory_advice=f"lower batch_size={self.config.batch_size}, raise trainer.accumulate="
            f"{self.settings.accumulate}, or set trainer.precision=bf16 (it is {self.settings.precision})",
        )
        history = PolicyHistory(method.augmenter.transform.spec) if isinstance(method, Hard) else None
        curve = Curve(
            self.config.get("eval_every"), steps=training.steps, batch_size=self.config.batch_size, sets=self.sets
        )
        seconds, consistency = 0.0, []
        current = self.state["current"]
        if current is not None and current["name"] == spec.name:
            training.load_state_dict(current["training"])
            method.load_state_dict(current["method"])
            seconds, consistency = current["seconds"], current["teacher_consistency"]
            curve.points = current.get("curve", [])
            logger.info("student %s: resuming from step %d of %d", spec.name, training.step, training.steps)
            if history is not None:
                history.load_state_dict(current["history"])
        elif history is not None and isinstance(method, Hard):
            history.record(0, method.augmenter, self._history_images(method.augmenter))

        def snapshot() -> dict[str, Any]:
            return {
                "name": spec.name,
                "training": training.state_dict(),
                "method": method.state_dict(),
                "history": None if history is None else history.state_dict(),
                "seconds": seconds,
                "teacher_consistency": consistency,
                "curve": curve.points,
            }

        bar = self.progress.add_task(f"student {spec.name}", total=training.steps, completed=training.step, note="")
        writes = processes.rank() == 0
        loggers = Loggers(self.config.get("logger") if writes else None, self.folder, spec.name, training.step)
        started = time.perf_counter()
        try:
            for loss in training.run(method.loss, method.after_step):
                logs = training.step % self.config.log_every == 0 or training.step == training.steps
                if logs or curve.is_due(training.step):
                    synchronize(self.device)
                seconds += time.perf_counter() - started  # the rest of the loop's body is not training time
                stop = processes.any_process(self.stop.requested)
                curve.record(training.step, seconds, method, training.final_model)
                if logs:
                    scalars = processes.all_reduce_mean({"loss": float(loss), **method.scalars()})
                    if "teacher_consistency" in scalars:
                        consistency.append(scalars["teacher_consistency"])
                    if history is not None and isinstance(method, Hard):
                        history.record(training.step, method.augmenter, self._history_images(method.augmenter))
                        scalars |= history.scalars()
                    loggers.scalars(training.step, scalars)
                    self.progress.update(bar, completed=training.step, note=f"loss {scalars['loss']:.3f}")
                if stop or training.step % self.config.checkpoint_every == 0:
                    self.state["current"] = snapshot()
                    self._save()
                if stop:
                    raise KeyboardInterrupt
                started = time.perf_counter()
        finally:
            loggers.close()
        processes.broadcast_buffers(student)
        metrics: dict[str, Any] = accuracies(student, self.sets) | self._validation_metrics(student)
        metrics["seconds"], metrics["steps"] = round(seconds, 2), training.steps
        metrics["evaluations"] = round(method.evaluations(training.steps * self.config.batch_size))
        if isinstance(method, Hard):
            metrics["policy_updates"] = count_policy_updates(method.augmenter)
        if curve.points:
            metrics["curve"] = curve.points
        if consistency:  # over the second half of the training
            second_half = consistency[len(consistency) // 2 :]
            metrics["teacher_consistency"] = round(sum(second_half) / len(second_half), 4)
        if spec.method == "random":
            metrics["scale"] = spec.scale
        self.state["finished"][spec.name] = {
            "metrics": metrics,
            "model": student.state_dict(),
            "method": method.state_dict(),
            "history": None if history is None else history.state_dict(),
        }
        self.state["current"] = None
        self._save()

    def _save(self) -> None:
        """Save the state, which is the same in all processes; rank 0 writes it before any process continues."""
        if processes.rank() == 0:
            checkpoint.save(self.path, self.state)
        processes.barrier()

    def _validation_metrics(self, student: nn.Module) -> dict[str, Any]:
        """Return the accuracies on clean validation images and on the main set's kind, and the one selected by."""
        clean, main = accuracy(student, self.splits.validation), accuracy(student, self.validation)
        value = {"clean": clean, "main": main, "sum": (clean + main) / 2}[self.config.get("select_on", "main")]
        return {
            VALIDATION: round(value, 5),
            "validation_sets": {"clean": round(clean, 5), self.task.main: round(main, 5)},
        }

    def _metrics(self) -> dict[str, dict[str, Any]]:
        return {spec.name: self.state["finished"][spec.name]["metrics"] for spec in self.specs}

    def best_spec(self, row: str) -> StudentSpec | None:
        """Return the student of a row with the highest validation accuracy, or None if none is finished."""
        finished = {name: result["metrics"] for name, result in self.state["finished"].items()}
        members = [spec for spec in self.specs if spec.row == row and spec.name in finished]
        return jobs.select_best(members, finished) if members else None

    def best_result(self, row: str) -> dict[str, Any]:
        """Return the stored result of the best student of a row: metrics, weights, method state, policy history.

        Raises:
            ValueError: no student of this row is finished.
        """
        spec = self.best_spec(row)
        if spec is None:
            raise ValueError(f"no student {row} is finished")
        return self.state["finished"][spec.name]

    def trials(self) -> dict[str, list[dict[str, Any]]]:
        """Return all trials by row, with settings and metrics."""
        return jobs.trials_by_row(self.specs, self._metrics())

    def results(self) -> dict[str, dict[str, Any]]:
        """Return the metrics by row; `random_tuned` is the fraction of the ranges with the best validation accuracy."""
        metrics = self._metrics()
        rows = jobs.results_by_row(self.specs, metrics)
        if self.config.tune_random:
            candidates = [spec for spec in self.specs if spec.method == "random"]
            best = jobs.select_best(candidates, metrics)
            rows["random_tuned"] = {**metrics[best.name], "trials": len(candidates)}
        return rows
