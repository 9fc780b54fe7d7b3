"""Covariate shift by a spurious background: `python -m experiments.spurious.experiment [key=value ...]`.

ConfiG-style (arXiv:2506.02294), with real items on painted backgrounds (`experiments.data.backgrounds`): in the student's
training data all images of a class are on one background and every other group is absent; the teacher is robust
because it is trained on all groups. The student is first distilled on those images, which makes it biased; each method
continues from there, with the same number of steps on the same number of images.

| method | second view of a step |
|---|---|
| `kd` | other clean images |
| `cutmix` | CutMix |
| `jitter` | random colours within the ranges of `color` |
| `color` | `HardAugmenter` with `Color`, which is given the spurious feature |
| `vae_random` | random edits of latents within the ranges of `vae` |
| `vae` | `HardAugmenter` with `VAELatent` |
| `unguided` | a pool of samples of the diffusion model |
| `best_of_n` | such a pool, with the best of N samples by the score of `diffusion`, N for equal network evaluations |
| `best_of_n_away` | the same, with the student's confidence in the true class alone as its part of the score |
| `diffusion` | such a pool, guided to where the teacher is confident and the student predicts a wrong class |

Training is in rounds. In each, the pools grow by some images generated against the current student.

No method uses group labels, and nothing is selected by test groups. Files in the run's folder: `metrics.json`,
`views.png` (real images, and each method's views of the same classes) and `checkpoint.pt`. Ctrl-C stops at the end of a
step; the same command resumes.
"""

from __future__ import annotations

import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torchvision.utils import save_image

from experiments.methods.base import Distillation, Hard, Method, RandomViews
from experiments.methods.mixup_cutmix import CutMixed
from experiments.models.networks import ConvTeacher
from experiments.models.pretrained_generative import autoencoder
from experiments.runs.failure_metrics import finite_failure_metrics
from experiments.spurious.factory import BUILDERS, POOLED, add_images, check_methods
from experiments.spurious.pool_method import Pool
from experiments.spurious.pools import Pools, parse_name
from experiments.tasks.random_views import random_views
from experiments.train import choose_device, device_name
from experiments.training import checkpoint, teachers
from experiments.training.accuracy import accuracy
from experiments.training.allocator import keep_freed_memory
from experiments.training.fit import Trainer
from experiments.training.interrupts import Stop, defer_signals, exit_on_interrupt
from experiments.training.loop import progress_bar
from hard_aug.data import Grouped, GroupedSplits
from hard_aug.evaluation import group_accuracies
from hard_aug.generative import latent_directions
from hard_aug.transforms import Color, Transform, VAELatent
from hard_aug.utils import disk

logger = logging.getLogger(__name__)
#: Keys on which no stored result depends: results of `methods` are stored by name.
EXCLUDED_KEYS = ("threads", "device", "resume", "checkpoint_every", "teacher_cache", "methods")
#: Seed of the judge and of the second student, which are not part of any search.
OTHER_SEED = 1000
#: Number of images whose failure metrics are computed.
MEASURED = 500
#: Accuracies of each network; the last is on the groups that are absent in training.
MEASURES = ("worst_group", "mean_group", "in_distribution", "absent_groups")


def spurious_identity(config: DictConfig) -> dict[str, Any]:
    """Return all settings that the results depend on."""
    return checkpoint.config_identity(config, EXCLUDED_KEYS)


class SpuriousExperiment:
    """The networks, methods and results of one seed.

    Args:
        config: the composed configuration.
        splits: the student's data, on the device.
        folder: folder of the run.
        progress: a running progress bar.
        stop: checked after each step.

    Raises:
        ValueError: a method or setting is invalid.
        FileNotFoundError: the generative models of a method do not exist.
    """

    def __init__(self, config: DictConfig, splits: GroupedSplits, folder: Path, progress: Progress, stop: Stop) -> None:
        check_methods(config.methods)
        if not 0 <= config.min_uniform_fraction <= 0.95:
            raise ValueError(f"min_uniform_fraction={config.min_uniform_fraction}: expected a fraction in [0, 0.95]")
        if config.data.rare:
            raise ValueError(
                f"data.rare={config.data.rare}: the student's data must not contain all groups; expected 0"
            )
        self.config, self.splits, self.folder, self.progress, self.stop = config, splits, folder, progress, stop
        self.device = splits.train.images.device
        self.trainer = Trainer(
            folder / "checkpoint.pt",
            spurious_identity(config),
            progress,
            stop,
            resume=config.resume,
            every=config.checkpoint_every,
        )
        everything = instantiate(config.data, rare=1 - 1 / config.data.families, seed=config.data.seed + OTHER_SEED).to(
            self.device
        )
        self.teacher = self._classifier(everything, config.seed)
        self.judge = self._classifier(everything, OTHER_SEED)
        self.seconds: dict[str, float] = {}
        self.student = self._biased("student", config.seed)
        self.other_student = self._biased("other student", config.seed + OTHER_SEED)
        self.pools = Pools(
            config.generation,
            config.models,
            self.trainer,
            teacher=self.teacher,
            rounds=config.continued.rounds,
            classes=len(splits.classes),
            seed=config.seed,
        )
        for name in config.methods:  # raises before hours of work
            if parse_name(name)[1] is not None:
                self.pools.folder(parse_name(name)[1])

    def _network(self, width: int) -> nn.Module:
        channels, size = self.splits.train.images.shape[1], self.splits.train.images.shape[-1]
        return ConvTeacher(channels=channels, classes=len(self.splits.classes), width=width, size=size).to(
            self.device, memory_format=torch.channels_last
        )

    def _classifier(self, everything: GroupedSplits, seed: int) -> nn.Module:
        settings, data = self.config.teacher, spurious_identity(self.config)["data"]
        model, _ = teachers.train_or_load(
            lambda: self._network(settings.width),
            everything.train,
            config={"robust": OmegaConf.to_container(settings), "data": data, "seed": seed},
            cache=Path(self.config.teacher_cache),
            progress=self.progress,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            augment=lambda images, generator: images,
            seed=seed,
            stop=self.stop,
        )
        return model

    def _biased(self, name: str, seed: int) -> nn.Module:
        torch.manual_seed(seed + 1)
        student = self._network(self.config.student.width)
        method = Distillation(self.teacher, student, temperature=self.config.temperature)
        took = self.trainer.train(name, student, self.splits.train, self.config.student, method.loss, seed=seed)
        self.seconds[name] = took["seconds"]
        return student.eval()

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Return accuracies on the test groups, and on test images of the groups of the training data."""
        test: Grouped = self.splits.test
        present = torch.isin(test.group, self.splits.train.group.unique())
        found = group_accuracies(model, test)
        return {
            "worst_group": round(found["worst_group"], 4),
            "worst_group_name": found["worst_group_name"],
            "mean_group": round(found["mean_group"], 4),
            "in_distribution": round(accuracy(model, test[present.nonzero().flatten()]), 4),
            "absent_groups": round(accuracy(model, test[(~present).nonzero().flatten()]), 4),
            "groups": {name: round(value, 4) for name, value in found["groups"].items()},
        }

    def transform(self, name: str) -> Transform:
        """Return the transform of a method that edits real images."""
        kind, models = parse_name(name)
        if kind in ("color", "jitter"):
            return Color(**self.config.color)
        model = autoencoder(str(self.pools.folder(models)), device=str(self.device))
        settings: dict[str, Any] = dict(self.config.vae)
        count, images = settings.pop("directions"), settings.pop("direction_images")
        directions = latent_directions(model, self.splits.train.images[:images], count)
        return VAELatent(model, directions=directions, **settings)

    def method(self, name: str, student: nn.Module) -> Method:
        """Build a training method.

        Args:
            name: name of the method.
            student: network to be trained.
        """
        return BUILDERS[parse_name(name)[0]](self, name, student)

    def train(self, name: str) -> dict[str, Any]:
        """Train one student, starting from the biased one, and measure it."""
        student = self._network(self.config.student.width)
        student.load_state_dict(self.student.state_dict())
        method, seconds, logged = self.method(name, student), 0.0, {}
        for turn in range(self.config.continued.rounds):
            if parse_name(name)[0] in POOLED and isinstance(method, Pool):
                add_images(self, name, method, turn)
            key = f"{name} {turn}"
            took = self.trainer.train(
                key,
                student,
                self.splits.train,
                self.config.continued,
                method.loss,
                seed=self.config.seed + turn * OTHER_SEED,
                after_step=method.after_step,
                extra=method,
                log=lambda step: method.scalars(),
            )
            method.load_state_dict(self.trainer.finished(key)["extra"])
            seconds, logged = seconds + took["seconds"], took["log"]
        return {**self.measure(student), "seconds": round(seconds, 1), **logged}

    def views(self, name: str, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return a finished method's second views of images; None if it has none.

        Args:
            name: name of the method.
            images: `(B, C, H, W)` in [0, 1].
            labels: `(B,)`.
        """
        kind, _ = parse_name(name)
        if kind in POOLED:
            pool, rows = self.pools.generate_or_load(name, 0, self.student), []
            for row, label in enumerate(labels.cpu()):
                accepted = pool["images"][(pool["labels"] == label) & pool["accepted"]]
                number = int((labels[:row] == label).sum())
                rows.append(accepted[number] if number < len(accepted) else torch.zeros_like(pool["images"][0]))
            return torch.stack(rows).to(self.device).float() / 255
        if kind == "kd":
            return None
        student = self._network(self.config.student.width)
        state = self.trainer.finished(f"{name} {self.config.continued.rounds - 1}")
        student.load_state_dict(self.student.state_dict() if state is None else state["model"])
        method = self.method(name, student)
        if isinstance(method, Hard):
            if state is not None:
                method.load_state_dict(state["extra"])
            return method.augmenter(images, labels).images.detach()
        if isinstance(method, RandomViews):
            return random_views(method.transform, images, torch.Generator().manual_seed(self.config.seed))
        return method.second_view(images, labels) if isinstance(method, CutMixed) else None

    def failure_metrics(self, name: str) -> dict[str, float]:
        """Compute the failure metrics of a method's views, compared with the images that they are views of.

        `transfer` to another student is measured for images generated against `self.student`, and for random edits; a
        learned policy was trained with its own student.
        """
        networks: dict[str, nn.Module] = {"judge": self.judge}
        if parse_name(name)[0] not in ("color", "vae"):
            networks["other_student"] = self.other_student
        if parse_name(name)[0] in POOLED:
            return self.pools.failure_metrics(name, self.student, **networks)
        shown = self.splits.train[slice(0, MEASURED)]
        views = self.views(name, shown.images, shown.labels)
        if views is None or name == "cutmix":  # its images have no single class
            return {}
        networks |= {"teacher": self.teacher, "student": self.student}
        return finite_failure_metrics(views, shown.images, shown.labels, **networks)

    def draw(self) -> None:
        """Write `views.png`: a row of real images, and one of each method's views of the same classes."""
        count = len(self.splits.classes)
        rows = [int((self.splits.train.labels == label).nonzero()[0]) for label in range(count)]
        shown = self.splits.train[torch.tensor(rows * 2, device=self.device)]
        views = [self.views(name, shown.images, shown.labels) for name in self.config.methods]
        pictures = [shown.images, *(images for images in views if images is not None)]
        save_image(torch.cat(pictures), self.folder / "views.png", nrow=2 * count)

    def run(self) -> dict[str, Any]:
        """Train and measure all methods; return the content of `metrics.json`."""
        results: dict[str, Any] = {}
        for name in self.config.methods:
            results[name] = self.train(name)
            results[name]["pool"] = self.failure_metrics(name)
            if parse_name(name)[0] in POOLED:
                rounds = range(self.config.continued.rounds)
                numbers = [self.pools.generate_or_load(name, turn, self.student)["numbers"] for turn in rounds]
                results[name]["pool"] |= {key: fmean(part[key] for part in numbers) for key in numbers[0]}
                seconds = results[name]["pool"]["seconds_per_image"] * self.config.generation.images
                results[name]["generation_seconds"] = round(seconds, 1)
        found = {"biased": self.measure(self.student) | {"seconds": self.seconds["student"]}, **results}
        teacher = self.measure(self.teacher)
        gap = teacher["worst_group"] - found.get("kd", found["biased"])["worst_group"]
        return {
            "teacher": teacher,
            "students": found,
            "sets": list(MEASURES),
            "main": "worst_group",
            "gap": round(gap, 4),
            "size": self.splits.train.images.shape[-1],
            "train_counts": self.splits.train.counts(),
            "seed": self.config.seed,
        }


def table(metrics: dict[str, Any]) -> Table:
    """Return a table of accuracies in per cent, and of how much of KD's worst-group gap to the teacher is closed."""
    drawn = Table("", *(name.replace("_", " ") for name in MEASURES), "gap closed", "seconds")
    for column in drawn.columns[1:]:
        column.justify = "right"
    plain = metrics["students"].get("kd", metrics["students"]["biased"])["worst_group"]
    for name, found in {"teacher": metrics["teacher"], **metrics["students"]}.items():
        closed = (found["worst_group"] - plain) / metrics["gap"] if metrics["gap"] > 0 else 0.0
        drawn.add_row(
            name,
            *(f"{100 * found[key]:.1f}" for key in MEASURES),
            f"{100 * closed:.0f} %",
            f"{found['seconds']:.0f}" if "seconds" in found else "",
        )
    return drawn


def write_metrics(metrics: dict[str, Any], config: DictConfig, device: torch.device, folder: Path) -> None:
    """Write `metrics.json` in the format that `experiments.report` reads.

    Args:
        metrics: results of `SpuriousExperiment.run`, to which the configuration and versions are added.
        config: the composed configuration.
        device: device of the run.
        folder: folder of the run.
    """
    metrics |= {
        "config": {
            **spurious_identity(config),
            "methods": list(config.methods),
            "task": {"name": "images of all groups"},  # experiments.report describes the teacher with it
            "steps": config.continued.steps,
        },
        "device": device_name(device),
        "versions": {name: version(name) for name in ("hard_aug", "torch", "diffusers", "kornia", "numpy")},
        "machine": platform.machine(),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


@hydra.main(version_base="1.3", config_path="conf", config_name="spurious")
def main(config: DictConfig) -> float:
    """Run from the command line; return the last method's worst-group accuracy, for sweepers."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    device = choose_device(config.device)
    splits = instantiate(config.data).to(device)
    with exit_on_interrupt(folder), disk.explain_disk_full(folder), defer_signals() as stop, progress_bar() as progress:
        experiment = SpuriousExperiment(config, splits, folder, progress, stop)
        metrics = experiment.run()
        write_metrics(metrics, config, device, folder)
        experiment.draw()
    console = Console(width=130)
    console.print(table(metrics))
    console.print(f"{folder}/metrics.json, views.png", soft_wrap=True, markup=False)
    return float(list(metrics["students"].values())[-1]["worst_group"])


if __name__ == "__main__":
    main()
