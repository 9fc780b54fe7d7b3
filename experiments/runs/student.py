"""One run: a teacher, trained or loaded, and one student, trained with one method.

A run's folder contains `config.yaml`, `metrics.json` (the record that `experiments.report` reads), `student.pt`, and
while it trains `checkpoint.pt`.
"""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.configuration.checks import check_config
from experiments.configuration.devices import choose_device, device_name
from experiments.configuration.identity import group_identity, resolved, run_identity
from experiments.data import Batches
from experiments.methods import Hard, Method
from experiments.methods.factory import build_method
from experiments.runs.failure_metrics import view_failure_metrics
from experiments.runs.train_log import TrainLog
from experiments.training import checkpoint, distributed
from experiments.training.accuracy import accuracy
from experiments.training.allocator import keep_freed_memory
from experiments.training.files import CONFIG, RECORD, STUDENT, read_json, write_json
from experiments.training.fit import Fitted, fit
from experiments.training.interrupts import defer_signals
from experiments.training.progress import Progress
from experiments.training.settings import TrainerSettings
from experiments.training.setup import OTHER_SEED, Setup
from experiments.training.trackers import tracker_classes
from hard_aug.data import ImageSet
from hard_aug.evaluation.network_evaluations import TWO_VIEWS, count_policy_updates
from hard_aug.utils.files import write_text

logger = logging.getLogger(__name__)
PACKAGES = ("hard_aug", "torch", "torchvision", "kornia", "numpy", "hydra-core")


def run(
    config: DictConfig,
    folder: Path,
    *,
    base: DictConfig | None = None,
    settings: Sequence[str] = (),
    trials: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train one student and return its record; a finished run is not repeated.

    Args:
        config: the composed configuration.
        folder: of the run's results.
        base: the configuration without the settings of the trial; None: `config`.
        settings: the overrides of the trial.
        trials: number of trials that the settings were selected from.
        quiet: no progress display.

    Raises:
        ValueError: an invalid setting, or a folder with another configuration.
        KeyboardInterrupt: a stop was requested; the same call resumes.
    """
    check_config(config)
    identity = run_identity(config)
    found = finished(folder, identity) if config.resume else None
    if found is not None:
        logger.info("%s is finished", folder)
        return found
    device, trainer = choose_device(config.device), TrainerSettings(**config.trainer)
    with distributed.distributed_training(trainer, device) as accelerator:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        device = accelerator.device if distributed.world_size() > 1 else device
        with distributed.main_process_first():  # rank 0 downloads
            splits = instantiate(config.data).to(device)
        main = distributed.rank() == 0
        if main:
            _prepare(folder, config, identity)
        distributed.barrier()
        with defer_signals() as stop, Progress(quiet=quiet or not main) as progress:
            setup = Setup(config, splits, progress, stop)
            record = StudentRun(setup, folder, identity, trainer, accelerator).train()
            if distributed.any_process(stop.requested):  # a stop requested after the last step
                raise KeyboardInterrupt
        record = {
            "method": config.method.name,
            "settings": list(settings),
            "trials": trials,
            "seed": config.seed,
            **record,
            "device": device_name(device),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "config": identity,
            "group": group_identity(base or config),
            "row": resolved((base or config).method),
        }
        if main:
            write_json(folder / RECORD, record)
            (folder / "checkpoint.pt").unlink(missing_ok=True)
    return record


def finished(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a finished run, or None.

    Args:
        folder: of the run.
        identity: of the configuration.

    Raises:
        ValueError: the record is not valid, or of another configuration.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    advice = "remove it, or start the run anew with resume=false"
    found = read_json(path, advice=advice)
    if not isinstance(found.get("config"), dict):
        raise ValueError(f"{path} is no record of a run: it has no configuration; {advice}")
    checkpoint.check_same(path, found["config"], json.loads(json.dumps(identity)))
    return found


def _prepare(folder: Path, config: DictConfig, identity: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if config.resume:
        checkpoint.load(folder / "checkpoint.pt", identity)  # raises if it is of another configuration
    else:
        for name in (RECORD, STUDENT, "checkpoint.pt", "other.pt"):
            (folder / name).unlink(missing_ok=True)
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    write_text(folder / CONFIG, OmegaConf.to_yaml(kept))


class StudentRun:
    """The training and evaluation of one student.

    Args:
        setup: data, task and networks.
        folder: of the run.
        identity: of the run, saved with its checkpoint and weights.
        trainer: precision, micro-batches and weight average.
        accelerator: of `distributed_training`.
    """

    def __init__(
        self, setup: Setup, folder: Path, identity: dict[str, Any], trainer: TrainerSettings, accelerator: Any
    ) -> None:
        self.setup, self.folder, self.trainer, self.accelerator = setup, folder, trainer, accelerator
        self.config, self.identity = setup.config, identity
        count = len(setup.splits.train)
        self.batch_size = min(int(self.config.batch_size), count)
        if self.batch_size < self.config.batch_size:
            self.batch_size -= self.batch_size % (distributed.world_size() * trainer.accumulate)
            text = "student: batch_size=%d lowered to %d: there are %d training images"
            logger.info(text, self.config.batch_size, self.batch_size, count)
        distributed.check_batch_size(self.batch_size, trainer)
        tracker_classes(list(self.config.logger), folder)

    def train(self) -> dict[str, Any]:
        """Train the student, write `student.pt` and the figures, and return the record of the training."""
        setup = self.setup
        self._check_method()
        teacher, teacher_record = setup.teacher_record()
        student, method, log, fitted = self._fit(teacher, "checkpoint.pt", setup.student(teacher))
        record: dict[str, Any] = {
            "accuracy": setup.evaluate(student),
            "validation": {
                "clean": round(accuracy(student, setup.splits.validation), 5),
                "main": round(accuracy(student, setup.validation), 5),
            },
            "seconds": round(fitted.seconds, 2),
            "steps": self._steps(method),
            "batch_size": self.batch_size,
            "evaluations": round(method.evaluations(self._steps(method) * self.batch_size)),
            **log.record(),
        }
        found: dict[str, Any] = {"student": record, "teacher": teacher_record, "sets": list(record["accuracy"])}
        found |= {"main": setup.task.main, "size": setup.shape[-1], "test_images": len(setup.splits.test)}
        if setup.task.held_out_corruptions:
            found["held_out_corruptions"] = list(setup.task.held_out_corruptions)
        if isinstance(method, Hard):
            record["policy_updates"] = count_policy_updates(method.augmenter)
            found["policy"] = log.learned_distribution()
            shown = setup.splits.validation[slice(0, 256)].materialize().images
            summary = method.augmenter.summary(shown).to_dict()
            # Running means start anew in a resumed run; the rate of kept predictions is `teacher_consistency`.
            found["summary"] = {name: value for name, value in summary.items() if name not in ("kept", "disagreement")}
        if distributed.rank() == 0:  # before further images are drawn, which changes the method's state
            state = {
                "model": student.state_dict(),
                "method": method.state_dict(),
                "history": log.state_dict()["history"],
            }
            checkpoint.save(self.folder / STUDENT, {"config": self.identity, **state})
        if metrics := method.failure_metrics or self._failure_metrics(teacher, student, method):
            found["failure_metrics"] = metrics
        log.draw(self.folder)
        return found

    def _check_method(self) -> None:
        """Build the method with untrained networks: invalid settings raise before hours of training."""
        setup = replace(self.setup, untrained=True)
        teacher, _ = setup.teacher()
        self._steps(build_method(self.config.method, setup, teacher, setup.student(teacher)))

    def _fit(
        self, teacher: nn.Module, name: str, student: nn.Module, *, other: bool = False
    ) -> tuple[nn.Module, Method, TrainLog, Fitted]:
        setup, config = self.setup, self.config
        network = distributed.prepare_model(student)
        method = build_method(config.method, setup, teacher, network)
        batches = method.batches or Batches(setup.splits.train, self.batch_size, config.seed + (OTHER_SEED * other))
        log = TrainLog(
            method,
            student,
            setup,
            None if other else self.folder,
            steps=self._steps(method),
            batch_size=self.batch_size,
        )
        log.start()
        try:
            fitted = fit(
                f"student {config.method.name}" + (" (other seed)" if other else ""),
                network,
                method.loss,
                batches,
                steps=self._steps(method),
                learning_rate=config.learning_rate,
                seed=config.seed + OTHER_SEED * other,
                path=self.folder / name,
                identity=self.identity,
                progress=setup.progress,
                stop=setup.stop,
                every=config.checkpoint_every,
                log_every=math.gcd(config.log_every, config.eval_every or 0),
                settings=self.trainer,
                accelerator=self.accelerator,
                parts={"method": method, "log": log},
                after_step=method.after_step,
                on_log=log.update,
                memory_advice=f"lower batch_size={self.batch_size}, raise trainer.accumulate="
                f"{self.trainer.accumulate}, or set trainer.precision=bf16 (it is {self.trainer.precision})",
            )
        finally:
            log.close()
        distributed.broadcast_buffers(student)
        return student, method, log, fitted

    def _steps(self, method: Method) -> int:
        """Return the number of steps: `steps`, or the number that costs as much as `steps` on two views."""
        if self.config.budget == "nfe":
            wanted = self.config.steps * TWO_VIEWS - method.fixed_evaluations / self.batch_size
            return max(1, round(wanted / method.planned_evaluations))
        return int(self.config.steps)

    def _failure_metrics(self, teacher: nn.Module, student: nn.Module, method: Method) -> dict[str, float]:
        wanted, setup = self.config.failure_metrics, self.setup
        if not (wanted.judge or wanted.other_student):
            return {}
        judge = setup.teacher(other=True)[0] if wanted.judge else None
        other = None
        if wanted.other_student:
            other = self._fit(teacher, "other.pt", setup.student(teacher, other=True), other=True)[0].eval()
            (self.folder / "other.pt").unlink(missing_ok=True)
        shown: ImageSet = setup.splits.test[slice(0, 500)].materialize()
        return view_failure_metrics(method, shown, teacher=teacher, student=student, judge=judge, other_student=other)
